"""One time: what the clock of a host says changes nothing of what is due, held or kept."""

from __future__ import annotations

import pytest

from mlproducer.ports import Spool
from mlproducer.rows import (
    Again,
    Record,
)
from mlproducer.testing.spool_contract.examples import DONE, SetHost, StoreClock, claim, confirm, row, settle


class OfTime:
    """Of the clocks of hosts."""

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
