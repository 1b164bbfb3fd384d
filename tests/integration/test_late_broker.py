"""A real broker behind a relay that brings its answers late."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from mlproducer import Producer, Settings, Task
from mlproducer.events import AnsweredLate, AttemptSettled, ConnectionFailed, Event, TaskConfirmed
from mlproducer.outcome import NotSent
from mlproducer.reliability.silence import Relay
from places import in_queues

if TYPE_CHECKING:
    from pathlib import Path

TIMEOUT = 1.0
TASKS = 10


def embed(n: object) -> Task:
    return Task(task_type="embed_vectors", payload={"share_id": f"s{n}", "content": f"text {n}"})


@pytest.mark.parametrize("times", [1.4, pytest.param(3.0, marks=pytest.mark.chaos)])
async def test_a_broker_that_is_always_late_gets_at_most_one_copy_of_a_task_and_each_is_known_as_confirmed(
    vhost_url: str, tmp_path: Path, times: float
) -> None:
    events: list[Event] = []

    def confirmed() -> int:
        return sum(isinstance(event, TaskConfirmed) for event in events)

    async with Relay.to(vhost_url) as relay:
        settings = Settings.load(
            rabbitmq_url=relay.url(vhost_url),
            ml_data_dir=tmp_path,
            ml_confirm_timeout=TIMEOUT,
            ml_health_timeout=10,
            ml_drain_poll=0.1,
        )
        async with Producer(settings, listeners=[events.append]) as producer:
            assert await producer.connected(30)
            assert (await producer.publish(embed("first"))).confirmed
            relay.late = times * TIMEOUT
            receipts = await asyncio.gather(*(producer.publish(embed(n)) for n in range(TASKS)))
            async with asyncio.timeout(60):
                # The channel that follows the retired one is opened in two of the broker's late answers.
                while confirmed() < 1 + TASKS or not producer.is_healthy():  # noqa: ASYNC110  # it has no event
                    await asyncio.sleep(0.05)
            assert {(await producer.receipt(each.task_id)).state for each in receipts} == {"confirmed"}
            more = [await producer.publish(embed(f"after {n}")) for n in range(2)]
            assert all(each.confirmed for each in more), "what is late is waited for by now"
            relay.late = 0.0
    assert any(isinstance(event, AnsweredLate) for event in events)
    assert not any(isinstance(event, ConnectionFailed) for event in events)
    assert confirmed() == 1 + TASKS + 2, "each once"
    sent = Counter(
        event.task_id
        for event in events
        if isinstance(event, AttemptSettled) and not isinstance(event.outcome, NotSent)
    )
    found = await in_queues(vhost_url)
    assert found.keys() == sent.keys()
    assert max(found.values()) <= 2
