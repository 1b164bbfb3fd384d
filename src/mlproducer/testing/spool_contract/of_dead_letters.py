"""What is dead: found, replayed, removed, and who did that."""

from __future__ import annotations

import asyncio

from mlproducer.ports import Spool
from mlproducer.rows import Again, Bury, DeadFilter, SpoolRow, Verdict
from mlproducer.testing.spool_contract.examples import HISTORY, NOW, StoreClock, audit, buried, dead_entry, row

MANY = 2_001
"""More than any store does in one step, and no multiple of such a step."""


class OfDeadLetters:
    """Of dead letters."""

    async def test_bury_moves_the_row_to_the_dead_letters(self, spool: Spool) -> None:
        letter = await buried(spool, "a")
        assert await spool.find("a") == letter
        assert list(await spool.dead(DeadFilter(), limit=10)) == [dead_entry(letter)]
        assert not await spool.waiting(limit=10)
        size = await spool.measure()
        assert (size.tasks, size.bytes, size.dead) == (0, 0, 1)
        assert not await spool.put(row("a")), "a dead letter is kept: its id is there already"

    async def test_replay_brings_a_dead_letter_back_with_no_attempts_spent(
        self, spool: Spool, clock: StoreClock
    ) -> None:
        await buried(spool, "a")
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
        await buried(spool, "a")
        await spool.put(row("b"))
        assert await spool.purge(audit("a", "b", "nobody", action="purge")) == 1
        assert await spool.find("a") is None
        assert await spool.find("b") is not None

    async def test_dead_letters_are_found_by_any_filter_newest_first(self, spool: Spool) -> None:
        for n, (task_id, reason) in enumerate((("a", "nacked"), ("b", "returned"), ("c", "nacked"))):
            await buried(spool, task_id, reason=reason, died_at=NOW + n, text=f"Because 100%_{task_id}")

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

    async def test_a_dead_letter_that_is_replayed_is_due_from_then_on(self, spool: Spool, clock: StoreClock) -> None:
        await buried(spool, "a")
        await spool.put(row("b", delay=9))
        clock.advance(7)
        await spool.replay(audit("a"))
        assert (await spool.measure()).first_due_at == NOW + 7

    async def test_who_replayed_and_who_purged_is_kept(self, spool: Spool) -> None:
        for task_id in "abc":
            await buried(spool, task_id)
        await spool.replay(audit("b", "a", "nobody", at=NOW + 1))
        await spool.purge(audit("c", at=NOW + 2, action="purge"))
        await spool.purge(audit("nobody", at=NOW + 3, action="purge"))
        kept = [audit("c", at=NOW + 2, action="purge"), audit("b", "a", at=NOW + 1)]
        assert list(await spool.audits(limit=10)) == kept
        assert list(await spool.audits(limit=1, offset=1)) == kept[1:]

    async def test_a_dead_letter_that_is_replayed_still_expires_at_its_time(
        self, spool: Spool, clock: StoreClock
    ) -> None:
        await buried(spool, "a")  # row() expires at NOW + 60
        assert await spool.replay(audit("a")) == 1
        clock.advance(59)
        assert not await spool.lease(9, hold=60, expired=True)
        clock.advance(1)
        assert [lease.row for lease in await spool.lease(9, hold=60, expired=True)] == [await spool.find("a")]

    async def test_of_many_none_is_left_out_wherever_a_step_ends(self, spool: Spool, clock: StoreClock) -> None:
        ids = [f"t{n:04}" for n in range(MANY)]
        assert all(await asyncio.gather(*(spool.put(row(task_id)) for task_id in ids)))

        async def settle_all(verdict: Verdict) -> None:
            leases = await spool.lease(MANY, hold=60)
            assert sorted(lease.row.envelope.task_id for lease in leases) == ids
            assert all(await spool.settle([(lease, verdict) for lease in leases]))

        bury = Bury(NOW, 3, "nacked", None, "why", HISTORY)
        await settle_all(Again(1, 2, "nacked", "", alone=False))
        clock.advance(1)
        await settle_all(bury)
        assert [letter.task_id for letter in await spool.dead(DeadFilter(), limit=MANY)] == ids
        assert await spool.replay(audit(*ids)) == MANY
        assert [each.task_id for each in await spool.waiting(limit=MANY)] == ids
        await settle_all(bury)
        assert await spool.count_dead(DeadFilter(reason="nacked")) == MANY
        assert await spool.purge(audit(*ids, action="purge")) == MANY
        size = await spool.measure()
        assert (size.tasks, size.bytes, size.dead) == (0, 0, 0)
