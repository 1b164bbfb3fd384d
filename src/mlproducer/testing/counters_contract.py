"""What every store's counters must do: subclass `CountersContract` and give it a `make_spool` fixture.

As `spool_contract`, with its `clock`; several objects of one `make_spool` are several instances on one store, where the
store can be shared.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from mlproducer.core.counting import merged, over_all_hours
from mlproducer.ports import CountingSpool
from mlproducer.rows import CountKey, Counts, Tally
from mlproducer.testing.clock import ManualClock
from mlproducer.testing.spool_contract import NOW, StoreClock

MakeCounters = Callable[[], CountingSpool]
HOUR = 500_000
LARGE = 2**62


def key(label: str = "", *, hour: int = HOUR, kind: str = "dead", task_type: str = "embed_vectors") -> CountKey:
    return CountKey(hour, task_type, kind, label)


def tally(name: str, counts: Counts, *, keep: float = 100) -> Tally:
    return Tally(name, keep, counts)


async def all_of(store: CountingSpool) -> Counts:
    return await store.counts(since=0, until=10**6, hourly=True)


class CountersContract:
    """Each test has a store of its own."""

    durable = True
    shared = True

    @pytest.fixture
    def clock(self) -> StoreClock:
        return ManualClock(NOW)

    @pytest.fixture
    def make_spool(self) -> MakeCounters:
        raise NotImplementedError("override this fixture")

    async def test_what_is_counted_adds_up(self, make_spool: MakeCounters) -> None:
        store = make_spool()
        await store.open()
        assert await all_of(store) == {}
        nacked, returned = key("nacked"), key("returned")
        assert list(await store.count([tally("a", {nacked: 2, returned: 1})])) == [True]
        assert list(await store.count([tally("b", {nacked: 3}), tally("c", {returned: LARGE})])) == [True, True]
        assert await all_of(store) == {nacked: 5, returned: LARGE + 1}
        await store.close()

    async def test_a_tally_is_added_once_however_often_it_is_told(self, make_spool: MakeCounters) -> None:
        store = make_spool()
        await store.open()
        first, other = tally("a", {key(): 1}), tally("a", {key(): 10, key("more"): 7})
        assert list(await store.count([first, other, tally("b", {key(): 100})])) == [True, False, True]
        assert list(await store.count([other])) == [False]
        assert await all_of(store) == {key(): 101}
        await store.close()

    async def test_nothing_counted_is_nothing_stored_but_its_id(self, make_spool: MakeCounters) -> None:
        store = make_spool()
        await store.open()
        assert list(await store.count([])) == []
        assert list(await store.count([tally("a", {})])) == [True]
        assert list(await store.count([tally("a", {key(): 1})])) == [False]
        assert await all_of(store) == {}
        await store.close()

    async def test_hours_are_kept_apart_or_summed_as_asked(self, make_spool: MakeCounters) -> None:
        store = make_spool()
        await store.open()
        hours = {key("x", hour=HOUR + n): n + 1 for n in range(60)}
        await store.count([tally("a", hours), tally("b", {key("y", hour=HOUR + 1): 5})])
        found = await store.counts(since=HOUR + 1, until=HOUR + 50, hourly=True)
        assert found == {key("y", hour=HOUR + 1): 5} | {
            each: n for each, n in hours.items() if HOUR + 1 <= each.hour < HOUR + 50
        }
        assert await store.counts(since=HOUR + 1, until=HOUR + 50, hourly=False) == over_all_hours(found, HOUR + 1)
        assert await store.counts(since=HOUR + 70, until=HOUR + 90, hourly=False) == {}
        await store.close()

    async def test_types_kinds_and_labels_of_any_text_are_kept_apart(self, make_spool: MakeCounters) -> None:
        store = make_spool()
        await store.open()
        counts = {
            key("ö ✓", kind="cost"): 1,
            key("", kind="cost"): 2,
            key("+Inf", kind="confirmed"): 3,
            key("0.005", kind="confirmed", task_type="transcribe_whisper"): 4,
            key("a:b,c'\"", kind="cost"): 5,
        }
        await store.count([tally("id with blanks: ✓'\"", counts)])
        assert await all_of(store) == counts
        await store.close()

    async def test_old_hours_and_ids_are_forgotten(self, make_spool: MakeCounters, clock: StoreClock) -> None:
        store = make_spool()
        await store.open()
        old, young = key(hour=HOUR - 1), key()
        await store.count([tally(f"o{n}", {old: 1}, keep=5) for n in range(5)])
        await store.count([tally("young", {young: 1}, keep=6)])
        clock.advance(5)
        assert await store.forget_counts(before=HOUR, limit=3) == 3
        assert await all_of(store) == {young: 1}
        assert await store.forget_counts(before=HOUR, limit=3) == 2
        assert await store.forget_counts(before=HOUR, limit=3) == 0
        assert list(await store.count([tally("o1", {young: 1}), tally("young", {young: 1})])) == [True, False]
        assert await all_of(store) == {young: 2}
        await store.close()

    async def test_many_calls_at_once_lose_nothing(self, make_spool: MakeCounters) -> None:
        store = make_spool()
        await store.open()
        tallies = [tally(f"t{n % 150}", {key(str(n % 3)): 1, key(hour=HOUR + n % 2): n % 150}) for n in range(300)]
        found = await asyncio.gather(*(store.count([each]) for each in tallies))
        assert sum(added for (added,) in found) == 150
        assert sum((await all_of(store)).values()) == 150 + sum(range(150))
        await store.close()

    async def test_the_sums_outlive_a_restart(self, make_spool: MakeCounters) -> None:
        if not self.durable:
            pytest.skip("it is gone with its object")
        store = make_spool()
        await store.open()
        await store.count([tally("a", {key(): 1})])
        await store.close()
        store = make_spool()
        await store.open()
        assert list(await store.count([tally("a", {key(): 1}), tally("b", {key(): 1})])) == [False, True]
        assert await all_of(store) == {key(): 2}
        await store.close()

    async def test_instances_add_to_the_same_sums_and_count_an_id_once(self, make_spool: MakeCounters) -> None:
        if not self.shared:
            pytest.skip("it has one owner")
        stores = [make_spool() for _ in range(3)]
        for store in stores:
            await store.open()
        # All of them reach for the same ids and sums, in different orders.
        tallies = [tally(f"t{n}", {key(str(n % 5)): 1, key(str((n + 1) % 5)): 10}) for n in range(60)]
        orders = (tallies, tallies[::-1], tallies[30:] + tallies[:30])
        calls = (
            store.count(order[at : at + 6])
            for at in range(0, 60, 6)
            for store, order in zip(stores, orders, strict=True)
        )
        answers = await asyncio.gather(*calls)
        assert sum(sum(answer) for answer in answers) == 60
        expected = merged(each.counts for each in tallies)
        for store in stores:
            assert await all_of(store) == expected
            await store.close()
