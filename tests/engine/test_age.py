"""How old a task in the spool is: waiting as told is not being stuck."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta

import pytest

from engine_bench import bench, embed
from mlproducer import Producer, SpoolFull, TaskState
from mlproducer.rows import Again, Bury, NewRow
from mlproducer.spool.memory import MemorySpool
from mlproducer.status import CheckStatus
from mlproducer.testing.spool_contract import row

DAY = 86_400.0
MAX_AGE = 3_600.0


async def _old(delay: float) -> MemorySpool:
    """A spool with a task of ten days ago."""
    spool = MemorySpool()
    assert await spool.put(NewRow(row("old").envelope, time.time() - 10 * DAY, delay))
    return spool


def _fill(p: Producer) -> CheckStatus:
    return next(check.status for check in p.health().checks if check.name == "spool_fill")


async def test_a_task_that_waits_for_an_eta_beyond_the_greatest_age_closes_the_spool_for_nobody() -> None:
    b = bench(ml_spool_max_age=0.05)
    b.broker.blocked = True
    async with b.producer as p:
        await p.connected(1)
        assert (await p.publish(embed(eta=datetime.now(UTC) + timedelta(seconds=DAY)))).state is TaskState.SPOOLED
        await p._parts.gauges.measure()
        await asyncio.sleep(0.1)
        assert p.status().spool_oldest_age == 0.0
        assert _fill(p) is CheckStatus.OK
        assert (await p.publish(embed(2))).state is TaskState.SPOOLED


async def test_a_dead_letter_of_long_ago_that_is_replayed_closes_the_spool_for_nobody() -> None:
    spool = await _old(-10 * DAY)
    (lease,) = await spool.lease(1, hold=60)
    assert await spool.settle([(lease, Bury(time.time() - 9 * DAY, 3, "nacked", None, "why"))]) == [True]
    b = bench(spool=spool, ml_spool_max_age=MAX_AGE)
    b.broker.blocked = True
    async with b.producer as p:
        await p.connected(1)
        assert await p.replay(["old"]) == 1
        assert (p.status().spool_oldest_age or 0.0) < MAX_AGE
        assert (await p.publish(embed())).state is TaskState.SPOOLED


async def test_a_task_that_was_tried_again_for_days_is_as_old_as_it_is() -> None:
    spool = await _old(-9 * DAY)
    (lease,) = await spool.lease(1, hold=60)
    assert await spool.settle([(lease, Again(60, 0, "not_connected", "", alone=False))]) == [True]
    b = bench(spool=spool, ml_spool_max_age=MAX_AGE)
    b.broker.blocked = True
    async with b.producer as p:
        await p.connected(1)
        assert (p.status().spool_oldest_age or 0.0) > 8 * DAY
        with pytest.raises(SpoolFull, match="ML_SPOOL_MAX_AGE"):
            await p.publish(embed())
