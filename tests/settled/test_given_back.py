"""Who waits is woken, who counts counts down, and what is set is set again: whatever a call comes to."""

from __future__ import annotations

import asyncio

import pytest

from engine_bench import bench, embed, until
from mlproducer import SpoolUnavailable
from mlproducer.core.backoff import Backoff
from mlproducer.core.breaker import Breaker
from mlproducer.core.lifecycle import Move
from mlproducer.core.retry import RetryPolicy
from mlproducer.delivery.deadlines import Deadlines
from mlproducer.delivery.gauges import FORGET_BATCH
from mlproducer.delivery.guard import Guard
from mlproducer.delivery.receipts import Accepting, ReceiptBook
from mlproducer.delivery.verdicts import Verdicts
from mlproducer.events import PartFailed, TaskDeadLettered
from mlproducer.outcome import Nacked
from mlproducer.rows import Again, Audit, Bury, NewRow, SpoolRow
from mlproducer.spool.memory import MemorySpool
from mlproducer.task import Envelope, Receipt, TaskState
from mlproducer.testing.clock import ManualClock

ENVELOPE = Envelope("a", "embed_vectors", "ml.embed", b"", b"x")


@pytest.mark.parametrize("moves", [[], [Move.PUBLISH], [Move.SPOOL], [Move.PUBLISH, Move.SPOOL]], ids=str)
@pytest.mark.parametrize("committing", [False, True])
async def test_who_waits_for_the_same_id_is_woken_wherever_the_first_call_ends(
    moves: list[Move], *, committing: bool
) -> None:
    book = ReceiptBook(10)
    first = _begin(book)
    waits = asyncio.ensure_future(book.known("a"))
    await asyncio.sleep(0)
    for move in moves:
        first.move(move)
    first.committing = committing
    book.forget(first)
    assert await asyncio.wait_for(waits, 5) is None, "nobody accepted it"
    second = _begin(book)
    assert second.chosen_id is committing, "it may be in the spool: that one is asked"
    book.forget(first)
    assert book.under_way == 1, "a call that is gone lets go of nothing of another's"
    receipt = Receipt("a", "embed_vectors", TaskState.CONFIRMED, 0.0)
    assert book.finish(second, receipt) == await book.known("a") == receipt


def _begin(book: ReceiptBook) -> Accepting:
    begun = book.begin(ENVELOPE, 0.0, 5.0, 10.0, chosen_id=False, slow=False)
    assert begun is not None
    return begun


@pytest.mark.parametrize(("ahead", "dead"), [(-1.0, True), (0.0, True), (0.001, False)])
def test_a_task_is_over_in_the_very_moment_in_which_it_expires(ahead: float, *, dead: bool) -> None:
    clock = ManualClock()
    verdicts = Verdicts(RetryPolicy(3, Backoff(1.0, 10.0, 0.0)), clock, 60.0)
    expires_at = clock.now() + ahead
    row = SpoolRow(Envelope("a", "embed_vectors", "ml.embed", b"", b"", expires_at), 0.0, 0.0)
    before = verdicts.before(row)
    assert (isinstance(before, Bury) and before.reason == "expired") is dead
    assert isinstance(verdicts.after(row, Nacked()), Bury) is dead, "and so it is after an attempt"


@pytest.mark.parametrize(("attempts", "dead"), [(2, False), (3, True), (4, True)])
def test_a_row_has_as_many_attempts_as_the_policy_says(attempts: int, *, dead: bool) -> None:
    verdicts = Verdicts(RetryPolicy(3, Backoff(1.0, 10.0, 0.0)), ManualClock(), 60.0)
    assert (verdicts.before(SpoolRow(ENVELOPE, 0.0, 0.0, attempts)) is not None) is dead
    assert isinstance(verdicts.after(SpoolRow(ENVELOPE, 0.0, 0.0, attempts - 1), Nacked()), Bury) is dead


class Moody(MemorySpool):
    """A put comes to what the test says."""

    mood = ""

    async def put(self, row: NewRow) -> bool:
        match self.mood:
            case "away":
                raise SpoolUnavailable("gone")
            case "a bug":
                raise LookupError("nobody thought of this")
            case "slow":
                await asyncio.sleep(60)
        return await super().put(row)


@pytest.mark.parametrize("suspected", [True, False])
def test_a_row_that_was_suspected_once_goes_alone_for_ever(*, suspected: bool) -> None:
    """One refusal in company was enough; a fault after that says nothing of the first."""
    verdicts = Verdicts(RetryPolicy(3, Backoff(1.0, 10.0, 0.0)), ManualClock(), 60.0)
    again = verdicts.after(SpoolRow(ENVELOPE, 0.0, 0.0, 1, alone=suspected), Nacked())
    assert isinstance(again, Again)
    assert again.alone is suspected


@pytest.mark.parametrize("mood", ["", "away", "a bug", "slow", "known"])
async def test_the_count_of_what_is_spooled_is_right_again_whatever_a_put_came_to(mood: str) -> None:
    spool = Moody()
    b = bench(spool=spool)
    b.broker.blocked = True
    async with asyncio.timeout(20), b.producer as p:
        await p.connected(5)
        if mood == "known":
            await spool.put(NewRow(p._parts.pipeline._encode(embed(1, id="a")), 0.0, 1_000))
        spool.mood = mood
        call = asyncio.ensure_future(p.publish(embed(1, id="a")))
        await asyncio.wait([call], timeout=0.1)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        for _ in range(2):
            await p._parts.gauges.measure()
        gauges = p._parts.gauges
        assert (gauges.spooled_tasks, gauges.spooled_bytes) == (
            len(spool._rows),
            sum(held.size for held in spool._rows.values()),
        )


class Remembers(MemorySpool):
    """Has three batches of old records, and a half."""

    left = 3.5 * FORGET_BATCH

    async def forget(self, *, limit: int) -> int:
        gone = min(limit, int(self.left))
        self.left -= gone
        return gone


async def test_all_old_records_are_forgotten_however_many_there_are() -> None:
    spool = Remembers()
    async with bench(spool=spool).producer:
        await until(lambda: spool.left == 0, 10)


async def test_the_timer_of_an_open_breaker_is_set_again_if_it_rings_before_its_time() -> None:
    clock, rung = ManualClock(), asyncio.Event()
    guard = Guard(Breaker(1, 0.05), clock, lambda _: None, rung.set)
    guard.failure()
    first = guard._timer
    assert first is not None
    await until(lambda: guard._timer is not first, 10)
    assert not rung.is_set(), "by the clock it is still open"
    clock.advance(1)
    await asyncio.wait_for(rung.wait(), 10)
    guard.stop()


async def test_a_deadline_that_comes_before_those_that_were_set_earlier_is_kept() -> None:
    deadlines = Deadlines(ManualClock())
    loop = asyncio.get_running_loop()
    late = deadlines.by(1_000.0 + 3_600, loop.create_future())
    soon = deadlines.by(1_000.0, loop.create_future())
    await asyncio.wait([soon], timeout=10)
    assert soon.cancelled()
    assert not late.done()
    late.cancel()
    assert deadlines._timer is not None
    deadlines._timer.cancel()


async def test_a_dead_letter_that_another_process_replayed_is_drained_here_without_a_fault() -> None:
    b = bench()
    async with asyncio.timeout(20), b.producer as p:
        await p.connected(5)
        b.broker.script.extend([Nacked()] * 3)
        await p.publish(embed(id="a"))
        await until(lambda: bool(b.told(TaskDeadLettered)))
        await b.spool.replay(Audit(0.0, "ada", "replay", "by id", ("a",)))
        await until(lambda: b.broker.task_ids() == ["a"])
        await until(lambda: not p._parts.drain.batches)
        assert not b.told(PartFailed)
        assert (await p.receipt("a")).state in {TaskState.CONFIRMED, TaskState.DEAD}
