"""Replay and purge over a spool: paging, pace, cancellation, audits. Time is the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from mlproducer.core.replay import CHUNK, Chosen
from mlproducer.delivery.replay import MAX_BY, Replayer, Step
from mlproducer.errors import SpoolUnavailable
from mlproducer.rows import Audit, Bury, DeadFilter, NewRow
from mlproducer.spool.memory import MemorySpool
from mlproducer.task import Envelope

NOW = 1_800_000_000.0


@dataclass
class Time:
    """A clock that moves when somebody sleeps, and by `work` seconds with each look at it."""

    at: float = 0.0
    work: float = 0.0
    slept: list[float] = field(default_factory=list)

    def monotonic(self) -> float:
        self.at += self.work
        return self.at

    def now(self) -> float:
        return NOW + self.at

    def random(self) -> float:
        return 0.5

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.at += seconds
        await asyncio.sleep(0)


@dataclass
class Dead:
    spool: MemorySpool = field(default_factory=MemorySpool)
    time: Time = field(default_factory=Time)

    @property
    def replayer(self) -> Replayer:
        return Replayer(self.spool, self.time, self.time.sleep)

    async def die(self, task_id: str, *, at: float = NOW - 10, reason: str = "nacked") -> None:
        """A task that is put, leased and buried; one that waits already is buried where it is."""
        envelope = Envelope(task_id, "embed_vectors", "ml.embed", b"", b"x" * 10)
        await self.spool.put(NewRow(envelope, NOW - 20))
        for lease in await self.spool.lease(10**6, hold=0):
            if lease.row.envelope.task_id == task_id:
                assert all(await self.spool.settle([(lease, Bury(at, 3, reason, None, "full"))]))

    async def die_many(self, count: int, **given: Any) -> None:
        envelopes = [Envelope(f"t{n:05}", "embed_vectors", "ml.embed", b"", b"x") for n in range(count)]
        for envelope in envelopes:
            await self.spool.put(NewRow(envelope, NOW - 20))
        leases = await self.spool.lease(count, hold=1)
        verdict = Bury(given.get("at", NOW - 10), 3, "nacked", None, "full")
        assert all(await self.spool.settle([(lease, verdict) for lease in leases]))

    async def replay(self, chosen: Chosen, **given: Any) -> list[Step]:
        return [step async for step in self.replayer.replay(chosen, **{"by": "ada", **given})]

    async def dead(self) -> set[str]:
        return {entry.task_id for entry in await self.spool.dead(DeadFilter(), limit=10**6)}

    async def waits(self) -> set[str]:
        return {entry.task_id for entry in await self.spool.waiting(limit=10**6)}

    async def audits(self) -> Sequence[Audit]:
        return await self.spool.audits(limit=10**6)


# choosing -------------------------------------------------------------------------------------------------------------


async def test_ids_are_replayed_once_each_and_unknown_ones_are_not_counted() -> None:
    d = Dead()
    for task_id in "abc":
        await d.die(task_id)
    steps = await d.replay(["b", "a", "b", "nobody"])
    assert (steps[0].total, steps[-1].taken, steps[-1].done) == (3, 3, 2)
    assert await d.dead() == {"c"}
    assert await d.waits() == {"a", "b"}
    (audit,) = await d.audits()
    assert audit == Audit(NOW, "ada", "replay", "by id", ("b", "a"))


@pytest.mark.parametrize("action", ["replay", "purge"])
async def test_of_ids_no_more_are_taken_than_the_limit(action: str) -> None:
    d = Dead()
    for task_id in "abc":
        await d.die(task_id)
    steps = getattr(d.replayer, action)(["c", "a", "b"], by="ada", limit=2)
    assert [step.done async for step in steps][-1] == 2
    assert await d.dead() == {"b"}


async def test_a_filter_takes_what_it_lets_through_and_no_more_than_the_limit_the_newest_first() -> None:
    d = Dead()
    for n, task_id in enumerate("abcd"):
        await d.die(task_id, at=NOW - 100 + n)
    await d.die("other", reason="returned")
    assert (await d.replay(DeadFilter(reason="nacked"), limit=3))[-1].done == 3
    assert await d.dead() == {"a", "other"}
    assert (await d.replay(DeadFilter()))[-1].done == 2
    assert await d.dead() == set()


async def test_the_first_step_says_how_many_there_are_before_anything_is_changed() -> None:
    d = Dead()
    await d.die_many(3)
    async with aclosing(d.replayer.replay(DeadFilter(), by="ada")) as steps:
        assert await anext(steps) == Step((), 0, 0, 3, 0)
        assert len(await d.dead()) == 3
        assert not await d.audits()


async def test_nothing_to_replay_is_nothing_done() -> None:
    d = Dead()
    for chosen in (DeadFilter(), [], ["nobody"]):
        assert (await d.replay(chosen))[-1].done == 0
    assert not await d.audits()


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_each_dead_letter_that_was_there_is_taken_exactly_once_whatever_dies_or_goes_meanwhile(
    data: st.DataObject,
) -> None:
    asyncio.run(_each_once(data))


async def _each_once(data: st.DataObject) -> None:
    """Few moments, so that many share one; small chunks, by way of the rate; and others at work between them."""
    d = Dead()
    moments = data.draw(st.lists(st.sampled_from([1.0, 2.0, 3.0]), max_size=12), label="moments")
    for n, ago in enumerate(moments):
        await d.die(f"t{n}", at=NOW - ago)
    limit = data.draw(st.none() | st.integers(1, 15), label="limit")
    there = [entry.task_id for entry in await d.spool.dead(DeadFilter(), limit=100)]
    purged: set[str] = set()
    taken: list[str] = []
    rate = data.draw(st.sampled_from([1.0, 2.0, 5.0]), label="rate")
    async for step in d.replayer.replay(DeadFilter(), by="ada", rate=rate, limit=limit):
        taken += step.task_ids
        for task_id in step.task_ids:  # refused again, as fast as can be
            await d.die(task_id, at=d.time.now() + data.draw(st.sampled_from([0.0, 1e-6])))
        await d.die(f"new{len(taken)}", at=d.time.now())
        gone = data.draw(st.sampled_from([None, *there]), label="purged by another")
        if gone is not None and gone not in taken:
            purged.add(gone)
            await d.spool.purge(Audit(NOW, "bob", "purge", "by id", (gone,)))
    assert len(taken) == len(set(taken)), "none twice"
    if limit is None:
        assert set(taken) == set(there) - purged
    elif not purged:
        assert taken == there[:limit]
    assert len(taken) <= (limit or len(there))
    assert not any(task_id.startswith("new") for task_id in taken)


async def test_a_task_that_dies_again_on_a_machine_whose_clock_is_behind_is_not_taken_twice() -> None:
    d = Dead()
    for n in range(6):
        await d.die(f"t{n}", at=NOW - 100 - n)
    taken: list[str] = []
    async for step in d.replayer.replay(DeadFilter(), by="ada", rate=1.0):
        taken += step.task_ids
        for task_id in step.task_ids:
            await d.die(task_id, at=NOW - 5)
    assert taken == [f"t{n}" for n in range(6)]


async def test_were_the_clock_behind_by_hours_it_still_comes_to_an_end() -> None:
    d = Dead()
    await d.die_many(10)
    taken = 0
    async for step in d.replayer.replay(DeadFilter(), by="ada", rate=1.0):
        taken += len(step.task_ids)
        for task_id in step.task_ids:
            await d.die(task_id, at=NOW - 9_000)
    assert taken == 10


class Stuck(MemorySpool):
    """Some dead letters stay, such as those whose ids wait as well."""

    async def replay(self, audit: Audit) -> int:
        some = tuple(task_id for task_id in audit.task_ids if task_id >= "t00003")
        return await super().replay(replace(audit, task_ids=some))


async def test_dead_letters_that_cannot_be_replayed_do_not_hold_up_the_others() -> None:
    d = Dead(spool=Stuck())
    await d.die_many(8)
    steps = await d.replay(DeadFilter(), rate=2.0)
    assert (steps[-1].taken, steps[-1].done) == (8, 5)
    assert await d.dead() == {"t00000", "t00001", "t00002"}


# pace -----------------------------------------------------------------------------------------------------------------


async def test_a_rate_is_kept_in_chunks_of_a_second() -> None:
    d = Dead()
    await d.die_many(95)
    steps = await d.replay(DeadFilter(), rate=10.0)
    assert [len(step.task_ids) for step in steps] == [0, *[10] * 9, 5]
    assert d.time.slept == [1.0] * 9, "and none after the last"
    assert [audit.at for audit in await d.audits()] == [NOW + n for n in range(9, -1, -1)]


async def test_the_time_that_the_spool_takes_is_no_time_to_wait() -> None:
    d = Dead(time=Time(work=0.25))
    await d.die_many(3)
    await d.replay(DeadFilter(), rate=1.0)
    assert d.time.slept == [0.75, 0.75]


async def test_less_than_one_a_second_is_one_at_a_time() -> None:
    d = Dead()
    await d.die_many(3)
    await d.replay([f"t{n:05}" for n in range(3)], rate=0.1)
    assert d.time.slept == pytest.approx([10.0, 10.0])


async def test_without_a_rate_chunks_are_large_and_follow_at_once() -> None:
    d = Dead()
    await d.die_many(2 * CHUNK + 1)
    steps = await d.replay(DeadFilter())
    assert [len(step.task_ids) for step in steps] == [0, CHUNK, CHUNK, 1]
    assert d.time.slept == [0.0, 0.0]
    assert [len(audit.task_ids) for audit in await d.audits()] == [1, CHUNK, CHUNK]


@pytest.mark.parametrize("count", [CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 1])
@pytest.mark.parametrize("rate", [None, 7.0, 499.0, 1_000.0])
@pytest.mark.parametrize("way", ["by id", "by filter"])
async def test_wherever_a_chunk_ends_each_is_taken_once_and_none_is_left(
    count: int, rate: float | None, way: str
) -> None:
    d = Dead()
    await d.die_many(count)
    ids = sorted(await d.dead())
    steps = await d.replay(ids if way == "by id" else DeadFilter(), rate=rate)
    assert sorted(task_id for step in steps for task_id in step.task_ids) == ids
    assert (steps[-1].taken, steps[-1].done, steps[-1].total) == (count, count, count)
    assert (await d.dead(), await d.waits()) == (set(), set(ids))
    assert sorted(task_id for audit in await d.audits() for task_id in audit.task_ids) == ids


# stopping in the middle -----------------------------------------------------------------------------------------------


async def test_a_replay_that_is_cancelled_leaves_the_rest_dead_and_the_audits_tell_which() -> None:
    d = Dead()
    await d.die_many(10)
    reached = asyncio.Event()

    async def wait_for_ever(_: float) -> None:
        reached.set()
        await asyncio.Event().wait()

    slow = Replayer(d.spool, d.time, wait_for_ever)
    job = asyncio.ensure_future(_consume(slow.replay(DeadFilter(), by="ada", rate=4.0)))
    await reached.wait()
    job.cancel()
    await asyncio.gather(job, return_exceptions=True)
    assert job.cancelled()
    told = {task_id for audit in await d.audits() for task_id in audit.task_ids}
    assert told == await d.waits()
    assert len(told) == 4
    assert await d.dead() == {f"t{n:05}" for n in range(10)} - told


async def _consume(steps: AsyncIterator[Step]) -> None:
    async for _ in steps:
        pass


class Failing(MemorySpool):
    """Replays once, and then is not there."""

    async def replay(self, audit: Audit) -> int:
        if self._audits:
            raise SpoolUnavailable("gone")
        return await super().replay(audit)


async def test_a_spool_that_is_lost_in_the_middle_ends_it_and_nothing_is_half_done() -> None:
    d = Dead(spool=Failing())
    await d.die_many(3)
    steps = d.replayer.replay(DeadFilter(), by="ada", rate=1.0)
    assert [(await anext(steps)).done for _ in range(2)] == [0, 1]
    with pytest.raises(SpoolUnavailable):
        await anext(steps)
    assert len(await d.waits()) == 1
    assert len(await d.dead()) == 2


async def test_the_audit_is_in_the_same_call_of_the_spool_as_what_it_tells() -> None:
    calls: list[Audit] = []

    class Watched(MemorySpool):
        async def replay(self, audit: Audit) -> int:
            calls.append(audit)
            return await super().replay(audit)

    d = Dead(spool=Watched())
    await d.die("a")
    await d.replay(DeadFilter(reason="nacked"))
    assert calls == [Audit(NOW, "ada", "replay", "reason 'nacked'", ("a",))]
    assert list(await d.audits()) == calls


# purge and plan -------------------------------------------------------------------------------------------------------


async def test_a_purge_removes_for_good_and_is_audited() -> None:
    d = Dead()
    await d.die_many(CHUNK + 2)
    steps = [step async for step in d.replayer.purge(DeadFilter(), by="bob", limit=CHUNK + 1)]
    assert steps[-1].done == CHUNK + 1
    assert len(await d.dead()) == 1
    assert not await d.waits()
    assert {(audit.by, audit.action) for audit in await d.audits()} == {("bob", "purge")}


@pytest.mark.parametrize(
    ("chosen", "count"),
    [(DeadFilter(), 3), (DeadFilter(reason="returned"), 0), (["a", "a", "nobody", "w"], 1), ([], 0)],
)
async def test_a_plan_counts_and_changes_nothing(chosen: Chosen, count: int) -> None:
    d = Dead()
    for task_id in "abc":
        await d.die(task_id)
    await d.spool.put(NewRow(Envelope("w", "embed_vectors", "ml.embed", b"", b""), NOW))
    before = (await d.dead(), await d.waits())
    assert await d.replayer.plan(chosen) == count
    assert (await d.dead(), await d.waits()) == before
    assert not await d.audits()


async def test_what_dies_in_the_very_moment_of_the_plan_is_not_in_it() -> None:
    d = Dead()
    await d.die("a", at=NOW)
    assert await d.replayer.plan(DeadFilter()) == 0
    d.time.at += 1.0
    assert await d.replayer.plan(DeadFilter()) == 1


# wrong input ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"by": ""}, "by"),
        ({"by": " "}, "by"),
        ({"by": "x" * (MAX_BY + 1)}, "by"),
        ({"by": "a\nb"}, "by"),
        ({"rate": 0.0}, "rate"),
        ({"rate": -1.0}, "rate"),
        ({"rate": float("nan")}, "rate"),
        ({"rate": float("inf")}, "rate"),
        ({"limit": 0}, "limit"),
    ],
)
def test_what_is_wrong_is_said_at_the_call_by_name(given: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=f"^{field}: "):
        Dead().replayer.replay(DeadFilter(), **{"by": "ada", **given})


@pytest.mark.parametrize("way", ["replay", "purge"])
def test_one_text_is_no_list_of_ids(way: str) -> None:
    call: Callable[..., object] = getattr(Dead().replayer, way)
    with pytest.raises(TypeError, match="list of task ids"):
        call("abc", by="ada")


async def test_one_text_is_no_list_of_ids_for_a_plan_either() -> None:
    wrong: Awaitable[int] = Dead().replayer.plan("abc")
    with pytest.raises(TypeError, match="list of task ids"):
        await wrong
