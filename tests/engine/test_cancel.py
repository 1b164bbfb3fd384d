"""Cancelling a publish at each await in turn: ledger and spool stay whole, and the id can be used again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from engine_bench import Bench, bench, embed, until
from mlproducer import Task
from mlproducer.outcome import Nacked, Unsure, UnsureCause

STEPS = range(40)


async def _cancel_after(b: Bench, steps: int, task_id: str) -> bool:
    """True if the call was cancelled before it had its receipt."""
    call = asyncio.create_task(b.producer.publish(embed(task_id, id=task_id)))
    for _ in range(steps):
        await asyncio.sleep(0)
    call.cancel()
    (result,) = await asyncio.gather(call, return_exceptions=True)
    return isinstance(result, asyncio.CancelledError)


async def _whole(b: Bench, task_id: str, *, cancelled: bool) -> None:
    await until(lambda: b.producer.status().in_flight == 0)
    async with asyncio.timeout(2):
        # Between the broker's ack and the drain's commit a row is still there: wait until that is over.
        while len(found := [place for place, ids in (await b.places()).items() if task_id in ids]) > 1:  # noqa: ASYNC110  # see above
            await asyncio.sleep(0.01)
    assert cancelled or found, "a receipt was given, so the task must be somewhere"
    again = await asyncio.wait_for(b.producer.publish(embed(task_id, id=task_id)), 2)
    assert again.task_id == task_id
    assert any(task_id in ids for ids in (await b.places()).values())


@pytest.mark.parametrize("weather", ["calm", "nacked", "unsure", "down"])
async def test_a_publish_cancelled_at_any_step_leaves_everything_whole(weather: str, tmp_path: Path) -> None:
    b = bench(ml_spool_url=f"sqlite:///{tmp_path / 'spool.db'}", ml_retry_first=5, ml_retry_cap=10, ml_drain_poll=5)
    outcomes = 0
    async with b.producer as p:
        await p.connected(1)
        for steps in STEPS:
            b.broker.script.clear()
            b.broker.blocked = weather == "down"
            if weather == "nacked":
                b.broker.script.append(Nacked())
            if weather == "unsure":
                b.broker.blocked = False
                b.broker.script.append(Unsure(UnsureCause.CONFIRM_TIMEOUT))
            task_id = f"{weather}-{steps}"
            cancelled = await _cancel_after(b, steps, task_id)
            outcomes += cancelled
            b.broker.script.clear()
            b.producer.reset_breaker()
            await _whole(b, task_id, cancelled=cancelled)
    assert outcomes, "no step was early enough to cancel anything: the test proves nothing"


async def test_a_held_publish_that_is_cancelled_settles_nobody_when_its_ack_comes_late() -> None:
    b = bench()
    async with b.producer as p:
        await p.connected(1)
        b.broker.hold()
        call = asyncio.create_task(p.publish(embed(id="late")))
        await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        b.broker.release()
        assert p.status().in_flight == 0
        assert (await p.publish(embed(id="late"))).confirmed


LEAVES = range(24)
"""Turns of the loop that a caller of `publish_many` stays."""
WAYS = ["cancelled", "closed", "broken out of", "forgotten", "never started"]


def _stream_of(name: str) -> list[Task]:
    """A task that is refused, tasks that go the quick way, tasks with ids of their caller's, and one id twice."""
    refused = Task(task_type="nonsense", payload={})
    quick = [embed(f"{name}-{n}") for n in range(2)]
    chosen = [embed(f"{name}-{n}", id=f"{name}-{n}") for n in range(2)]
    return [refused, *quick, *chosen, chosen[0]]


async def _leave(stream: AsyncGenerator[object, None], way: str, steps: int) -> object:
    """Be a caller who leaves after `steps` turns. What is returned is what a caller who forgot the stream still holds."""

    async def read() -> None:
        async for _ in stream:
            if way in {"broken out of", "forgotten"}:
                break

    reading = asyncio.create_task(read())
    for _ in range(steps):
        await asyncio.sleep(0)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    if way == "closed":
        await stream.aclose()
    return stream if way == "forgotten" else None


@pytest.mark.parametrize("weather", ["calm", "held", "nacked", "down"])
@pytest.mark.parametrize("way", WAYS)
async def test_a_stream_left_at_any_step_leaves_no_id_under_way(way: str, weather: str, tmp_path: Path) -> None:
    b = bench(
        ml_spool_url=f"sqlite:///{tmp_path / 'spool.db'}" if weather == "down" else "memory://",
        ml_retry_first=5,
        ml_retry_cap=10,
        ml_drain_poll=5,
        ml_shutdown_timeout=300,  # what is left under way has `stop` wait for it
    )
    kept: list[object] = []
    async with asyncio.timeout(60):
        await b.producer.start()
        await b.producer.connected(1)
        for steps in LEAVES:
            tasks = _stream_of(f"{steps}")
            b.broker.blocked = weather == "down"
            b.broker.script.extend([Nacked()] * (len(tasks) if weather == "nacked" else 0))
            if weather == "held":
                b.broker.hold()
            stream = b.producer.publish_many(tasks, window=4)
            kept.append(stream if way == "never started" else await _leave(stream, way, steps))
            del stream
            if (way, weather) != ("forgotten", "held"):  # that one settles, as soon as the broker answers
                await until(lambda: b.producer._parts.pipeline.under_way == 0)
            b.broker.release()
            b.broker.script.clear()
            b.producer.reset_breaker()
            receipts = await asyncio.gather(*map(b.producer.publish, tasks[1:]))
            assert {receipt.task_id for receipt in receipts} == {task.id for task in tasks[1:]}
        await b.producer.stop()
    assert len(kept) == len(LEAVES)
