"""What workers hold, and the rates of queues: shown where the management API tells them, else left out and said why."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from engine_bench import Bench, bench, embed, until
from management_api import management_api
from mlproducer.core.facts import SeenQueue
from mlproducer.delivery.traffic import UNNAMED
from mlproducer.errors import SettingsError
from mlproducer.events import HealthChecked, TrafficUnknown

SOON = 30.0
QUEUE = "/api/queues/%2F/ml.embed"
LOGIN: dict[str, Any] = {"rabbitmq_url": "amqp://ml:ml_password@localhost"}
BUSY = {
    "name": "ml.embed",
    "messages_unacknowledged": 7,
    "message_stats": {
        "publish_details": {"rate": 3.5},
        "deliver_get_details": {"rate": 2},
        "ack_details": {"rate": 1.25},
    },
}


def seen(b: Bench) -> SeenQueue | None:
    return next((queue for queue in b.producer.status().queues if queue.name == "ml.embed"), None)


def held(b: Bench) -> int | None:
    """By workers."""
    queue = seen(b)
    return None if queue is None else queue.unacked


def metrics(b: Bench) -> str:
    return b.producer.metrics.prometheus()[0].decode()


@asynccontextmanager
async def busy() -> AsyncIterator[tuple[Bench, dict[str, object]]]:
    """A producer that has seen its queue's traffic, and what the API answers from now on."""
    answers: dict[str, object] = {QUEUE: BUSY}
    with management_api(answers) as root:
        b = bench(rabbitmq_management_url=root, **LOGIN)
        async with b.producer as p:
            await p.publish(embed())
            await until(lambda: held(b) == 7, SOON)
            yield b, answers


async def test_what_workers_hold_and_the_rates_are_shown_and_go_with_their_queue() -> None:
    async with busy() as (b, answers):
        p = b.producer
        queue = seen(b)
        assert queue is not None
        assert queue.ready == 1
        assert (queue.published, queue.delivered, queue.acked) == (3.5, 2.0, 1.25)
        assert p.status().traffic_note == ""
        told = metrics(b)
        assert 'ml_producer_queue_unacked{queue_name="ml.embed"} 7.0' in told
        assert 'ml_producer_queue_rate{queue_name="ml.embed",what="delivered"} 2.0' in told
        assert 'queue_unacked{queue_name="ml.summarize"}' not in told, "nobody asked for it"
        answers[QUEUE] = {"message_stats": []}  # as it is before the broker's first statistics
        await until(lambda: held(b) is None, SOON)
        assert "queue_unacked{" not in metrics(b)
        assert p.status().traffic_note == ""
        answers[QUEUE] = BUSY
        await until(lambda: held(b) == 7, SOON)
        del answers[QUEUE]
        await until(lambda: held(b) is None, SOON)
        assert "queue_unacked{" not in metrics(b)
        assert seen(b) is not None


async def test_without_the_api_they_are_left_out_and_it_is_said_why() -> None:
    b = bench()
    async with b.producer as p:
        await p.publish(embed())
        await until(lambda: seen(b) is not None, SOON)
        found = seen(b)
        assert found is not None
        assert (found.unacked, found.published) == (None, None)
        assert p.status().traffic_note == UNNAMED
        assert "queue_unacked{" not in metrics(b)


async def test_an_api_that_fails_is_said_once_and_nothing_old_is_shown() -> None:
    async with busy() as (b, answers):
        p = b.producer
        answers[QUEUE] = {"messages_unacknowledged": "many"}  # nothing that can be read
        await until(lambda: p.status().traffic_note != "", SOON)
        assert "queue_unacked{" not in metrics(b)
        passed = len(b.told(HealthChecked))
        await until(lambda: len(b.told(HealthChecked)) > passed + 2, SOON)
        (told,) = b.told(TrafficUnknown)
        assert told.text == p.status().traffic_note
        assert held(b) is None
        assert "RABBITMQ_MANAGEMENT_URL" in told.text
        assert p.is_healthy(), "it is for people: nothing depends on it"
        answers[QUEUE] = BUSY
        await until(lambda: p.status().traffic_note == "", SOON)


def test_a_wrong_address_of_the_api_is_refused_at_once() -> None:
    with pytest.raises(SettingsError, match="RABBITMQ_MANAGEMENT_URL"):
        bench(rabbitmq_management_url="ftp://mq")
