"""A Celery worker as a user of mlproducer would have it, which notes what it was given. Run by `test_celery_worker.py`,
with the newest Celery and, from a virtual environment of its own, with 5.4; so it imports nothing of ours.

Environment: `WORKER_BROKER` (URL), `WORKER_NOTES` (a file; one JSON line for each thing that happened).
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

import celery
from celery import Celery, bootsteps, signals
from celery.app import trace
from kombu.common import QoS
from kombu.entity import Exchange, Queue

QUEUES = ("ml.summarize", "ml.summarize_local", "ml.transcribe", "ml.transcribe_local", "ml.embed")
EXCHANGE = Exchange("ml.tasks", type="topic", durable=True)  # type: ignore[no-untyped-call]  # kombu is half typed
QUORUM = {"x-queue-type": "quorum", "x-delivery-limit": 5}


def _queue(name: str) -> Queue:
    return Queue(name, EXCHANGE, routing_key=name, queue_arguments=QUORUM)  # type: ignore[no-untyped-call]  # too


app = Celery("test_worker", broker=os.environ["WORKER_BROKER"])
app.conf.update(
    task_queues=[_queue(name) for name in QUEUES],
    task_default_queue=QUEUES[0],
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    accept_content=["json"],
    broker_connection_retry_on_startup=True,
    worker_enable_remote_control=False,
)


def note(what: str, **facts: object) -> None:
    """One line in one write to a file opened for appending, so that a reader never sees half of it. What JSON has no
    form for is noted as its `repr`, with its type.
    """
    handle = os.open(os.environ["WORKER_NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, json.dumps({"what": what, **facts}, default=repr).encode() + b"\n")
    finally:
        os.close(handle)


class PerConsumerPrefetch(bootsteps.StartStopStep):  # type: ignore[misc]  # celery ships no types
    """Celery 5.4 limits its prefetch for the whole channel, which quorum queues refuse (540 NOT_IMPLEMENTED).

    From 5.5 on Celery sees that the queues are quorum queues and does by itself what this step does for 5.4: it takes
    the limit of the channel away again, before the first consume, and sets one for each consumer.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, c: Any) -> None:
        channel = c.connection.default_channel
        channel.basic_qos(0, 0, True)
        channel.basic_qos(0, c.initial_prefetch_count, False)
        c.qos = QoS(  # type: ignore[no-untyped-call]  # kombu is half typed
            lambda prefetch_count: c.task_consumer.qos(prefetch_count=prefetch_count, apply_global=False),
            c.initial_prefetch_count,
        )


if celery.VERSION[:2] < (5, 5):
    app.steps["consumer"].add(PerConsumerPrefetch)


def _record(task: Any, read: object, **kwargs: object) -> None:
    """`read` is what the known worker's function would have worked on."""
    request = task.request
    note(
        "done",
        task=task.name,
        id=request.id,
        read=read,
        args=request.args,
        kwargs=kwargs,
        root_id=request.root_id,
        parent_id=request.parent_id,
        group=request.group,
        group_index=request.group_index,
        retries=request.retries,
        headers=request.headers,
        queue=request.delivery_info["routing_key"],
        priority=request.delivery_info["priority"],
        correlation_id=request.correlation_id,
        at=time.time(),
    )


# The signatures are those of the known workers: an argument too many, or one that is missing, fails the task.


def summarize_content(self: Any, share_id: str, content: dict[str, Any], options: dict[str, Any] | None = None) -> None:
    _record(self, content["text"], share_id=share_id, content=content, options=options)


def transcribe(self: Any, share_id: str, content: dict[str, Any], options: dict[str, Any] | None = None) -> None:
    _record(self, content["mediaUrl"], share_id=share_id, content=content, options=options)


def generate_embeddings(
    self: Any, share_id: str, content: dict[str, Any], options: dict[str, Any] | None = None
) -> None:
    _record(self, content["text"], share_id=share_id, content=content, options=options)


def generate_embeddings_batch(self: Any, tasks: list[dict[str, Any]]) -> None:
    _record(self, [each["content"]["text"] for each in tasks], tasks=tasks)


def summarize_video_combined(self: Any, task_data: dict[str, Any]) -> None:
    _record(self, task_data["payload"]["transcript"], task_data=task_data)


for _name, _work in {
    "llm_service.tasks.summarize_content": summarize_content,
    "llm_service.tasks.summarize_content_local": summarize_content,
    "whisper.tasks.transcribe_api": transcribe,
    "whisper.tasks.transcribe_local": transcribe,
    "vector_service.tasks.generate_embeddings": generate_embeddings,
    "vector_service.tasks.generate_embeddings_batch": generate_embeddings_batch,
    "summarize_video_combined": summarize_video_combined,
}.items():
    app.task(_work, bind=True, name=_name, shared=False)


def _ready(**_facts: object) -> None:
    note("ready", version=celery.__version__)


def _revoked(request: Any, expired: bool, **_facts: object) -> None:  # noqa: FBT001  # celery passes it by name
    note("revoked", id=request.id, expired=expired)


signals.worker_ready.connect(_ready)
signals.task_revoked.connect(_revoked)

# Many teams have their workers log the arguments; what is logged then is what must hold no content.
trace.LOG_RECEIVED = "received %(name)s[%(id)s] args=%(args)s kwargs=%(kwargs)s"
trace.LOG_SUCCESS = "finished %(name)s[%(id)s] args=%(args)s kwargs=%(kwargs)s"
