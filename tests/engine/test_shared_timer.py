"""`delivery.deadlines` bounds what `asyncio.timeout` would, and leaves cancellations alone as that does."""

from __future__ import annotations

import asyncio
import time

import pytest

from mlproducer.delivery.deadlines import Deadlines, is_late
from mlproducer.wiring import SystemClock


async def held(deadlines: Deadlines, seconds: float, work: float = 60.0) -> str:
    try:
        await deadlines.by(time.monotonic() + seconds, asyncio.sleep(work))
    except asyncio.CancelledError as error:
        return "late" if is_late(error) else "cancelled"
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
        await deadlines.by(at, asyncio.get_running_loop().create_future())
        return "never"

    early = asyncio.create_task(call(time.monotonic() + 60))
    both = asyncio.create_task(call(time.monotonic() + 0.05))
    await asyncio.sleep(0)
    early.cancel()
    time.sleep(0.06)  # noqa: ASYNC251  # the deadline passes, and its timer and the cancellation meet in one turn
    both.cancel()
    for task in (early, both):
        with pytest.raises(asyncio.CancelledError) as raised:
            await task
        assert not is_late(raised.value)


async def test_a_future_that_comes_too_late_is_cancelled_and_no_task_is_made_of_it() -> None:
    deadlines = Deadlines(SystemClock())
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    assert deadlines.by(time.monotonic() + 0.02, future) is future
    with pytest.raises(asyncio.CancelledError) as raised:
        await future
    assert is_late(raised.value)
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling(), "it is not the caller who was cancelled"


async def test_an_error_of_the_work_itself_passes_through() -> None:
    async def work() -> None:
        raise ValueError("its own")

    with pytest.raises(ValueError, match="its own"):
        await Deadlines(SystemClock()).by(time.monotonic() + 60, work())


async def test_deadlines_that_are_over_do_not_pile_up() -> None:
    deadlines = Deadlines(SystemClock())
    for _ in range(5_000):
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        future.set_result(1)
        assert await deadlines.by(time.monotonic() + 3_600, future)
    assert len(deadlines._heap) < 2_000
