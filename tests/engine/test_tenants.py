"""One tenant's million waiting tasks do not keep another's ten waiting on the same route."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from engine_bench import Bench, bench, embed, until
from mlproducer import Task
from mlproducer.events import TaskConfirmed
from mlproducer.outcome import Confirmed, Nacked
from mlproducer.ports import Settle
from mlproducer.spool.schema import waiting
from mlproducer.task import Envelope, TaskState
from weather import PATIENT, Weather, summary

EMBED, SUMMARIZE = "ml.embed", "ml.summarize"
OF_TENANTS: dict[str, Any] = {**PATIENT, "ml_tenant_header": "tenant"}


def of(tenant: str, n: object, **fields: Any) -> Task:
    return embed(f"{tenant}{n}", id=f"{tenant}{n}", headers={"tenant": tenant}, **fields)


def flood(path: Path, first: str, count: int) -> None:
    """As many more rows like that of the task `first`, in the file of a producer that is running."""
    names = [column.name for column in waiting.columns]
    made = {"task_id": "task_id || '-' || value", "counted": "0"}
    values = ", ".join(made.get(name, name) for name in names)
    with closing(sqlite3.connect(path / "mlproducer.db", timeout=60)) as db, db:
        db.execute(
            "WITH RECURSIVE series (value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM series LIMIT ?) "  # noqa: S608  # our own names
            f"INSERT INTO mlproducer_waiting ({', '.join(names)}) SELECT {values} FROM series, mlproducer_waiting "
            "WHERE task_id = ?",
            (count, first),
        )


def noted(b: Bench) -> list[str]:
    """The ids of what the broker hears of, in that order."""
    sent: list[str] = []
    publish = b.broker.publish

    def noting(envelope: Envelope, settle: Settle, *, deadline: float, alone: bool = False) -> None:
        sent.append(envelope.task_id)
        publish(envelope, settle, deadline=deadline, alone=alone)

    b.broker.publish = noting  # type: ignore[method-assign]  # the order
    return sent


async def ten_are_confirmed_behind(flooding: int, path: Path) -> None:
    b = bench(**OF_TENANTS, ml_spool_url="", ml_data_dir=path, ml_spool_max_tasks=2 * flooding, ml_drain_poll=1)
    sent = noted(b)
    b.broker.down = True
    async with asyncio.timeout(300), b.producer as p:
        await p.publish(of("big", 0))
        await asyncio.to_thread(flood, path, "big0", flooding)
        for n in range(10):
            assert (await p.publish(of("small", n))).state is TaskState.SPOOLED
        b.broker.down = False
        p.reconnect()
        await until(lambda: sum(each.task_id.startswith("small") for each in b.told(TaskConfirmed)) == 10, 60)
        for n in range(10, 20):
            assert (await p.publish(of("small", n))).state is TaskState.CONFIRMED, "directly"
        b.broker.down = True
        b.broker.drop()
    ten = [place for place, task_id in enumerate(sent) if task_id in {f"small{n}" for n in range(10)}]
    assert len(ten) == 10
    # The first has 50. If the breaker had opened meanwhile, it has one row, which probes, and the next one 100.
    assert ten[-1] <= 100, "all in the first batch after the connect"


async def test_ten_tasks_behind_anothers_flood_are_in_the_first_batch_and_new_ones_go_directly(tmp_path: Path) -> None:
    await ten_are_confirmed_behind(5_000, tmp_path)


@pytest.mark.chaos
@pytest.mark.timeout(600)
async def test_ten_tasks_behind_anothers_million_are_in_the_first_batch_and_new_ones_go_directly(
    tmp_path: Path,
) -> None:
    await ten_are_confirmed_behind(1_000_000, tmp_path)


@pytest.mark.parametrize(
    ("given", "small"),
    [({}, 25), ({"ml_tenant_weights": {"small": 3}}, 37), ({"ml_tenant_weights": {"big": 9}}, 5)],
    ids=["alike", "small has 3", "big has 9"],
)
async def test_tenants_share_a_batch_by_weight_whoever_came_first(given: dict[str, Any], small: int) -> None:
    b = bench(**OF_TENANTS, **given, ml_drain_batch=100)
    sent = noted(b)
    b.broker.down = True
    async with asyncio.timeout(30), b.producer as p:
        for tenant in ("big", "small"):
            for n in range(300):
                await p.publish(of(tenant, n))
        b.broker.down = False
        p.reconnect()
        assert await p.drained(20)
    assert abs(Counter(each[:3] for each in sent[:50])["sma"] - small) <= 1, "the first batch after a connect"
    assert abs(Counter(each[:3] for each in sent[:250])["sma"] - 5 * small) <= 10, "while both have some"
    assert len(sent) == 600


async def test_with_the_setting_off_a_header_changes_nothing() -> None:
    b = bench(**PATIENT)
    sent = noted(b)
    b.broker.down = True
    async with asyncio.timeout(30), b.producer as p:
        for tenant in ("big", "small"):
            for n in range(100):
                await p.publish(of(tenant, n))
        assert [tuple(each) for each in await b.spool.flows()] == [(EMBED, "")]
        b.broker.down = False
        p.reconnect()
        assert await p.drained(20)
    assert sent == [f"{tenant}{n}" for tenant in ("big", "small") for n in range(100)], "in order"


async def test_a_route_of_many_tenants_gets_no_more_than_one_without() -> None:
    b = bench(**OF_TENANTS, ml_drain_batch=100)
    sent = noted(b)
    b.broker.down = True
    async with asyncio.timeout(30), b.producer as p:
        for n in range(200):
            await p.publish(of(f"tenant {n} ".replace(" ", "."), n))
        for n in range(200):
            await p.publish(summary(n, id=f"summary{n}"))
        b.broker.down = False
        p.reconnect()
        assert await p.drained(20)
    assert abs(sum(each.startswith("summary") for each in sent[:150]) - 75) <= 2


async def test_a_tenant_whose_tasks_hang_leaves_room_in_the_window_to_others_of_its_route() -> None:
    b = bench(**OF_TENANTS, ml_max_in_flight=90, ml_drain_share=1)
    weather = Weather(b)
    weather.of[EMBED] = Weather.SILENT
    async with asyncio.timeout(30), b.producer as p:
        await p.connected(5)
        calls = [asyncio.ensure_future(p.publish(of("big", n))) for n in range(90)]
        await until(lambda: sum(call.done() for call in calls) == 50)
        assert len(weather.kept) == 40, "two thirds of two thirds"
        weather.of.clear()
        for n in range(50):
            assert (await p.publish(of("small", n))).state is TaskState.CONFIRMED
            assert (await p.publish(summary(n))).state is TaskState.CONFIRMED
        assert (await p.publish(of("big", "new"))).state is TaskState.SPOOLED, "its share is full"
        weather.answer(Confirmed())
        await asyncio.gather(*calls)
        assert await p.drained(20)


async def test_in_a_window_of_one_all_tenants_and_routes_are_drained() -> None:
    b = bench(**OF_TENANTS, ml_max_in_flight=1)
    b.broker.down = True
    async with asyncio.timeout(30), b.producer as p:
        for n in range(5):
            for tenant in ("big", "small"):
                await p.publish(of(tenant, n))
            await p.publish(summary(n))
        b.broker.down = False
        p.reconnect()
        assert await p.drained(20)
        assert len(b.told(TaskConfirmed)) == 15


async def test_a_tenant_has_no_health_its_route_has_and_is_held_for_all() -> None:
    b = bench(**OF_TENANTS)
    weather = Weather(b)
    weather.of[EMBED] = Nacked()
    async with asyncio.timeout(30), b.producer as p:
        await p.connected(5)
        states = {(await p.publish(of(tenant, n))).state for tenant in ("big", "small") for n in range(20)}
        assert states == {TaskState.SPOOLED}
        await until(lambda: weather.sent[EMBED] >= 4)
        assert weather.sent[EMBED] < 40, "one probe at a time, whoever's"
        weather.of.clear()
        assert await p.drained(10)
        assert not (await b.places())["dead"]
