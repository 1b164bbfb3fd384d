"""What every spool must do: subclass `SpoolContract` in a test module and give it a `make_spool` fixture.

It needs pytest with pytest-asyncio. The same sentences hold for every store; what is special to one is tested apart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from mlproducer.ports import Again, Bury, DeadFilter, DeadLetter, Done, Spool, SpoolRow
from mlproducer.task import Envelope

MakeSpool = Callable[[], Spool]
NOW = 1_800_000_000.0


def row(task_id: str, *, due_at: float = NOW, size: int = 10, **given: object) -> SpoolRow:
    """A row with all there is to remember; `given` overrides fields of `SpoolRow`."""
    envelope = Envelope(task_id, "embed_vectors", "ml.embed", b"\x00\xff" * 5, b"x" * size, NOW + 60, None)
    fields: dict[str, object] = {"attempts": 1, "cause": "nacked", "text": "naïve ✓", "alone": True, **given}
    return SpoolRow(envelope, NOW - 5, due_at, **fields)  # type: ignore[arg-type]  # the caller's own fields


class SpoolContract:
    """The sentences. Each test gets a spool of its own, open and empty."""

    @pytest.fixture
    async def spool(self, make_spool: MakeSpool):  # type: ignore[no-untyped-def]  # noqa: ANN201  # a fixture
        spool = make_spool()
        await spool.open()
        yield spool
        await spool.close()

    async def test_a_row_comes_back_as_it_was_put(self, spool: Spool) -> None:
        assert await spool.put(row("a"))
        assert await spool.find("a") == row("a")
        assert list(await spool.waiting(limit=10)) == [row("a")]

    async def test_an_id_that_is_there_already_stays_as_it_was(self, spool: Spool) -> None:
        await spool.put(row("a"))
        assert not await spool.put(row("a", size=99))
        assert await spool.find("a") == row("a")
        assert (await spool.measure()).tasks == 1

    async def test_two_puts_of_one_id_at_once_store_one(self, spool: Spool) -> None:
        stored = await asyncio.gather(*(spool.put(row("a")) for _ in range(20)))
        assert stored.count(True) == 1

    async def test_only_due_rows_are_leased_and_the_longest_due_first(self, spool: Spool) -> None:
        for task_id, due in (("late", NOW + 1), ("b", NOW - 1), ("a", NOW - 2)):
            await spool.put(row(task_id, due_at=due))
        leases = await spool.lease(10, now=NOW, until=NOW + 60)
        assert [lease.row.envelope.task_id for lease in leases] == ["a", "b"]
        assert len(await spool.lease(10, now=NOW + 1, until=NOW + 60)) == 1

    async def test_a_leased_row_is_nobody_elses_until_the_lease_ends(self, spool: Spool) -> None:
        await spool.put(row("a"))
        (first,) = await spool.lease(10, now=NOW, until=NOW + 60)
        assert not await spool.lease(10, now=NOW + 59, until=NOW + 120)
        (second,) = await spool.lease(10, now=NOW + 60, until=NOW + 120)
        assert second.token != first.token
        assert not await spool.settle(first, Done()), "the first lease was lost"
        assert await spool.find("a") is not None
        assert await spool.settle(second, Done())

    async def test_a_lease_that_ended_still_settles_while_nobody_else_took_the_row(self, spool: Spool) -> None:
        await spool.put(row("a"))
        (lease,) = await spool.lease(1, now=NOW, until=NOW + 60)
        assert not await spool.lease(0, now=NOW + 90, until=NOW + 120)
        assert await spool.settle(lease, Done()), "it was published: publishing it again would help nobody"

    async def test_a_held_row_is_next_due_when_its_lease_ends(self, spool: Spool) -> None:
        await spool.put(row("a"))
        await spool.lease(1, now=NOW, until=NOW + 60)
        assert (await spool.measure()).next_due_at == NOW + 60

    async def test_a_lease_settles_once(self, spool: Spool) -> None:
        await spool.put(row("a"))
        (lease,) = await spool.lease(1, now=NOW, until=NOW + 60)
        answers = await asyncio.gather(spool.settle(lease, Done()), spool.settle(lease, Done()))
        assert sorted(answers) == [False, True]
        assert await spool.find("a") is None

    async def test_done_removes_the_row(self, spool: Spool) -> None:
        await spool.put(row("a"))
        (lease,) = await spool.lease(1, now=NOW, until=NOW + 60)
        assert await spool.settle(lease, Done())
        size = await spool.measure()
        assert (size.tasks, size.bytes, size.dead) == (0, 0, 0)
        assert size.oldest_accepted_at is None
        assert size.next_due_at is None

    async def test_again_keeps_the_row_for_later_with_what_was_learnt(self, spool: Spool) -> None:
        await spool.put(row("a"))
        (lease,) = await spool.lease(1, now=NOW, until=NOW + 60)
        assert await spool.settle(lease, Again(NOW + 9, 2, "returned", "312 NO_ROUTE", alone=False))
        assert await spool.find("a") == row(
            "a", due_at=NOW + 9, attempts=2, cause="returned", text="312 NO_ROUTE", alone=False
        )
        assert not await spool.lease(1, now=NOW + 8, until=NOW + 60)
        assert len(await spool.lease(1, now=NOW + 9, until=NOW + 60)) == 1

    async def test_bury_moves_the_row_to_the_dead_letters(self, spool: Spool) -> None:
        letter = await self._buried(spool, "a")
        assert await spool.find("a") == letter
        assert list(await spool.dead(DeadFilter(), limit=10)) == [letter]
        assert not await spool.waiting(limit=10)
        size = await spool.measure()
        assert (size.tasks, size.bytes, size.dead) == (0, 0, 1)
        assert not await spool.put(row("a")), "a dead letter is kept: its id is there already"

    async def test_replay_brings_a_dead_letter_back_with_no_attempts_spent(self, spool: Spool) -> None:
        await self._buried(spool, "a")
        assert await spool.replay(["a", "a", "nobody"], now=NOW + 7) == 1
        found = await spool.find("a")
        assert isinstance(found, SpoolRow)
        assert (found.attempts, found.due_at, found.alone) == (0, NOW + 7, False)
        assert found.envelope == row("a").envelope
        size = await spool.measure()
        assert (size.tasks, size.bytes, size.dead) == (1, row("a").envelope.size, 0)
        assert len(await spool.lease(1, now=NOW + 7, until=NOW + 60)) == 1

    async def test_purge_removes_dead_letters_and_nothing_else(self, spool: Spool) -> None:
        await self._buried(spool, "a")
        await spool.put(row("b"))
        assert await spool.purge(["a", "b", "nobody"]) == 1
        assert await spool.find("a") is None
        assert await spool.find("b") is not None

    async def test_dead_letters_are_found_by_any_filter_newest_first(self, spool: Spool) -> None:
        for n, (task_id, reason) in enumerate((("a", "nacked"), ("b", "returned"), ("c", "nacked"))):
            await self._buried(spool, task_id, reason=reason, died_at=NOW + n, text=f"Because 100%_{task_id}")

        async def ids(where: DeadFilter) -> list[str]:
            return [letter.envelope.task_id for letter in await spool.dead(where, limit=10)]

        assert await ids(DeadFilter()) == ["c", "b", "a"]
        assert await ids(DeadFilter(reason="nacked")) == ["c", "a"]
        assert await ids(DeadFilter(older_than=NOW + 1)) == ["a"]
        assert await ids(DeadFilter(text="because 100%_b")) == ["b"]
        assert await ids(DeadFilter(text="%")) == ["c", "b", "a"]
        assert await ids(DeadFilter(text="100_")) == []
        assert await ids(DeadFilter(task_type="summarize_llm")) == []
        assert [letter.envelope.task_id for letter in await spool.dead(DeadFilter(), limit=1, offset=1)] == ["b"]

    async def test_waiting_is_paged_by_when_rows_are_due(self, spool: Spool) -> None:
        for n in range(5):
            await spool.put(row(f"t{n}", due_at=NOW - n))
        page = await spool.waiting(limit=2, offset=1)
        assert [found.envelope.task_id for found in page] == ["t3", "t2"]

    async def test_the_size_is_that_of_what_waits(self, spool: Spool) -> None:
        await spool.put(row("a", due_at=NOW + 3, size=100))
        await spool.put(row("b", due_at=NOW + 2, size=50))
        size = await spool.measure()
        assert (size.tasks, size.bytes, size.oldest_accepted_at) == (2, 100 + 50 + 20, NOW - 5)
        assert size.next_due_at == NOW + 2

    async def test_many_callers_at_once_are_all_answered(self, spool: Spool) -> None:
        stored = await asyncio.gather(*(spool.put(row(f"t{n}")) for n in range(3_000)))
        assert all(stored)
        assert (await spool.measure()).tasks == 3_000
        leases = await spool.lease(3_000, now=NOW, until=NOW + 60)
        assert len({lease.row.envelope.task_id for lease in leases}) == 3_000
        assert all(await asyncio.gather(*(spool.settle(lease, Done()) for lease in leases)))
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
            assert await spool.find(f"c{steps}") in (None, row(f"c{steps}"))
        size = await spool.measure()
        assert size.tasks == len(await spool.waiting(limit=100))

    async def _buried(self, spool: Spool, task_id: str, **given: object) -> DeadLetter:
        died: dict[str, object] = {
            "died_at": NOW,
            "attempts": 3,
            "reason": "nacked",
            "code": 312,
            "text": "why",
            **given,
        }
        await spool.put(row(task_id))
        (lease,) = await spool.lease(1, now=NOW, until=NOW + 60)
        assert await spool.settle(lease, Bury(**died))  # type: ignore[arg-type]  # the caller's own fields
        return DeadLetter(lease.row.envelope, lease.row.accepted_at, **died)  # type: ignore[arg-type]  # as above
