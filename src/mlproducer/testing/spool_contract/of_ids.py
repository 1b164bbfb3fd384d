"""Ids that callers chose: claims of them, and records of what was confirmed."""

from __future__ import annotations

import asyncio

from mlproducer.ports import Spool
from mlproducer.testing.spool_contract.examples import (
    DONE,
    NOW,
    StoreClock,
    buried,
    claim,
    confirm,
    confirmed,
    held,
    row,
    settle,
    waits,
)


class OfIds:
    """Of ids."""

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
        letter = await buried(spool, "dead")
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
