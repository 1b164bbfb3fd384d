"""What a store is told to wait for is what the settings say, in seconds: a lease, a claim, a record, a retry."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence

import pytest

from engine_bench import bench, embed, until
from mlproducer.delivery.claims import COMMIT, MARGIN
from mlproducer.delivery.pipeline import spans
from mlproducer.outcome import Nacked
from mlproducer.rows import Again, Claim, Done, Known, Lease, NewRow, Settlement
from mlproducer.spool.memory import MemorySpool
from mlproducer.task import Flow

LEASE, RETENTION, RETRY, CONFIRM = 47.0, 7_001.0, 0.11, 3.0


class Noting(MemorySpool):
    """Notes each span that it is told, by what it is for."""

    def __init__(self) -> None:
        super().__init__()
        self.spans: dict[str, list[float]] = defaultdict(list)

    async def put(self, row: NewRow) -> bool:
        self.spans["delay"].append(row.delay)
        return await super().put(row)

    async def claim(self, claim: Claim, *, hold: float) -> Known | None:
        self.spans["claim"].append(hold)
        return await super().claim(claim, hold=hold)

    async def confirm(self, claim: Claim, *, confirmed_at: float, keep: float) -> None:
        self.spans["keep"].append(keep)
        await super().confirm(claim, confirmed_at=confirmed_at, keep=keep)

    async def lease(
        self, limit: int, *, hold: float, expired: bool = False, shares: Mapping[Flow, int] | None = None
    ) -> Sequence[Lease]:
        self.spans["lease"].append(hold)
        return await super().lease(limit, hold=hold, expired=expired, shares=shares)

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[bool]:
        self.spans["keep"] += [verdict.keep for _, verdict in settlements if isinstance(verdict, Done)]
        self.spans["delay"] += [verdict.delay for _, verdict in settlements if isinstance(verdict, Again)]
        return await super().settle(settlements)


@pytest.mark.parametrize("given", [1.0, 30.0, 3_600.0])
async def test_each_span_that_the_store_is_told_is_that_of_its_setting(given: float) -> None:
    spool = Noting()
    b = bench(
        spool=spool,
        ml_drain_lease=LEASE,
        ml_receipt_retention=RETENTION,
        ml_retry_first=RETRY,
        ml_retry_cap=1.0,
        ml_retry_jitter=0.0,
        ml_confirm_timeout=CONFIRM,
    )
    async with asyncio.timeout(20), b.producer as p:
        await p.connected(5)
        await p.publish(embed(1, id="chosen"), timeout=given)  # confirmed directly
        b.broker.script.extend([Nacked(), Nacked()])
        await p.publish(embed(2), timeout=given)  # by way of the spool: two retries
        await until(lambda: not spool._rows)
    assert spool.spans["delay"] == pytest.approx([RETRY, 2 * RETRY])
    assert set(spool.spans["keep"]) == {RETENTION}
    assert len(spool.spans["keep"]) == 2
    assert set(spool.spans["lease"]) == {LEASE}
    direct = min(CONFIRM, given - min(1.0, given / 5))
    (claim,) = spool.spans["claim"]
    # It outlasts the attempt and its commit, lest another publish the id meanwhile; and the call, if that is shorter.
    assert claim == pytest.approx(min(given, direct + COMMIT) + MARGIN, abs=1.0)


@pytest.mark.parametrize("given", [0.01, 0.5, 1.0, 3.9, 4.0, 5.0, 30.0, 3_600.0])
def test_a_call_keeps_a_fifth_of_its_time_or_a_second_for_its_commit(given: float) -> None:
    direct, whole = spans(given, CONFIRM)
    assert whole == given
    assert whole - direct >= min(1.0, given / 5) - 1e-9
    assert direct == pytest.approx(min(CONFIRM, given - min(1.0, given / 5)))


class Forgetful(MemorySpool):
    """The answer to its first claim is lost, and the second one finds the first."""

    async def claim(self, claim: Claim, *, hold: float) -> Known | None:
        await super().claim(claim, hold=hold)
        return await super().claim(claim, hold=hold)


async def test_a_claim_whose_answer_was_lost_is_known_as_ours() -> None:
    b = bench(spool=Forgetful())
    async with asyncio.timeout(20), b.producer as p:
        await p.connected(5)
        assert (await p.publish(embed(1, id="a"), timeout=10)).confirmed
