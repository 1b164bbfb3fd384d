"""What the loss check adds up: the equation holds whatever happens to tasks, and whoever does it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from engine_bench import Bench, bench, embed, until
from mlproducer import Settings, TaskState
from mlproducer.delivery.purges import PAGE, Purges
from mlproducer.events import (
    ConnectionChanged,
    ConnectionState,
    ReconnectScheduled,
    ReconnectsExhausted,
    SpoolMeasured,
    TaskAccepted,
    TaskConfirmed,
    TaskDeadLettered,
)
from mlproducer.outcome import Returned
from mlproducer.rows import Audit, DeadFilter
from mlproducer.spool.memory import MemorySpool
from mlproducer.telemetry.books import SpoolFacts
from mlproducer.telemetry.metrics import Metrics
from mlproducer.wiring import spool_facts

PURGE = Audit(1.0, "ada", "purge", "all", ("a", "b"))


def value(metrics: Metrics, name: str, **labels: str) -> float:
    found = metrics.registry.get_sample_value(f"ml_producer_{name}", labels)
    assert found is not None, name
    return found


def missing(metrics: Metrics) -> float:
    start, accepted, confirmed, purged, size, dead = (
        value(metrics, name)
        for name in (
            "tasks_at_start",
            "tasks_accepted_total",
            "tasks_confirmed_total",
            "tasks_purged_total",
            "retry_queue_size",
            "dlq_size",
        )
    )
    return start + accepted - confirmed - purged - size - dead


async def test_nothing_is_missing_over_an_outage_a_drain_deaths_a_replay_a_purge_and_a_restart() -> None:
    spool = MemorySpool()
    b = bench(spool=spool)
    async with b.producer:
        await b.producer.connected(5)
        await b.producer.publish(embed(1))
        b.broker.down = True
        b.broker.drop()
        assert (await b.producer.publish(embed(2))).state is TaskState.SPOOLED
        await _measured(b)
        assert (missing(b.producer.metrics), value(b.producer.metrics, "retry_queue_size")) == (0, 1)
        b.broker.down = False
        await until(lambda: value(b.producer.metrics, "tasks_confirmed_total") == 2)
        await _measured(b)
        assert (missing(b.producer.metrics), value(b.producer.metrics, "retry_queue_size")) == (0, 0)
        b.broker.script.extend([Returned(312, "NO_ROUTE")] * 9)
        for n in (3, 4, 5):
            await b.producer.publish(embed(n))
        await until(lambda: len(b.told(TaskDeadLettered)) == 3, 10)
        await _measured(b)
        assert (missing(b.producer.metrics), value(b.producer.metrics, "dlq_size")) == (0, 3)
        ids = [letter.task_id for letter in await b.producer.dead_letters()]
        await b.producer.purge(ids[:1])
        assert (missing(b.producer.metrics), value(b.producer.metrics, "tasks_purged_total")) == (0, 1)
        await b.producer.replay(ids[1:2])
        await until(lambda: value(b.producer.metrics, "tasks_confirmed_total") == 3)
        await _measured(b)
        assert (missing(b.producer.metrics), value(b.producer.metrics, "dlq_size")) == (0, 1)
    again = bench(spool=spool)
    async with again.producer:
        await _measured(again)
        assert (missing(again.producer.metrics), value(again.producer.metrics, "tasks_at_start")) == (0, 1)


async def test_a_row_that_vanishes_is_missing() -> None:
    spool = MemorySpool()
    b = bench(spool=spool)
    b.broker.down = True
    async with b.producer:
        receipts = [await b.producer.publish(embed(n)) for n in range(3)]
        spool._rows.pop(receipts[0].task_id)
        await _measured(b)
        assert missing(b.producer.metrics) == 1


async def test_what_the_command_line_purges_is_not_missing() -> None:
    spool = MemorySpool()
    b = bench(spool=spool)
    b.broker.script.extend([Returned(312, "NO_ROUTE")] * 3)
    async with b.producer:
        await b.producer.connected(5)
        await b.producer.publish(embed())
        await until(lambda: bool(b.told(TaskDeadLettered)), 10)
        (letter,) = await spool.dead(DeadFilter(), limit=2)
        await spool.purge(replace(PURGE, task_ids=(letter.task_id,)))
        await b.producer._parts.gauges.measure(audits=True)
        assert (missing(b.producer.metrics), value(b.producer.metrics, "dlq_size")) == (0, 0)


async def _measured(b: Bench) -> None:
    await b.producer._parts.gauges.measure()


class Audited(MemorySpool):
    """A spool with an audit of the test's own, newest first."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Audit] = []

    async def audits(self, *, limit: int, offset: int = 0) -> list[Audit]:
        return self.kept[offset : offset + limit]


@pytest.fixture
def audited() -> tuple[Audited, list[int], Purges]:
    told: list[int] = []
    spool = Audited()
    return spool, told, Purges(spool, told.append)


async def test_purges_from_before_the_first_look_are_history(audited: tuple[Audited, list[int], Purges]) -> None:
    spool, told, purges = audited
    spool.kept = [PURGE]
    await purges.look()
    await purges.look()
    assert told == []


@pytest.mark.parametrize("before", [[], [replace(PURGE, at=0.5)]], ids=["no audit before", "one before"])
async def test_each_purge_is_told_once_over_many_pages(
    audited: tuple[Audited, list[int], Purges], before: list[Audit]
) -> None:
    spool, told, purges = audited
    spool.kept = before
    await purges.look()
    replayed = replace(PURGE, at=9.0, action="replay")
    spool.kept = [replayed, *(replace(PURGE, at=2.0 + n) for n in reversed(range(2 * PAGE + 3))), *before]
    await purges.look()
    await purges.look()
    assert told == [2 * (2 * PAGE + 3)]


async def test_the_audit_of_another_store_tells_nothing(audited: tuple[Audited, list[int], Purges]) -> None:
    spool, told, purges = audited
    spool.kept = [PURGE]
    await purges.look()
    spool.kept = [replace(PURGE, at=7.0)]
    await purges.look()
    spool.kept = [replace(PURGE, at=8.0), *spool.kept]
    await purges.look()
    assert told == [2]


def test_a_first_measurement_that_comes_late_does_not_count_what_was_accepted_since() -> None:
    metrics = Metrics((), ())
    for event in (TaskAccepted("a", "x", 1), TaskAccepted("b", "x", 1), TaskConfirmed("b", "x", 0.1)):
        metrics(event)
    metrics(SpoolMeasured(4, 40, 1.0, 2))
    metrics(SpoolMeasured(9, 90, 1.0, 2, 3.5))
    assert value(metrics, "tasks_at_start") == 5
    assert value(metrics, "retry_queue_overdue_seconds") == 3.5


def test_the_limits_of_the_spool_are_told_and_which_it_is() -> None:
    metrics = Metrics((), (), spool=SpoolFacts("redis", True, "abc", 10, 20, 30))
    assert value(metrics, "retry_queue_max_tasks") == 10
    assert value(metrics, "retry_queue_max_bytes") == 20
    assert value(metrics, "retry_queue_max_age_seconds") == 30
    assert value(metrics, "spool_info", store="redis", shared="true", spool="abc") == 1


def test_a_spool_of_ones_own_is_shared_from_when_another_process_was_met(tmp_path: Path) -> None:
    metrics = Metrics((), (), spool=facts("", tmp_path))
    said = {"store": "sqlite", "spool": facts("", tmp_path).spool}

    def told() -> list[float]:
        return [value(metrics, "spool_info", shared=shared, **said) for shared in ("false", "true")]

    metrics(SpoolMeasured(0, 0, 0.0, 0))
    assert told() == [1, 0]
    metrics(SpoolMeasured(0, 0, 0.0, 0, met_others=True))
    metrics(SpoolMeasured(0, 0, 0.0, 0))
    assert told() == [0, 1], "who drains whose tasks nobody can say from now on"


def test_where_processes_count_together_what_rules_compare_has_the_same_labels(tmp_path: Path) -> None:
    metrics = Metrics((), (), spool=SpoolFacts("redis", True, "abc", 10, 20, 30))
    metrics.share(tmp_path)
    try:
        text = metrics.prometheus()[0].decode()
    finally:
        metrics.unshare()
    labels = dict(re.findall(r"^ml_producer_(\w+)(?:\{(.*)\})? ", text, flags=re.MULTILINE))
    compared = [
        *("retry_queue_size", "retry_queue_max_tasks", "retry_queue_bytes", "retry_queue_max_bytes"),
        *("retry_queue_oldest_age_seconds", "retry_queue_max_age_seconds", "retry_queue_overdue_seconds"),
        *("dlq_size", "tasks_at_start", "uptime_seconds"),
    ]
    assert [labels[name] for name in compared] == [f'pid="{os.getpid()}"'] * len(compared)
    assert set(labels["spool_info"].split(",")) == {'store="redis"', 'shared="true"', 'spool="abc"'}
    assert labels["tasks_confirmed_total"] == labels["tasks_accepted_total"] == ""


@pytest.mark.parametrize("ends", [ConnectionChanged(ConnectionState.CONNECTED, "h:1"), ReconnectScheduled(1, 0.5)])
def test_exhausted_reconnects_stay_so_until_the_link_is_up_or_a_cycle_begins(ends: Any) -> None:
    metrics = Metrics((), ())
    metrics(ReconnectsExhausted(10))
    metrics(ConnectionChanged(ConnectionState.CONNECTING, "h:1"))
    assert value(metrics, "reconnects_exhausted") == 1
    metrics(ends)
    assert value(metrics, "reconnects_exhausted") == 0


def facts(url: str, tmp_path: Path) -> SpoolFacts:
    return spool_facts(Settings.load(ml_spool_url=url, ml_data_dir=tmp_path))


def test_who_shares_a_spool_has_the_same_name_for_it(tmp_path: Path) -> None:
    one, two = (
        facts(f"{scheme}://{who}@db:5432/ml", tmp_path) for scheme, who in (("postgresql", "a:x"), ("postgres", "b"))
    )
    assert one.spool == two.spool
    assert (one.store, one.shared) == ("postgresql", True)
    assert facts("postgresql://a:x@db:5432/other", tmp_path).spool != one.spool
    assert (facts("rediss://h/0", tmp_path).store, facts("rediss://h/0", tmp_path).shared) == ("redis", True)
    file = facts("", tmp_path)
    assert (file.store, file.shared, file.max_tasks) == ("sqlite", False, 1_000_000)
    assert not {"db", "ml", "a", "x"} & {one.spool}
