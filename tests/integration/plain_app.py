"""A plain Celery application: each queue on a direct exchange of its own, one as Celery makes queues, one a quorum queue
as Celery 5.5 and newer may be told to. Run by `test_both_orders.py`.
"""

from __future__ import annotations

import os
from typing import Any

from celery import Celery
from celery_app import _record  # type: ignore[import-not-found]  # beside it where the worker runs
from kombu.entity import Exchange, Queue

QUORUM = {"x-queue-type": "quorum"}


def _queue(name: str, arguments: dict[str, Any] | None = None) -> Queue:
    exchange = Exchange(name, type="direct")  # type: ignore[no-untyped-call]  # kombu is half typed
    return Queue(name, exchange, routing_key=name, queue_arguments=arguments)  # type: ignore[no-untyped-call]  # too


app = Celery("plain", broker=os.environ["WORKER_BROKER"])
app.conf.update(
    task_queues=[_queue("classic"), _queue("quorum", QUORUM)],
    task_default_queue="classic",
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
    worker_enable_remote_control=False,
)


def work(self: Any, number: int) -> None:
    _record(self, number, number=number)


app.task(work, bind=True, name="plain.work", shared=False)
