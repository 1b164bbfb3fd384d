"""Clocks that are wrong: hosts apart from each other, and a host whose clock is set. Nothing twice, nothing late."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine_bench import Bench, bench, embed, until
from mlproducer import TaskState
from mlproducer.analytics.counting import Counting
from mlproducer.core.counting import hour_of
from mlproducer.delivery.spool_time import SpoolTime
from mlproducer.events import ClockJumped
from mlproducer.rows import Claim, CountKey, Tally
from mlproducer.spool import open_spool
from mlproducer.spool.memory import MemorySpool
from mlproducer.status import CheckStatus
from mlproducer.testing.clock import ManualClock, WrongClock
from private_redis import PrivateRedis

APART = 90.0
HOUR = 3_600.0
SOON = 20.0


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRedis]:
    with PrivateRedis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(params=["postgresql", "redis"])
def shared_url(request: pytest.FixtureRequest) -> str:
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres_schema_url"))
    server: PrivateRedis = request.getfixturevalue("redis_server")
    return server.url(prefix=f"t{time.monotonic_ns()}")


def hosts_apart(url: str, **given: Any) -> list[Bench]:
    """Three producers: one whose clock is right, one behind, one ahead."""
    return [bench(clock=WrongClock(ahead), ml_spool_url=url, **given) for ahead in (0.0, -APART, APART)]


def published(benches: list[Bench]) -> Counter[str]:
    return Counter(task_id for each in benches for task_id in each.broker.task_ids())


async def test_what_one_host_spooled_hosts_apart_publish_once_and_at_once(shared_url: str) -> None:
    benches = hosts_apart(shared_url, ml_drain_lease=30, ml_confirm_timeout=10)
    for each in benches:
        each.broker.blocked = True
    async with benches[0].producer, benches[1].producer, benches[2].producer:
        for each in benches:
            await each.producer.connected(SOON)
        ids = [f"t{n}" for n in range(300)]
        receipts = await asyncio.gather(
            *(benches[n % 3].producer.publish(embed(n, id=task_id), timeout=SOON) for n, task_id in enumerate(ids))
        )
        assert {receipt.state for receipt in receipts} == {TaskState.SPOOLED}
        for each in benches:
            each.broker.hold()  # what is leased stays under way for a while
            each.broker.blocked = False
        await until(lambda: sum(each.producer.status().in_flight for each in benches) > 50, SOON)
        await asyncio.sleep(0.3)
        for each in benches:
            each.broker.release()
        await until(lambda: len(published(benches)) == 300, SOON)
        assert set(published(benches).values()) == {1}
        await until(lambda: all(each.producer.status().spool_tasks == 0 for each in benches), SOON)
        again = await asyncio.gather(
            *(benches[2].producer.publish(embed(n, id=each)) for n, each in enumerate(ids[:30]))
        )
        assert {receipt.state for receipt in again} == {TaskState.CONFIRMED}
        assert set(published(benches).values()) == {1}, "a chosen id is remembered, whatever time it is elsewhere"


async def test_an_id_that_hosts_apart_get_at_once_is_published_once(shared_url: str) -> None:
    benches = hosts_apart(shared_url)
    async with benches[0].producer as right, benches[1].producer as behind, benches[2].producer as ahead:
        for each in benches:
            await each.producer.connected(SOON)
        benches[1].broker.hold()
        first = asyncio.create_task(behind.publish(embed(id="a"), timeout=SOON))
        await until(lambda: behind.status().in_flight == 1, SOON)
        others = [asyncio.create_task(each.publish(embed(id="a"), timeout=SOON)) for each in (right, ahead)]
        await asyncio.sleep(0.3)
        assert not published(benches) - Counter(["a"])
        benches[1].broker.release()
        assert len({(await each).confirmed_at for each in (first, *others)}) == 1
        assert published(benches) == {"a": 1}


async def test_a_shared_spools_time_is_everybodys(shared_url: str) -> None:
    benches = hosts_apart(shared_url)
    for each in benches:
        each.broker.blocked = True
    async with benches[0].producer, benches[1].producer, benches[2].producer:
        for each in benches:
            receipt = await each.producer.publish(embed())
            row = await each.producer.waiting_task(receipt.task_id)
            assert abs(row.accepted_at - time.time()) < APART / 2
            assert abs(each.producer.now() - time.time()) < APART / 2
            assert abs(row.due_at - time.time()) < APART / 2
        notes = [[check.detail for check in each.producer.health().checks if check.name == "clock"] for each in benches]
        assert notes[0] == []
        assert re.search(r"is (8|9)\d s behind the spool's", notes[1][0])
        assert re.search(r"is (8|9)\d s ahead of the spool's", notes[2][0])


# A host's own spool, and its clock is set


@pytest.fixture(params=["sqlite", "memory"])
def lone_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path / 's.db'}"


@pytest.mark.parametrize("by", [-HOUR, HOUR])
async def test_what_is_spooled_is_published_when_the_broker_is_back_whatever_the_clock_did(
    lone_url: str, by: float
) -> None:
    clock = WrongClock()
    b = bench(clock=clock, ml_spool_url=lone_url)
    b.broker.blocked = True
    async with b.producer as p:
        await p.connected(SOON)
        ids = [(await p.publish(embed(n))).task_id for n in range(21)]
        clock.ahead += by
        ids.append((await p.publish(embed("after"))).task_id)
        b.broker.blocked = False
        await until(lambda: sorted(b.broker.task_ids()) == sorted(ids), SOON)
        await until(lambda: bool(b.told(ClockJumped)), SOON)
        (jump,) = b.told(ClockJumped)
        assert (jump.clock, round(jump.seconds)) == ("host", by)
        (check,) = [check for check in p.health().checks if check.name == "clock"]
        assert check.status is CheckStatus.DEGRADED
        assert f"set {'back' if by < 0 else 'forward'} by 3,600.0 s" in check.detail
        text = p.metrics.prometheus()[0].decode()
        assert 'ml_producer_clock_jumps_total{clock="host"} 1.0' in text


@pytest.mark.parametrize("by", [-HOUR, HOUR])
async def test_a_file_that_is_opened_after_the_clock_was_set_has_the_time_that_it_had(
    tmp_path: Path, by: float
) -> None:
    url, clock = f"sqlite:///{tmp_path / 's.db'}", WrongClock()
    first = bench(clock=clock, ml_spool_url=url)
    first.broker.blocked = True
    async with first.producer as p:
        await p.connected(SOON)
        ids = [(await p.publish(embed(n))).task_id for n in range(5)]
    spool = open_spool(url, clock=clock)
    await spool.open()  # and its process dies with the claim
    await spool.claim(Claim("a", "embed_vectors", b"", 0.0, "dead"), hold=0.5)
    await spool.close()
    clock.ahead += by
    second = bench(clock=clock, ml_spool_url=url)
    async with second.producer as p:
        await until(lambda: sorted(second.broker.task_ids()) == sorted(ids), SOON)
        assert (await p.publish(embed(id="a"), timeout=5)).confirmed


async def test_leases_outlast_a_clock_that_is_set_forward(lone_url: str) -> None:
    clock = WrongClock()
    b = bench(clock=clock, ml_spool_url=lone_url)
    b.broker.blocked = True
    async with b.producer as p:
        await p.connected(SOON)
        for n in range(20):
            await p.publish(embed(n))
        b.broker.hold()
        b.broker.blocked = False
        await until(lambda: p.status().in_flight == 20, SOON)
        clock.ahead += HOUR
        await asyncio.sleep(0.5)
        assert p.status().in_flight == 20, "nothing is published twice"
        b.broker.release()
        await until(lambda: p.status().spool_tasks == 0, SOON)
        assert len(b.broker.task_ids()) == 20


# The clock of the engine


def test_an_answer_says_what_time_it_is_and_a_slow_one_says_it_badly() -> None:
    host = ManualClock(1_000.0)
    clock = SpoolTime(host)
    assert clock.now() == 1_000.0
    asked = host.monotonic()
    host.advance(0.2)
    assert clock.heard(1_090.1, asked) is None
    assert clock.now() == pytest.approx(1_090.2)
    assert clock.apart == pytest.approx(-90.0)
    asked = host.monotonic()
    host.advance(8.0)
    assert clock.heard(1_091.2, asked) is None, "within what the answer may be wrong by"
    assert clock.now() == pytest.approx(1_098.2)


def test_a_jump_is_told_once_and_of_the_clock_that_jumped() -> None:
    host = ManualClock(1_000.0)
    clock = SpoolTime(host)
    assert clock.heard(1_000.0, host.monotonic()) is None
    host.advance(5.0)
    assert clock.look() is None
    assert clock.heard(1_065.0, host.monotonic()) == ClockJumped("store", 60.0)
    assert clock.heard(1_065.0, host.monotonic()) is None
    host.set_wall(-HOUR)
    assert clock.look() == ClockJumped("host", -HOUR)
    assert clock.look() is None
    assert clock.now() == 1_065.0, "the store's clock did not move"
    assert "set back by 3,600.0 s" in clock.note()
    host.advance(HOUR)
    assert "set back" not in clock.note()
    assert "behind the spool's" in clock.note()


async def test_a_clock_that_is_set_forward_by_months_makes_no_figure_old() -> None:
    clock = ManualClock()
    store = MemorySpool(clock)
    counting = Counting(store, dict, ("embed_vectors",), clock, lambda _: None, interval=1.0)
    figure = CountKey(hour_of(clock.now()), "embed_vectors", "dead", "nacked")
    await store.count([Tally("a", 9e9, {figure: 1})])
    clock.set_wall(90 * 86_400.0)
    await counting._forget()
    assert await store.counts(since=0, until=10**9, hourly=True) == {figure: 1}
    clock.advance(90 * 86_400.0)
    await counting._forget()
    assert not await store.counts(since=0, until=10**9, hourly=True)
