"""What waits: put, leased, settled, measured."""

from __future__ import annotations

import asyncio
import math

from msgspec.structs import replace

from mlproducer.ports import Spool
from mlproducer.rows import (
    LEASE_BYTES,
    Again,
    Bury,
    Lease,
    Settlement,
    SpoolRow,
    Verdict,
)
from mlproducer.testing.spool_contract.examples import DONE, HISTORY, NOW, StoreClock, entry, row, settle, waits


class OfRows:
    """Of rows that wait."""

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

    async def test_a_row_that_nobody_holds_is_settled_without_a_token(self, spool: Spool) -> None:
        names = ("done", "again", "bury", "held")
        for name in names:
            await spool.put(row(name, delay=60 if name != "held" else 0))
        (held,) = await spool.lease(9, hold=60)
        leases = {name: Lease(row(name).waiting(0.0), "") for name in (*names, "nowhere")}
        again = Again(0, 2, "nacked", "", alone=False, history=HISTORY)
        bury = Bury(NOW, 3, "nacked", None, "why", HISTORY)
        answers = await spool.settle(
            [
                (leases["done"], DONE),
                (leases["done"], DONE),
                (leases["again"], again),
                (leases["bury"], bury),
                (leases["held"], DONE),
                (leases["nowhere"], DONE),
            ]
        )
        assert list(answers) == [True, False, True, True, False, False]
        size = await spool.measure()
        assert (size.tasks, size.dead) == (2, 1)
        (lease,) = await spool.lease(9, hold=60)
        assert (lease.row.envelope.task_id, lease.row.attempts, lease.row.history) == ("again", 2, HISTORY)
        assert await settle(spool, held, again)
        assert await settle(spool, leases["held"], DONE), "put back, it is nobody's"
        assert not await settle(spool, leases["done"], DONE), "it is not there any more"

    async def test_without_a_token_only_a_row_that_was_accepted_then_is_settled(self, spool: Spool) -> None:
        """An id that was removed and given anew is another task's, however soon after."""
        accepted_at = NOW - 1 / 3
        again, bury = Again(0, 2, "nacked", "", alone=False), Bury(NOW, 3, "nacked", None, "why")
        verdicts: dict[str, Verdict] = {"done": DONE, "again": again, "bury": bury}

        def settlements(at: float) -> list[Settlement]:
            leases = {name: Lease(replace(row(name).waiting(0.0), accepted_at=at), "") for name in verdicts}
            return [(leases[name], verdict) for name, verdict in verdicts.items()]

        for name in verdicts:
            await spool.put(replace(row(name, delay=60), accepted_at=accepted_at))
        for other in (NOW - 60, math.nextafter(accepted_at, NOW)):
            assert list(await spool.settle(settlements(other))) == [False] * 3
        assert (await spool.measure()).tasks == 3
        mixed = settlements(NOW - 60) + settlements(accepted_at)
        assert list(await spool.settle(mixed)) == [False] * 3 + [True] * 3, "none costs its neighbour anything"
        size = await spool.measure()
        assert (size.tasks, size.dead) == (1, 1)

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

    async def test_a_row_that_expires_while_somebody_holds_it_is_nobody_elses(
        self, spool: Spool, clock: StoreClock
    ) -> None:
        await spool.put(row("a"))  # row() expires at NOW + 60
        (lease,) = await spool.lease(1, hold=100)
        clock.advance(99)
        assert not await spool.lease(9, hold=60, expired=True)
        clock.advance(1)
        assert len(await spool.lease(9, hold=60, expired=True)) == 1
        assert not await settle(spool, lease, DONE)

    async def test_of_large_ones_that_come_together_none_is_left_out(self, spool: Spool) -> None:
        ids = [f"t{n}" for n in range(9)]
        assert all(await asyncio.gather(*(spool.put(row(task_id, size=400_000)) for task_id in ids)))
        assert [each.task_id for each in await spool.waiting(limit=99)] == ids
        assert (await spool.measure()).tasks == len(ids)

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

    async def test_a_row_that_is_put_back_still_expires_at_its_time(self, spool: Spool, clock: StoreClock) -> None:
        await spool.put(row("a"))  # row() expires at NOW + 60
        (lease,) = await spool.lease(1, hold=100)
        assert await settle(spool, lease, Again(9_000, 2, "nacked", "", alone=False))
        clock.advance(60)
        assert len(await spool.lease(9, hold=60, expired=True)) == 1, "and not when its lease would have ended"

    async def test_what_is_settled_holds_up_nothing_that_expires(self, spool: Spool, clock: StoreClock) -> None:
        for task_id in "abc":
            await spool.put(row(task_id))
        a, b, _ = await spool.lease(3, hold=30)
        assert all(await spool.settle([(a, DONE), (b, Bury(NOW, 3, "nacked", None, "why"))]))
        clock.advance(60)
        assert [each.row.envelope.task_id for each in await spool.lease(1, hold=60, expired=True)] == ["c"]
        assert not await spool.lease(9, hold=60, expired=True)
