"""Cancelling a publish at each await in turn: ledger and spool stay whole, and the id can be used again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from engine_bench import Bench, bench, embed, until
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
