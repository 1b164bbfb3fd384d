"""Rows are leased flow by flow: a flow is told by its routing key and its tenant."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import pytest
from msgspec import structs

from mlproducer.ports import Spool
from mlproducer.rows import LEASE_BYTES, Again, Bury, DeadLetter, Lease, NewRow
from mlproducer.task import Flow
from mlproducer.testing.spool_contract.examples import DONE, HISTORY, NOW, StoreClock, audit, row, settle

AGAIN = Again(9, 2, "nacked", "", alone=False, history=HISTORY)
BURY = Bury(NOW, 3, "nacked", None, "why", HISTORY)


def routed(task_id: str, key: str, *, tenant: str = "", delay: float = 0.0, size: int = 10) -> NewRow:
    """As `row`, for the route `key`."""
    new = row(task_id, delay=delay, size=size)
    return structs.replace(new, envelope=structs.replace(new.envelope, routing_key=key, tenant=tenant))


def flows(keys: Iterable[str]) -> list[Flow]:
    """Of nobody in particular."""
    return [Flow(key) for key in keys]


def of(shares: Mapping[str, int]) -> dict[Flow, int]:
    """Of nobody in particular, by routing key."""
    return {Flow(key): share for key, share in shares.items()}


async def put_all(spool: Spool, rows: Iterable[NewRow]) -> None:
    assert all(await asyncio.gather(*(spool.put(each) for each in rows)))


def ids(leases: Sequence[Lease]) -> list[str]:
    return sorted(lease.row.envelope.task_id for lease in leases)


class OfRoutes:
    """Of the routes of rows that wait."""

    async def test_the_routes_are_those_of_rows_that_may_be_leased_each_once(
        self, spool: Spool, clock: StoreClock
    ) -> None:
        assert list(await spool.flows()) == []
        await put_all(spool, (routed("a1", "a"), routed("a2", "a"), routed("b", "b"), routed("c", "c", delay=5)))
        assert sorted(await spool.flows()) == flows(["a", "b"])
        await spool.lease(2, hold=60, shares=of({"a": 1, "b": 1}))
        assert sorted(await spool.flows()) == flows(["a"]), "one of a is left"
        clock.advance(5)
        assert sorted(await spool.flows()) == flows(["a", "c"])
        clock.advance(55)
        assert sorted(await spool.flows()) == flows(["a", "b", "c"]), "the lease is over"

    async def test_a_share_gives_the_oldest_rows_of_its_route_and_no_others(self, spool: Spool) -> None:
        await put_all(spool, (routed(f"{key}{n}", key, delay=-n) for key in ("a", "b", "c") for n in range(4)))
        await spool.put(routed("a later", "a", delay=1))
        leases = await spool.lease(100, hold=60, shares=of({"a": 2, "b": 0, "nobody": 9, "c": 9}))
        assert ids(leases) == ["a2", "a3", "c0", "c1", "c2", "c3"]
        due = [lease.row.due_at for lease in leases]
        assert due == sorted(due)
        assert ids(await spool.lease(100, hold=60, shares=of({"a": 9, "c": 9}))) == ["a0", "a1"]
        assert ids(await spool.lease(100, hold=60)) == ["b0", "b1", "b2", "b3"]

    async def test_no_shares_are_no_rows(self, spool: Spool) -> None:
        await spool.put(routed("a", "a"))
        for limit, shares in ((9, {}), (9, {"a": 0}), (9, {"b": 1}), (0, {"a": 1})):
            assert not await spool.lease(limit, hold=60, shares=of(shares))
        assert len(await spool.lease(9, hold=60)) == 1

    async def test_a_lease_by_route_is_a_lease(self, spool: Spool, clock: StoreClock) -> None:
        await put_all(spool, (routed("a", "a"), routed("b", "b")))
        (first,) = await spool.lease(9, hold=60, shares=of({"a": 9}))
        assert (await spool.measure()).tasks == 2
        assert ids(await spool.lease(9, hold=90)) == ["b"]
        assert (await spool.measure()).next_due_at == NOW + 60
        clock.advance(59)
        assert not await spool.lease(9, hold=60, shares=of({"a": 9}))
        clock.advance(1)
        (second,) = await spool.lease(9, hold=60, shares=of({"a": 9, "b": 9}))
        assert (second.row, second.token != first.token) == (first.row, True)
        assert not await settle(spool, first, DONE)
        assert await settle(spool, second, DONE)
        assert (await spool.measure()).tasks == 1

    async def test_a_row_keeps_its_route_through_retries_death_and_replay(
        self, spool: Spool, clock: StoreClock
    ) -> None:
        await spool.put(routed("a", "a"))
        (lease,) = await spool.lease(9, hold=60, shares=of({"a": 1}))
        assert await settle(spool, lease, AGAIN)
        assert list(await spool.flows()) == []
        clock.advance(9)
        assert list(await spool.flows()) == flows(["a"])
        (lease,) = await spool.lease(9, hold=60, shares=of({"a": 1}))
        assert await settle(spool, lease, BURY)
        clock.advance(60)
        assert list(await spool.flows()) == [], "dead"
        await spool.replay(audit("a"))
        assert list(await spool.flows()) == flows(["a"])
        (lease,) = await spool.lease(9, hold=60, shares=of({"a": 1}))
        assert await settle(spool, lease, DONE)
        clock.advance(60)
        assert list(await spool.flows()) == [], "confirmed"

    async def test_expired_rows_have_no_shares(self, spool: Spool, clock: StoreClock) -> None:
        await put_all(spool, (routed("a", "a"), routed("b", "b")))
        clock.advance(60)
        with pytest.raises(ValueError, match="not both"):
            await spool.lease(9, hold=60, expired=True, shares=of({"a": 1}))
        (lease, _) = await spool.lease(9, hold=60, expired=True)
        assert await settle(spool, lease, BURY)
        clock.advance(60)
        (left,) = {"a", "b"} - {lease.row.envelope.task_id}
        assert list(await spool.flows()) == flows([left]), "whatever it was leased by, its route knows it"

    async def test_where_the_limit_is_short_routes_take_turns(self, spool: Spool) -> None:
        await put_all(spool, (routed(f"a{n}", "a", delay=-n) for n in range(9)))
        await put_all(spool, (routed(f"{key}1", key) for key in "bcd"))
        shares = dict.fromkeys("dacb", 9)
        assert ids(await spool.lease(2, hold=60, shares=of(shares))) == ["a8", "d1"], "in the order of the shares"
        assert ids(await spool.lease(6, hold=60, shares=of(shares))) == ["a4", "a5", "a6", "a7", "b1", "c1"]
        assert len(await spool.lease(100, hold=60, shares=of(shares))) == 4

    async def test_each_of_many_routes_has_one_row_before_any_has_two(self, spool: Spool) -> None:
        keys = [f"r{n}" for n in range(600)]
        await put_all(spool, (routed(f"{key} {n}", key) for key in keys for n in range(2)))
        assert sorted(await spool.flows()) == flows(sorted(keys))
        for _ in range(2):
            leases = await spool.lease(600, hold=60, shares=of(dict.fromkeys(keys, 2)))
            counts = Counter(lease.row.envelope.routing_key for lease in leases)
            assert counts == dict.fromkeys(keys, 1)
        assert not await spool.flows()

    async def test_a_routes_large_rows_leave_room_for_one_row_of_each_other(self, spool: Spool) -> None:
        half = LEASE_BYTES // 2
        await put_all(spool, (routed(f"a{n}", "a", size=half, delay=n - 9) for n in range(2)))
        await put_all(spool, (routed(f"{key}{n}", key, delay=n - 2) for key in "bc" for n in range(2)))
        shares = dict.fromkeys("abc", 9)
        assert ids(await spool.lease(9, hold=60, shares=of(shares))) == ["a0", "b0", "b1", "c0", "c1"]
        assert ids(await spool.lease(9, hold=60, shares=of(shares))) == ["a1"]

    async def test_a_route_is_told_by_all_of_its_key(self, spool: Spool) -> None:
        keys = ["", "a", "aa", "a.b", "A", "a ", "a\x01", "é ✓", "%s", "'\"\\", "x" * 255, "x" * 254, "x" * 254 + "y"]
        await put_all(spool, (routed(f"t{n}", key) for n, key in enumerate(keys)))
        assert sorted(await spool.flows()) == flows(sorted(keys))
        for n, key in enumerate(keys):
            assert ids(await spool.lease(9, hold=60, shares=of({key: 9}))) == [f"t{n}"], key


class OfTenants:
    """Of the tenants of a route."""

    async def test_the_tenants_of_a_route_take_turns_and_a_share_gives_none_of_anothers_rows(
        self, spool: Spool
    ) -> None:
        await put_all(spool, (routed(f"a{n}", "r", tenant="a", delay=n - 40) for n in range(30)))
        await put_all(spool, (routed(f"b{n}", "r", tenant="b", delay=n - 9) for n in range(2)))
        await put_all(spool, (routed("nobody", "r"), routed("other", "s", tenant="a")))
        due = [Flow("r"), Flow("r", "a"), Flow("r", "b"), Flow("s", "a")]
        assert sorted(await spool.flows()) == due
        leases = await spool.lease(6, hold=60, shares=dict.fromkeys(due[:3], 99))
        assert ids(leases) == ["a0", "a1", "a2", "b0", "b1", "nobody"]
        assert {lease.row.envelope.tenant for lease in leases} == {"", "a", "b"}
        assert sorted(await spool.flows()) == [Flow("r", "a"), Flow("s", "a")]
        assert ids(await spool.lease(99, hold=60, shares={Flow("s", "a"): 99, Flow("s"): 9})) == ["other"]

    async def test_a_row_keeps_its_tenant_through_retries_death_and_replay(
        self, spool: Spool, clock: StoreClock
    ) -> None:
        await put_all(spool, (routed("t", "r", tenant="a"), routed("nobody", "r", delay=999)))
        due = [Flow("r", "a")]
        for verdict in (AGAIN, BURY):
            (lease,) = await spool.lease(9, hold=60, shares={Flow("r"): 9, due[0]: 9})
            assert await settle(spool, lease, verdict)
            clock.advance(9)
            assert list(await spool.flows()) == (due if verdict is AGAIN else [])
        letter = await spool.find("t")
        assert isinstance(letter, DeadLetter)
        assert letter.envelope.tenant == "a"
        await spool.replay(audit("t"))
        assert list(await spool.flows()) == due
        (lease,) = await spool.lease(9, hold=0)
        assert lease.row.envelope.flow == due[0], "whatever it was leased by"
        assert list(await spool.flows()) == due, "that lease is over"
        (lease,) = await spool.lease(9, hold=60, shares={due[0]: 9})
        assert await settle(spool, lease, DONE)
        assert list(await spool.flows()) == []

    async def test_a_flow_is_told_by_all_of_its_route_and_tenant(self, spool: Spool) -> None:
        parts = ["", "a", "aa", "ab", "=0f", "é", "x" * 40]
        due = [Flow(f"r{route}", tenant) for route in parts for tenant in parts]
        await put_all(spool, (routed(f"t{n}", flow.route, tenant=flow.tenant) for n, flow in enumerate(due)))
        assert sorted(await spool.flows()) == sorted(due)
        for n, flow in enumerate(due):
            assert ids(await spool.lease(9, hold=60, shares={flow: 9})) == [f"t{n}"], flow
