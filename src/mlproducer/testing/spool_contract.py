"""What every spool must do: subclass `SpoolContract` in a test module and give it a `make_spool` fixture.

It needs pytest with pytest-asyncio. The same sentences hold for every store; what is special to one is tested apart.

A store has one time, its own, and the contract moves it: the `clock` fixture is a `StoreClock` that begins at `NOW`.
For a store that takes a `ports.Clock` it is a `ManualClock`, the default; for a server, something that sets its clock.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

import pytest
from msgspec import structs

from mlproducer.core.digest import content_digest
from mlproducer.ports import Spool
from mlproducer.rows import (
    LEASE_BYTES,
    Again,
    Attempted,
    Audit,
    Bury,
    Claim,
    DeadEntry,
    DeadFilter,
    DeadLetter,
    Done,
    Lease,
    NewRow,
    Record,
    SpoolRow,
    Verdict,
    WaitingEntry,
)
from mlproducer.task import Envelope
from mlproducer.testing.clock import ManualClock

MakeSpool = Callable[[], Spool]
SetHost = Callable[[float], None]
NOW = 1_800_000_000.0
DONE = Done(NOW + 1, keep=100)
HISTORY = (Attempted(NOW - 4, "returned", 312, "NO_ROUTE ✓"), Attempted(NOW - 2, "nacked"))


class StoreClock(Protocol):
    """What decides at the store whether a moment has come."""

    def advance(self, seconds: float) -> None: ...


def row(task_id: str, *, delay: float = 0.0, size: int = 10, eta: float | None = None, **given: object) -> NewRow:
    """A row with all there is to remember; `given` overrides fields of `NewRow`."""
    envelope = Envelope(task_id, "embed_vectors", "ml.embed", b"\x00\xff" * 5, b"x" * size, NOW + 60, eta)
    fields: dict[str, object] = {"attempts": 1, "cause": "nacked", "text": "naïve ✓", "alone": True}
    fields |= {"history": HISTORY, **given}
    return NewRow(envelope, NOW - 5, delay, **fields)  # type: ignore[arg-type]  # the caller's own fields


def waits(new: NewRow, *, at: float = NOW) -> SpoolRow:
    """The row as it is found when it was put at `at`."""
    return new.waiting(new.first_due(at))


def is_as_put(found: object, new: NewRow) -> bool:
    """Whether it is that row, due whenever it is: where the store's clock runs."""
    return isinstance(found, SpoolRow) and found == structs.replace(waits(new), due_at=found.due_at)


def is_confirmed(found: object, task_id: str, **given: object) -> bool:
    """Whether it is `confirmed(task_id, **given)`, kept until whenever."""
    return isinstance(found, Record) and found == confirmed(task_id, keep_until=found.keep_until, **given)


def entry(of: SpoolRow) -> WaitingEntry:
    """The row as lists show it."""
    task = of.envelope
    shown = (task.task_id, task.task_type, task.routing_key, task.size)
    return WaitingEntry(*shown, of.accepted_at, of.due_at, of.attempts, of.cause, of.text, of.history)


def dead_entry(of: DeadLetter) -> DeadEntry:
    """The dead letter as lists show it."""
    task = of.envelope
    shown = (task.task_id, task.task_type, task.routing_key, task.size)
    return DeadEntry(*shown, of.accepted_at, of.died_at, of.attempts, of.reason, of.code, of.text, of.history)


def claim(task_id: str, *, token: str = "me", **given: object) -> Claim:
    """A claim on the id of `row(task_id)`; `given` overrides fields of `Claim`."""
    fields: dict[str, object] = {"digest": content_digest(row(task_id).envelope), "accepted_at": NOW - 5, **given}
    return Claim(task_id, "embed_vectors", token=token, **fields)  # type: ignore[arg-type]  # as above


def held(of: Claim, *, until: float = NOW + 10) -> Record:
    """The claim as it is found."""
    return Record(of.task_id, of.task_type, of.digest, of.accepted_at, until, held_until=until, token=of.token)


def confirmed(task_id: str, **given: object) -> Record:
    """The record of a task that `confirm` said was confirmed; `given` overrides fields of `Record`."""
    of = claim(task_id)
    fields: dict[str, object] = {"digest": of.digest, "accepted_at": of.accepted_at}
    fields |= {"keep_until": NOW + 100, "confirmed_at": NOW + 1, **given}
    return Record(task_id, of.task_type, **fields)  # type: ignore[arg-type]  # as above


async def confirm(spool: Spool, task_id: str, *, at: float = NOW + 1) -> None:
    await spool.confirm(claim(task_id), confirmed_at=at, keep=100)


def audit(*task_ids: str, at: float = NOW + 7, action: str = "replay") -> Audit:
    return Audit(at, "ada", action, "by id ✓", task_ids)


async def settle(spool: Spool, lease: Lease, verdict: Verdict) -> bool:
    (held,) = await spool.settle([(lease, verdict)])
    return held


class SpoolContract:
    """The sentences. Each test gets a spool of its own, open and empty."""

    @pytest.fixture
    def clock(self) -> StoreClock:
        return ManualClock(NOW)

    @pytest.fixture
    def set_host(self, clock: StoreClock, monkeypatch: pytest.MonkeyPatch) -> SetHost:
        """Sets the wall clock of the host forward by some seconds, or back; no time passes."""

        def set_(by: float) -> None:
            wall = time.time
            monkeypatch.setattr(time, "time", lambda: wall() + by)
            if isinstance(clock, ManualClock):
                clock.set_wall(by)

        return set_

    @pytest.fixture
    async def spool(self, make_spool: MakeSpool, clock: StoreClock):  # type: ignore[no-untyped-def]  # noqa: ANN201  # a fixture
        del clock  # it stands still from before the spool is open
        spool = make_spool()
        await spool.open()
        yield spool
        await spool.close()

    async def test_a_row_comes_back_as_it_was_put(self, spool: Spool) -> None:
        assert await spool.put(row("a"))
        assert await spool.find("a") == waits(row("a"))
        assert list(await spool.waiting(limit=10)) == [entry(waits(row("a")))]

    async def test_an_id_that_is_there_already_stays_as_it_was(self, spool: Spool) -> None:
        await spool.put(row("a"))
        assert not await spool.put(row("a", size=99))
        assert await spool.find("a") == waits(row("a"))
        assert (await spool.measure()).tasks == 1

    async def test_two_puts_of_one_id_at_once_store_one(self, spool: Spool) -> None:
        stored = await asyncio.gather(*(spool.put(row("a")) for _ in range(20)))
        assert stored.count(True) == 1

    async def test_only_due_rows_are_leased_and_the_longest_due_first(self, spool: Spool, clock: StoreClock) -> None:
        for task_id, delay in (("late", 1), ("b", -1), ("a", -2)):
            await spool.put(row(task_id, delay=delay))
        leases = await spool.lease(10, hold=60)
        assert [lease.row.envelope.task_id for lease in leases] == ["a", "b"]
        clock.advance(1)
        assert len(await spool.lease(10, hold=60)) == 1

    async def test_a_lease_holds_no_more_content_than_fits_into_memory(self, spool: Spool) -> None:
        for task_id, size in (("a", LEASE_BYTES // 2), ("b", LEASE_BYTES // 2), ("c", 10)):
            await spool.put(row(task_id, size=size, delay=-1 if task_id == "c" else -2))
        taken = [await spool.lease(100, hold=60) for _ in range(3)]
        ids = [sorted(lease.row.envelope.task_id for lease in leases) for leases in taken]
        assert ids in ([["a"], ["b", "c"], []], [["b"], ["a", "c"], []])

    async def test_a_leased_row_is_nobody_elses_until_the_lease_ends(self, spool: Spool, clock: StoreClock) -> None:
        await spool.put(row("a"))
        (first,) = await spool.lease(10, hold=60)
        clock.advance(59)
        assert not await spool.lease(10, hold=60)
        clock.advance(1)
        (second,) = await spool.lease(10, hold=60)
        assert second.token != first.token
        assert not await settle(spool, first, DONE), "the first lease was lost"
        assert await spool.find("a") is not None
        assert await settle(spool, second, DONE)

    async def test_a_lease_that_ended_still_settles_while_nobody_else_took_the_row(
        self, spool: Spool, clock: StoreClock
    ) -> None:
        await spool.put(row("a"))
        (lease,) = await spool.lease(1, hold=60)
        clock.advance(90)
        assert not await spool.lease(0, hold=60)
        assert await settle(spool, lease, DONE), "it was published: publishing it again would help nobody"

    async def test_a_held_row_is_next_due_when_its_lease_ends(self, spool: Spool) -> None:
        await spool.put(row("a"))
        await spool.lease(1, hold=60)
        assert (await spool.measure()).next_due_at == NOW + 60

    async def test_a_lease_settles_once(self, spool: Spool) -> None:
        await spool.put(row("a"))
        (lease,) = await spool.lease(1, hold=60)
        answers = await asyncio.gather(settle(spool, lease, DONE), settle(spool, lease, DONE))
        assert sorted(answers) == [False, True]
        assert not isinstance(await spool.find("a"), SpoolRow)

    async def test_done_removes_the_row(self, spool: Spool) -> None:
        await spool.put(row("a"))
        (lease,) = await spool.lease(1, hold=60)
        assert await settle(spool, lease, DONE)
        size = await spool.measure()
        assert (size.tasks, size.bytes, size.dead) == (0, 0, 0)
        assert size.first_due_at is None
        assert size.next_due_at is None

    async def test_again_keeps_the_row_for_later_with_what_was_learnt(self, spool: Spool, clock: StoreClock) -> None:
        await spool.put(row("a"))
        (lease,) = await spool.lease(1, hold=60)
        assert await settle(spool, lease, Again(9, 2, "returned", "312 NO_ROUTE", alone=False, history=HISTORY[:1]))
        learnt = row("a", delay=9, attempts=2, cause="returned", text="312 NO_ROUTE", alone=False, history=HISTORY[:1])
        assert await spool.find("a") == waits(learnt)
        clock.advance(8)
        assert not await spool.lease(1, hold=60)
        clock.advance(1)
        assert len(await spool.lease(1, hold=60)) == 1

    async def test_bury_moves_the_row_to_the_dead_letters(self, spool: Spool) -> None:
        letter = await self._buried(spool, "a")
        assert await spool.find("a") == letter
        assert list(await spool.dead(DeadFilter(), limit=10)) == [dead_entry(letter)]
        assert not await spool.waiting(limit=10)
        size = await spool.measure()
        assert (size.tasks, size.bytes, size.dead) == (0, 0, 1)
        assert not await spool.put(row("a")), "a dead letter is kept: its id is there already"

    async def test_replay_brings_a_dead_letter_back_with_no_attempts_spent(
        self, spool: Spool, clock: StoreClock
    ) -> None:
        await self._buried(spool, "a")
        clock.advance(7)
        assert await spool.replay(audit("a", "a", "nobody", at=NOW - 3_600)) == 1, "whatever the time of who replays"
        found = await spool.find("a")
        assert isinstance(found, SpoolRow)
        assert (found.attempts, found.due_at, found.alone, found.cause) == (0, NOW + 7, False, "replayed")
        assert found.history == HISTORY
        assert found.envelope == row("a").envelope
        size = await spool.measure()
        assert (size.tasks, size.bytes, size.dead) == (1, row("a").envelope.size, 0)
        assert len(await spool.lease(1, hold=60)) == 1

    async def test_purge_removes_dead_letters_and_nothing_else(self, spool: Spool) -> None:
        await self._buried(spool, "a")
        await spool.put(row("b"))
        assert await spool.purge(audit("a", "b", "nobody", action="purge")) == 1
        assert await spool.find("a") is None
        assert await spool.find("b") is not None

    async def test_dead_letters_are_found_by_any_filter_newest_first(self, spool: Spool) -> None:
        for n, (task_id, reason) in enumerate((("a", "nacked"), ("b", "returned"), ("c", "nacked"))):
            await self._buried(spool, task_id, reason=reason, died_at=NOW + n, text=f"Because 100%_{task_id}")

        async def ids(where: DeadFilter) -> list[str]:
            return [letter.task_id for letter in await spool.dead(where, limit=10)]

        assert await ids(DeadFilter()) == ["c", "b", "a"]
        assert await ids(DeadFilter(reason="nacked")) == ["c", "a"]
        assert await ids(DeadFilter(older_than=NOW + 1)) == ["a"]
        assert await ids(DeadFilter(newer_than=NOW + 1)) == ["c", "b"]
        assert await ids(DeadFilter(text="because 100%_b")) == ["b"]
        assert await ids(DeadFilter(text="%")) == ["c", "b", "a"]
        assert await ids(DeadFilter(text="100_")) == []
        assert await ids(DeadFilter(task_type="summarize_llm")) == []
        assert [letter.task_id for letter in await spool.dead(DeadFilter(), limit=1, offset=1)] == ["b"]
        assert await spool.count_dead(DeadFilter()) == 3
        assert await spool.count_dead(DeadFilter(reason="nacked", text="_C")) == 1

    async def test_waiting_is_paged_by_when_rows_are_due(self, spool: Spool) -> None:
        for n in range(5):
            await spool.put(row(f"t{n}", delay=-n))
        page = await spool.waiting(limit=2, offset=1)
        assert [found.task_id for found in page] == ["t3", "t2"]

    async def test_the_size_is_that_of_what_waits(self, spool: Spool) -> None:
        await spool.put(row("a", delay=3, size=100))
        await spool.put(row("b", delay=2, size=50))
        size = await spool.measure()
        assert (size.tasks, size.bytes, size.first_due_at) == (2, 100 + 50 + 20, NOW + 2)
        assert size.next_due_at == NOW + 2

    async def test_age_counts_from_when_a_row_was_first_due(self, spool: Spool) -> None:
        await spool.put(row("told to wait", delay=1_000))
        assert (await spool.measure()).first_due_at == NOW + 1_000, "and not from its acceptance"
        await spool.put(row("a", delay=-2))
        (lease,) = await spool.lease(1, hold=60)
        assert (await spool.measure()).first_due_at == NOW - 2, "under way, but not away"
        assert await settle(spool, lease, Again(9, 1, "nacked", "", alone=False))
        assert (await spool.measure()).first_due_at == NOW - 2, "a retry makes nothing younger"

    async def test_a_dead_letter_that_is_replayed_is_due_from_then_on(self, spool: Spool, clock: StoreClock) -> None:
        await self._buried(spool, "a")
        await spool.put(row("b", delay=9))
        clock.advance(7)
        await spool.replay(audit("a"))
        assert (await spool.measure()).first_due_at == NOW + 7

    async def test_many_callers_at_once_are_all_answered(self, spool: Spool) -> None:
        stored = await asyncio.gather(*(spool.put(row(f"t{n}")) for n in range(3_000)))
        assert all(stored)
        assert (await spool.measure()).tasks == 3_000
        leases = await spool.lease(3_000, hold=60)
        assert len({lease.row.envelope.task_id for lease in leases}) == 3_000
        assert all(await spool.settle([(lease, DONE) for lease in leases]))
        assert (await spool.measure()).tasks == 0

    async def test_a_cancelled_put_leaves_the_row_whole_or_not_at_all(self, spool: Spool) -> None:
        for steps in range(12):
            call = asyncio.ensure_future(spool.put(row(f"c{steps}")))
            for _ in range(steps):
                await asyncio.sleep(0)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
        await spool.put(row("last"))
        for steps in range(12):
            assert await spool.find(f"c{steps}") in (None, waits(row(f"c{steps}")))
        size = await spool.measure()
        assert size.tasks == len(await spool.waiting(limit=100))

    async def test_verdicts_settled_together_fall_each_on_its_own_row(self, spool: Spool) -> None:
        for n, task_id in enumerate("abcd"):
            await spool.put(row(task_id, delay=n - 4))
        a, b, c, d = await spool.lease(4, hold=60)
        again = Again(5, 2, "nacked", "", alone=False, history=HISTORY)
        bury = Bury(NOW, 3, "returned", 312, "no route", HISTORY)
        lost = Lease(d.row, "somebody else's")
        answers = await spool.settle([(a, DONE), (b, again), (lost, DONE), (c, bury), (a, DONE)])
        assert list(answers) == [True, True, False, True, False]
        size = await spool.measure()
        assert (size.tasks, size.dead) == (2, 1)
        assert isinstance(await spool.find("d"), SpoolRow)

    async def test_nothing_to_settle_is_nothing_done(self, spool: Spool) -> None:
        assert not await spool.settle([])

    async def test_expired_rows_are_leased_whether_due_or_not_unless_somebody_holds_them(
        self, spool: Spool, clock: StoreClock
    ) -> None:
        await spool.put(row("a", delay=9_000))  # row() expires at NOW + 60
        clock.advance(59)
        assert not await spool.lease(10, hold=60, expired=True)
        clock.advance(1)
        (lease,) = await spool.lease(10, hold=60, expired=True)
        assert lease.row.envelope.task_id == "a"
        clock.advance(59)
        assert not await spool.lease(10, hold=60, expired=True)
        assert await settle(spool, lease, Bury(NOW, 1, "expired", None, "too late"))

    async def test_a_confirmed_row_leaves_a_record_until_it_is_forgotten(self, spool: Spool, clock: StoreClock) -> None:
        await spool.put(row("a"))
        (lease,) = await spool.lease(1, hold=60)
        await settle(spool, lease, DONE)
        assert await spool.find("a") == confirmed("a", attempts=1)
        assert not await spool.put(row("a")), "it is confirmed: a second put must not publish it again"
        clock.advance(99)
        assert await spool.forget(limit=10) == 0
        clock.advance(1)
        assert await spool.forget(limit=10) == 1
        assert await spool.find("a") is None

    async def test_forgetting_is_bounded(self, spool: Spool, clock: StoreClock) -> None:
        for n in range(5):
            await confirm(spool, f"t{n}")
        clock.advance(100)
        assert await spool.forget(limit=3) == 3
        assert await spool.forget(limit=3) == 2

    async def test_one_of_many_claims_of_an_id_wins(self, spool: Spool) -> None:
        answers = await asyncio.gather(*(spool.claim(claim("a", token=f"t{n}"), hold=10) for n in range(10)))
        assert answers.count(None) == 1
        winner = await spool.find("a")
        assert all(answer in (None, winner) for answer in answers)

    async def test_a_claim_that_is_over_is_taken_over_whatever_its_content(
        self, spool: Spool, clock: StoreClock
    ) -> None:
        assert await spool.claim(claim("a"), hold=10) is None
        clock.advance(9.5)
        assert await spool.claim(claim("a", token="you"), hold=10) == held(claim("a"))
        clock.advance(0.5)
        taken = claim("a", token="you", digest=b"another content!")
        assert await spool.claim(taken, hold=20) is None
        assert await spool.find("a") == held(taken, until=NOW + 30)

    async def test_a_claim_finds_what_waits_what_is_dead_and_what_is_confirmed(
        self, spool: Spool, clock: StoreClock
    ) -> None:
        letter = await self._buried(spool, "dead")
        await spool.put(row("waits"))
        await confirm(spool, "confirmed")
        clock.advance(1_000)
        assert await spool.claim(claim("waits"), hold=10) == waits(row("waits"))
        assert await spool.claim(claim("dead"), hold=10) == letter
        assert await spool.claim(claim("confirmed"), hold=10) == confirmed("confirmed")

    async def test_a_claimed_task_that_is_confirmed_is_remembered(self, spool: Spool) -> None:
        await spool.claim(claim("a"), hold=10)
        await confirm(spool, "a")
        assert await spool.find("a") == confirmed("a")
        await confirm(spool, "a", at=NOW + 50)
        assert await spool.find("a") == confirmed("a"), "the first confirm is the one that is remembered"

    async def test_a_put_takes_the_place_of_a_claim(self, spool: Spool) -> None:
        await spool.claim(claim("a"), hold=10)
        assert await spool.put(row("a"))
        assert await spool.find("a") == waits(row("a"))
        await confirm(spool, "a")
        assert await spool.find("a") == waits(row("a")), "what waits is published by the drain, which tells of it"

    async def test_a_released_claim_is_gone_if_it_was_ours(self, spool: Spool) -> None:
        await spool.claim(claim("a"), hold=10)
        await spool.release("a", "you")
        assert await spool.find("a") == held(claim("a"))
        await spool.release("a", "me")
        assert await spool.find("a") is None
        await confirm(spool, "a")
        await spool.release("a", "")
        assert await spool.find("a") == confirmed("a")

    async def test_claims_and_records_do_not_count_as_tasks(self, spool: Spool) -> None:
        await spool.claim(claim("a"), hold=10)
        await confirm(spool, "b")
        size = await spool.measure()
        assert (size.tasks, size.bytes, size.dead, size.next_due_at) == (0, 0, 0, None)

    async def test_who_replayed_and_who_purged_is_kept(self, spool: Spool) -> None:
        for task_id in "abc":
            await self._buried(spool, task_id)
        await spool.replay(audit("b", "a", "nobody", at=NOW + 1))
        await spool.purge(audit("c", at=NOW + 2, action="purge"))
        await spool.purge(audit("nobody", at=NOW + 3, action="purge"))
        kept = [audit("c", at=NOW + 2, action="purge"), audit("b", "a", at=NOW + 1)]
        assert list(await spool.audits(limit=10)) == kept
        assert list(await spool.audits(limit=1, offset=1)) == kept[1:]

    async def test_a_row_waits_for_its_eta_or_its_delay_whichever_is_later(
        self, spool: Spool, clock: StoreClock
    ) -> None:
        for task_id, delay, eta in (("a", 0, NOW + 5), ("b", 9, NOW + 5), ("c", 0, NOW - 5)):
            await spool.put(row(task_id, delay=delay, eta=eta))
        found = [(each.task_id, each.due_at) for each in await spool.waiting(limit=9)]
        assert found == [("c", NOW), ("a", NOW + 5), ("b", NOW + 9)]
        taken: list[str] = []
        for _ in range(3):
            taken += [lease.row.envelope.task_id for lease in await spool.lease(9, hold=60)]
            taken.append("|")
            clock.advance(5)
        assert "".join(taken) == "c|a|b|"

    # One time: what the clock of a host says changes nothing of what is due, held or kept

    @pytest.mark.parametrize("by", [-3_600.0, 3_600.0, -90.0, 90.0])
    async def test_what_is_due_stays_due_when_a_hosts_clock_is_set(
        self, spool: Spool, clock: StoreClock, set_host: SetHost, by: float
    ) -> None:
        await spool.put(row("due"))
        await spool.put(row("later", delay=5))
        set_host(by)
        await spool.put(row("after"))
        taken = {lease.row.envelope.task_id for lease in await spool.lease(9, hold=60)}
        assert taken == {"due", "after"}
        clock.advance(5)
        (lease,) = await spool.lease(9, hold=60)
        assert lease.row.envelope.task_id == "later"
        assert await settle(spool, lease, Again(5, 1, "nacked", "", alone=False))
        set_host(-2 * by)
        assert not await spool.lease(9, hold=60)
        clock.advance(5)
        assert len(await spool.lease(9, hold=60)) == 1

    @pytest.mark.parametrize("by", [-3_600.0, 3_600.0, -90.0, 90.0])
    async def test_a_lease_a_claim_and_a_record_last_as_long_when_a_hosts_clock_is_set(
        self, spool: Spool, clock: StoreClock, set_host: SetHost, by: float
    ) -> None:
        await spool.put(row("leased"))
        (lease,) = await spool.lease(1, hold=60)
        assert await spool.claim(claim("claimed"), hold=60) is None
        await confirm(spool, "confirmed")  # for 100 s
        set_host(by)
        clock.advance(59)
        assert not await spool.lease(1, hold=60)
        assert isinstance(await spool.claim(claim("claimed", token="you"), hold=60), Record)
        clock.advance(1)
        assert await spool.claim(claim("claimed", token="you"), hold=60) is None
        (again,) = await spool.lease(1, hold=60)
        assert not await settle(spool, lease, DONE), "it is another's by now"
        assert await settle(spool, again, DONE)
        clock.advance(39)
        assert await spool.forget(limit=9) == 0
        clock.advance(1)
        assert await spool.forget(limit=9) == 1
        assert await spool.find("confirmed") is None

    async def _buried(self, spool: Spool, task_id: str, **given: object) -> DeadLetter:
        died: dict[str, object] = {
            "died_at": NOW,
            "attempts": 3,
            "reason": "nacked",
            "code": 312,
            "text": "why",
            "history": HISTORY,
            **given,
        }
        await spool.put(row(task_id))
        (lease,) = await spool.lease(1, hold=60)
        assert await settle(spool, lease, Bury(**died))  # type: ignore[arg-type]  # the caller's own fields
        return DeadLetter(lease.row.envelope, lease.row.accepted_at, **died)  # type: ignore[arg-type]  # as above
