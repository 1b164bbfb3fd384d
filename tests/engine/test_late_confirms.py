"""What comes late, after its attempt was given up as unsure, still settles its task."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from engine_bench import Bench, bench, embed, until
from mlproducer import Task
from mlproducer.errors import SpoolUnavailable
from mlproducer.events import (
    AnsweredLate,
    BreakerChanged,
    BreakerState,
    ConfirmWaitChanged,
    RouteChanged,
    RouteState,
    TaskConfirmed,
    TaskDeadLettered,
)
from mlproducer.outcome import (
    Confirmed,
    LateAnswer,
    Nacked,
    NotSent,
    NotSentCause,
    Outcome,
    Returned,
    Unsure,
    UnsureCause,
)
from mlproducer.rows import Bury, Done, Lease, NewRow, SpoolRow
from mlproducer.spool.memory import MemorySpool
from mlproducer.task import Receipt, TaskState

WINDOW = 30.0
LOST = Unsure(UnsureCause.CONNECTION_LOST)


def unsure(window: float = WINDOW) -> tuple[Unsure, LateAnswer]:
    answer = LateAnswer(window)
    return Unsure(UnsureCause.CONFIRM_TIMEOUT, late=answer), answer


def late_bench(**given: Any) -> Bench:
    return bench(ml_breaker_failures=1_000, **given)


def leased_by_another(spool: MemorySpool, task_id: str) -> Any:
    """As if its row had been due, and another process, or our own drain, had it leased just now."""
    held = spool._rows[task_id]
    held.token, held.until = "another's", spool._time.now() + 60
    return held


async def given_up(b: Bench, task: Task | None = None) -> tuple[Receipt, LateAnswer]:
    """A task whose direct attempt was not answered in time."""
    outcome, answer = unsure()
    b.broker.script.append(outcome)
    receipt = await b.producer.publish(task or embed())
    assert receipt.state is TaskState.SPOOLED
    return receipt, answer


async def test_a_late_ack_confirms_the_spooled_task_without_a_copy_and_once() -> None:
    b = late_bench()
    async with b.producer as p:
        await p.connected(5)
        receipt, answer = await given_up(b)
        assert receipt.next_attempt_at is not None
        assert receipt.next_attempt_at > p.now() + WINDOW / 2, "no copy while the answer may come"
        answer.tell(Confirmed())
        await until(lambda: bool(b.told(TaskConfirmed)))
        now = await p.receipt(receipt.task_id)
        assert (now.state, now.reason) == (TaskState.CONFIRMED, None)
        assert await b.places() == {"broker": [], "spool": [], "dead": []}, "the script's broker took it unseen"
        assert len(b.told(TaskConfirmed)) == 1
        ((outcome, task_id),) = [(event.outcome, event.task_id) for event in b.told(AnsweredLate)]
        assert (outcome, task_id) == (Confirmed(), receipt.task_id)


async def test_in_a_stream_too() -> None:
    b = late_bench()
    async with b.producer as p:
        await p.connected(5)
        outcomes = [unsure() for _ in range(5)]
        b.broker.script.extend(outcome for outcome, _ in outcomes)
        receipts = [each async for each in p.publish_many(embed(n) for n in range(5))]
        for _, answer in outcomes:
            answer.tell(Confirmed())
        await until(lambda: len(b.told(TaskConfirmed)) == 5)
        assert {event.task_id for event in b.told(TaskConfirmed)} == {
            receipt.task_id for receipt in receipts if isinstance(receipt, Receipt)
        }
        assert b.broker.task_ids() == []


@pytest.mark.parametrize("outcome", [Nacked(), Returned(312, "NO_ROUTE")])
async def test_a_late_fault_counts_as_one(outcome: Outcome) -> None:
    b = late_bench(ml_retry_attempts=1)
    async with b.producer as p:
        await p.connected(5)
        receipt, answer = await given_up(b)
        answer.tell(outcome)
        await until(lambda: bool(b.told(TaskDeadLettered)))
        letter = await p.dead_letter(receipt.task_id)
        assert (letter.attempts, [each.outcome for each in letter.history]) == (
            1,
            ["confirm_timeout", "nacked" if outcome == Nacked() else "returned"],
        )
        assert b.broker.task_ids() == [], "its only attempt is spent"


async def test_a_late_fault_of_a_whole_route_spends_nothing() -> None:
    b = late_bench(ml_route_patience=300, ml_retry_attempts=1)
    async with b.producer as p:
        await p.connected(5)
        receipt, answer = await given_up(b)
        answer.tell(Nacked())
        await until(lambda: b.broker.task_ids() == [receipt.task_id])
        assert not b.told(TaskDeadLettered)


@pytest.mark.parametrize("outcome", [LOST, Unsure(UnsureCause.CONFIRM_TIMEOUT), Unsure(UnsureCause.CHANNEL_LOST)])
async def test_a_task_that_nobody_will_answer_for_is_sent_again_at_once(outcome: Outcome) -> None:
    b = late_bench()
    async with b.producer as p:
        await p.connected(5)
        receipt, answer = await given_up(b)
        answer.tell(outcome)
        await until(lambda: b.broker.task_ids() == [receipt.task_id])
        assert not b.told(AnsweredLate)


async def test_one_of_many_that_a_refused_channel_took_along_goes_alone() -> None:
    b = late_bench()
    async with b.producer as p:
        await p.connected(5)
        receipt, answer = await given_up(b)
        answer.tell(Unsure(UnsureCause.CHANNEL_REFUSED, "404"))
        await until(lambda: b.broker.task_ids() == [receipt.task_id])
        assert b.broker.alone == [receipt.task_id]


async def test_a_row_of_the_drain_is_settled_by_the_late_ack_of_its_attempt() -> None:
    b = late_bench()
    outcome, answer = unsure()
    b.broker.script.extend([LOST, outcome])
    async with b.producer as p:
        await p.connected(5)
        receipt = await p.publish(embed())
        await until(lambda: not b.broker.script)
        await asyncio.sleep(0.1)
        answer.tell(Confirmed())
        await until(lambda: bool(b.told(TaskConfirmed)))
        assert (await p.receipt(receipt.task_id)).state is TaskState.CONFIRMED
        assert await b.places() == {"broker": [], "spool": [], "dead": []}


class SlowSpool(MemorySpool):
    """Puts and settles wait for `go`."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()
        self.go.set()

    async def put(self, row: Any) -> bool:
        await self.go.wait()
        return await super().put(row)

    async def settle(self, settlements: Any) -> Any:
        await self.go.wait()
        return await super().settle(settlements)


async def test_an_ack_that_comes_while_the_row_is_written_settles_it_after_that() -> None:
    spool = SlowSpool()
    b = late_bench(spool=spool)
    async with b.producer as p:
        await p.connected(5)
        outcome, answer = unsure()
        b.broker.script.append(outcome)
        spool.go.clear()
        call = asyncio.create_task(p.publish(embed()))
        await until(lambda: not b.broker.script)
        await asyncio.sleep(0.05)
        answer.tell(Confirmed())
        spool.go.set()
        receipt = await call
        assert receipt.state is TaskState.SPOOLED
        await until(lambda: bool(b.told(TaskConfirmed)))
        assert await b.places() == {"broker": [], "spool": [], "dead": []}


async def test_an_ack_that_meets_a_held_row_keeps_our_drain_from_writing_it() -> None:
    spool = MemorySpool()
    b = late_bench(spool=spool)
    async with b.producer as p:
        await p.connected(5)
        receipt, answer = await given_up(b)
        held = leased_by_another(spool, receipt.task_id)
        answer.tell(Confirmed())
        await asyncio.sleep(0.1)
        assert not b.told(TaskConfirmed), "its owner settles it"
        held.until = spool._time.now()
        await until(lambda: bool(b.told(TaskConfirmed)))
        assert b.broker.task_ids() == [], "not written"
        assert await b.places() == {"broker": [], "spool": [], "dead": []}


async def test_another_process_that_has_the_row_settles_it_and_nothing_is_told_twice() -> None:
    spool = MemorySpool()
    b = late_bench(spool=spool)
    async with b.producer as p:
        await p.connected(5)
        receipt, answer = await given_up(b)
        held = leased_by_another(spool, receipt.task_id)
        answer.tell(Confirmed())
        await asyncio.sleep(0.05)
        assert await spool.settle([(Lease(held.row, "another's"), Done(0.0, 60.0))]) == [True]
        await asyncio.sleep(0.1)
        assert not b.told(TaskConfirmed)
        assert (await p.receipt(receipt.task_id)).state is TaskState.CONFIRMED


async def removed(b: Bench, spool: MemorySpool, task_id: str) -> None:
    """Its row dies, whoever buried it, and a person removes the dead letter."""
    held = leased_by_another(spool, task_id)
    assert await spool.settle([(Lease(held.row, "another's"), Bury(0.0, 3, "expired", None, "too late"))]) == [True]
    assert await b.producer.purge([task_id], by="ada") == 1


@asynccontextmanager
async def first_bearer() -> AsyncIterator[tuple[Bench, LateAnswer, SpoolRow]]:
    """A task with the id x, which is dead and removed while its attempt may still be answered: the answer, and its row
    as it was.
    """
    spool = MemorySpool()
    b = late_bench(spool=spool)
    async with b.producer as p:
        await p.connected(5)
        _, answer = await given_up(b, embed("first", id="x"))
        row = spool._rows["x"].row
        await removed(b, spool, "x")
        yield b, answer, row


async def test_the_late_answer_to_an_id_s_first_bearer_is_nothing_to_the_second() -> None:
    async with first_bearer() as (b, first, _):
        p = b.producer
        _, second = await given_up(b, embed("second", id="x"))
        first.tell(Confirmed())
        await asyncio.sleep(0.1)
        assert not b.told(TaskConfirmed)
        assert (await b.places())["spool"] == ["x"]
        assert (await p.receipt("x")).state is TaskState.SPOOLED
        second.tell(Confirmed())
        await until(lambda: bool(b.told(TaskConfirmed)))
        assert (await p.receipt("x")).state is TaskState.CONFIRMED


async def test_nor_is_it_if_the_second_was_given_to_another_process() -> None:
    async with first_bearer() as (b, first, row):
        await b.spool.put(NewRow(row.envelope, row.accepted_at + 1, delay=WINDOW))
        first.tell(Confirmed())
        await asyncio.sleep(0.1)
        assert (await b.places())["spool"] == ["x"]


async def test_an_id_s_second_bearer_is_written_though_the_first_was_confirmed_late_after_it_was_removed() -> None:
    async with first_bearer() as (b, first, _):
        first.tell(Confirmed())
        await asyncio.sleep(0.05)
        b.broker.script.append(LOST)
        await b.producer.publish(embed("second", id="x"))
        await until(lambda: bool(b.told(TaskConfirmed)))
        assert b.broker.task_ids() == ["x"], "its content is in the queue"


async def test_the_copy_of_an_id_s_first_bearer_is_no_copy_of_the_second() -> None:
    spool = MemorySpool()
    b = late_bench(spool=spool, ml_dlq_publish=True, ml_retry_attempts=1)
    async with b.producer as p:
        await p.connected(5)
        outcome, answer = unsure()
        b.broker.script.extend([Nacked(), outcome])
        await p.publish(embed("first", id="x"))
        await until(lambda: not b.broker.script)
        answer.tell(Confirmed())
        await removed(b, spool, "x")
        b.broker.script.append(Nacked())
        await p.publish(embed("second", id="x"))
        await until(lambda: bool(b.told(TaskDeadLettered)))
        assert b.broker.task_ids() == ["x"], "a copy of its own"


async def test_the_late_ack_of_the_first_confirms_the_second_attempt_that_is_under_way() -> None:
    b = late_bench()
    async with b.producer as p:
        await p.connected(5)
        outcome, answer = unsure(window=0.05)  # the row is due before the answer comes, as by a clock that was set
        b.broker.script.append(outcome)
        b.broker.script.append(Nacked())
        receipt = await p.publish(embed())
        b.broker.hold()
        await until(lambda: b.broker.view().in_flight == 1)
        answer.tell(Confirmed())
        await until(lambda: bool(b.told(TaskConfirmed)))
        b.broker.release()
        await asyncio.sleep(0.1)
        assert (await p.receipt(receipt.task_id)).state is TaskState.CONFIRMED
        assert await b.places() == {"broker": [], "spool": [], "dead": []}, "the later nack changed nothing"
        assert len(b.told(TaskConfirmed)) == 1


async def test_an_attempt_that_a_hurried_caller_left_is_no_reason_for_a_copy() -> None:
    b = late_bench()
    async with b.producer as p:
        await p.connected(5)
        b.broker.hold()
        receipt = await p.publish(embed(), timeout=0.3)
        assert receipt.state is TaskState.SPOOLED
        await asyncio.sleep(0.2)
        b.broker.release()
        await until(lambda: bool(b.told(TaskConfirmed)))
        assert b.broker.task_ids() == [receipt.task_id], "once"
        assert (await p.receipt(receipt.task_id)).state is TaskState.CONFIRMED


async def test_what_a_hurried_caller_left_may_be_answered_late_in_its_turn() -> None:
    b = late_bench()
    async with b.producer as p:
        await p.connected(5)
        outcome, answer = unsure()
        b.broker.script.append(outcome)
        b.broker.hold()
        receipt = await p.publish(embed(), timeout=0.3)
        b.broker.release()
        await asyncio.sleep(0.05)
        answer.tell(Confirmed())
        await until(lambda: bool(b.told(TaskConfirmed)))
        assert b.broker.task_ids() == []
        assert (await p.receipt(receipt.task_id)).state is TaskState.CONFIRMED


async def test_a_stop_gives_late_answers_their_time() -> None:
    b = late_bench(ml_shutdown_timeout=5)
    async with b.producer as p:
        await p.connected(5)
        receipt, answer = await given_up(b)
        asyncio.get_running_loop().call_later(0.2, answer.tell, Confirmed())
    assert [event.task_id for event in b.told(TaskConfirmed)] == [receipt.task_id]


async def test_a_stop_leaves_what_nobody_answered_due_at_once() -> None:
    spool = MemorySpool()
    b = late_bench(spool=spool)
    async with b.producer as p:
        await p.connected(5)
        receipt, answer = await given_up(b)
        b.broker.lost = lambda _: answer.tell(LOST)
        close = b.broker.close

        async def closed() -> None:
            await close()
            answer.tell(LOST)

        b.broker.close = closed  # type: ignore[method-assign]  # the channel that was listened to goes with the link
    (lease,) = await spool.lease(9, hold=60)
    assert lease.row.envelope.task_id == receipt.task_id


async def test_a_late_answer_opens_the_route_and_half_opens_the_breaker() -> None:
    b = bench(ml_breaker_failures=1, ml_breaker_cooldown=300, ml_route_patience=300)
    async with b.producer as p:
        await p.connected(5)
        _, answer = await given_up(b)
        assert (p.status().breaker, b.told(RouteChanged)[-1].state) == ("open", RouteState.HELD)
        answer.tell(Confirmed())
        await until(lambda: bool(b.told(TaskConfirmed)))
        assert b.told(RouteChanged)[-1].state is RouteState.OPEN
        assert b.told(BreakerChanged)[-1].state is BreakerState.HALF_OPEN
        assert (await p.publish(embed("next"))).confirmed


async def test_a_late_route_is_waited_for_longer_by_callers_and_drain_until_it_is_quick_again() -> None:
    b = late_bench(ml_confirm_timeout=0.2, ml_accept_timeout=2)
    deadlines: list[float] = []
    publish, clock = b.broker.publish, time.monotonic

    def noted(envelope: Any, settle: Any, *, deadline: float, alone: bool = False) -> None:
        deadlines.append(deadline - clock())
        publish(envelope, settle, deadline=deadline, alone=alone)

    b.broker.publish = noted  # type: ignore[method-assign]  # to see what the broker is given
    async with b.producer as p:
        await p.connected(5)
        _, answer = await given_up(b)
        assert deadlines[-1] <= 0.2
        await asyncio.sleep(0.4)
        answer.tell(Confirmed())
        await until(lambda: bool(b.told(ConfirmWaitChanged)))
        (changed,) = b.told(ConfirmWaitChanged)
        assert (changed.route, changed.late) == ("ml.embed", True)
        assert changed.wait > 0.4
        assert "ml.embed" in next(each.detail for each in p.health().checks if each.name == "last_confirm")
        assert (await p.publish(embed("direct"))).confirmed
        assert 0.2 < deadlines[-1] <= changed.wait
        b.broker.script.append(LOST)
        await p.publish(embed("by the drain"))
        await until(lambda: len(b.told(TaskConfirmed)) == 3)
        assert 0.2 < deadlines[-1] <= changed.wait
        async for _ in p.publish_many(embed(f"quick {n}") for n in range(200)):
            pass
        assert b.told(ConfirmWaitChanged)[-1].late is False


async def test_a_copy_of_a_dead_letter_that_is_confirmed_late_is_not_sent_again() -> None:
    b = late_bench(ml_dlq_publish=True, ml_retry_attempts=1)
    async with b.producer as p:
        await p.connected(5)
        outcome, answer = unsure(window=0.3)
        b.broker.script.extend([Nacked(), outcome])
        receipt = await p.publish(embed())
        await until(lambda: not b.broker.script)
        answer.tell(Confirmed())
        await until(lambda: bool(b.told(TaskDeadLettered)))
        assert b.broker.task_ids() == [], "no second copy"
        assert (await p.dead_letter(receipt.task_id)).reason == "nacked"


async def test_a_spool_that_is_away_when_the_ack_comes_costs_no_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    b = late_bench(ml_retry_first=0.02)
    async with b.producer as p:
        await p.connected(5)
        outcome, answer = unsure(window=0.3)
        b.broker.script.append(outcome)
        receipt = await p.publish(embed())

        async def away(_: Any) -> Any:
            raise SpoolUnavailable("away")

        monkeypatch.setattr(b.spool, "settle", away)
        answer.tell(Confirmed())
        await asyncio.sleep(0.05)
        monkeypatch.undo()
        await until(lambda: bool(b.told(TaskConfirmed)))
        assert b.broker.task_ids() == []
        assert (await p.receipt(receipt.task_id)).state is TaskState.CONFIRMED


async def test_a_late_refusal_of_the_only_message_on_its_channel_is_its_own_fault() -> None:
    b = late_bench(ml_retry_attempts=1)
    async with b.producer as p:
        await p.connected(5)
        receipt, answer = await given_up(b)
        answer.tell(NotSent(NotSentCause.CHANNEL_REFUSED, 404, "no exchange"))
        await until(lambda: bool(b.told(TaskDeadLettered)))
        assert (await p.receipt(receipt.task_id)).state is TaskState.DEAD
