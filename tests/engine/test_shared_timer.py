"""`delivery.deadlines` does what `asyncio.timeout` does."""

from __future__ import annotations

import asyncio
import time

import pytest

from mlproducer.delivery.deadlines import Deadlines
from mlproducer.wiring import SystemClock


async def held(deadlines: Deadlines, seconds: float, work: float = 60.0) -> str:
    try:
        with deadlines.by(time.monotonic() + seconds):
            await asyncio.sleep(work)
    except TimeoutError:
        return "late"
    return "done"


async def test_each_call_ends_at_its_own_deadline_in_whatever_order_they_were_made() -> None:
    deadlines = Deadlines(SystemClock())
    spans = [0.15, 0.05, 0.1, 0.0, -1.0]
    began = time.monotonic()
    ended: dict[float, float] = {}

    async def one(span: float) -> None:
        assert await held(deadlines, span) == "late"
        ended[span] = time.monotonic() - began

    await asyncio.gather(*(one(span) for span in spans))
    assert list(ended) == sorted(spans)
    assert all(ended[span] >= span for span in spans)


async def test_what_is_done_in_time_is_not_disturbed_afterwards() -> None:
    deadlines = Deadlines(SystemClock())
    assert await held(deadlines, 0.05, work=0) == "done"
    await asyncio.sleep(0.1)
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


async def test_a_deadline_after_one_that_did_not_come_is_kept() -> None:
    deadlines = Deadlines(SystemClock())
    answers = await asyncio.gather(held(deadlines, 0.03, work=0), held(deadlines, 0.06))
    assert tuple(answers) == ("done", "late")


async def test_a_cancellation_from_outside_stays_one_also_at_the_moment_of_the_deadline() -> None:
    deadlines = Deadlines(SystemClock())

    async def call(at: float) -> str:
        with deadlines.by(at):
            await asyncio.sleep(60)
        return "never"

    early = asyncio.create_task(call(time.monotonic() + 60))
    both = asyncio.create_task(call(time.monotonic() + 0.05))
    await asyncio.sleep(0)
    early.cancel()
    time.sleep(0.06)  # noqa: ASYNC251  # the deadline passes, and its timer and the cancellation meet in one turn
    both.cancel()
    for task in (early, both):
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_an_error_of_the_work_itself_passes_through() -> None:
    with pytest.raises(ValueError, match="its own"), Deadlines(SystemClock()).by(time.monotonic() + 60):
        raise ValueError("its own")


async def test_deadlines_that_are_over_do_not_pile_up() -> None:
    deadlines = Deadlines(SystemClock())
    for _ in range(5_000):
        with deadlines.by(time.monotonic() + 3_600):
            pass
    assert len(deadlines._heap) < 2_000
