"""What engines count: over restarts, instances, lost stores, and never in the way of publishing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from engine_bench import Bench, bench, embed, until
from mlproducer import InvalidTask, Task
from mlproducer.core.figures import Figures
from mlproducer.core.results import ResultStatus, TaskResult
from mlproducer.errors import SpoolUnavailable
from mlproducer.events import SpoolFailed
from mlproducer.outcome import Nacked, Returned
from mlproducer.rows import Tally
from mlproducer.spool.memory import MemorySpool

NOW = 0.05
WRONG = Task(task_type="embed_vectors", payload={})


async def figures(b: Bench) -> Figures:
    await b.producer._parts.counting.flush()
    return (await b.producer.analytics.summary()).total


async def test_what_happens_to_tasks_is_counted_by_type_and_reason() -> None:
    b = bench(ml_retry_attempts=2)
    async with b.producer:
        await b.producer.connected(2)
        await asyncio.gather(*(b.producer.publish(embed(n)) for n in range(20)))
        b.broker.script.extend([Nacked(), Nacked()])
        await b.producer.publish(embed("dies"))
        await until(lambda: len(b.told(SpoolFailed)) == 0 and b.producer.status().dead == 1)
        b.broker.script.append(Returned(312, "NO_ROUTE"))
        await b.producer.publish(embed("comes back"))
        await until(lambda: len(b.broker.task_ids()) == 21)
        with pytest.raises(InvalidTask):
            await b.producer.publish(WRONG)
        await until(lambda: not b.producer.status().spool_tasks)
        await b.producer._parts.counting.flush()

        found = await b.producer.analytics.delivery()
        of = found.by_type["embed_vectors"]
        assert (of.accepted, of.confirmed, of.dead_lettered, of.pending) == (22, 21, 1, 0)
        assert of.delivery_ratio == pytest.approx(21 / 22)
        assert of.dead_letters == {"nacked": 1}
        assert of.spooled == {"nacked": 1, "returned": 1}
        assert of.retries == {"nacked": 1, "returned": 1}
        assert of.refused == {"InvalidTask": 1}
        latency = (await b.producer.analytics.latency()).by_type["embed_vectors"]
        assert latency.publish.count == latency.accept_to_confirm.count == 21
        assert latency.accept_to_confirm.p99 is not None
        assert latency.accept_to_confirm.average is not None
        assert latency.accept_to_confirm.average > 0


async def test_figures_survive_a_restart_and_those_of_instances_add_up(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 's.db'}"
    for _ in range(2):
        b = bench(ml_spool_url=url, ml_analytics_flush=3_600)  # only the flush at the stop
        async with b.producer:
            await b.producer.connected(2)
            await asyncio.gather(*(b.producer.publish(embed(n)) for n in range(5)))
    b = bench(ml_spool_url=url)
    async with b.producer:
        assert (await figures(b)).confirmed == 10


async def test_two_instances_on_one_store_add_up(postgres_schema_url: str) -> None:
    one, two = (bench(ml_spool_url=postgres_schema_url, ml_analytics_flush=NOW) for _ in range(2))
    async with one.producer, two.producer:
        for b in (one, two):
            await b.producer.connected(2)
            await asyncio.gather(*(b.producer.publish(embed(n)) for n in range(30)))
        result = TaskResult("t1", "embed_vectors", 2e9, ResultStatus.SUCCEEDED, 1.0, Decimal("0.25"))
        told = await asyncio.gather(*(b.producer.report([result]) for b in (one, two, one)))
        assert sorted((counted.finish, counted.cost) for (counted,) in told) == [(False, False)] * 2 + [(True, True)]
        await figures(one)
        found = await figures(two)
        assert (found.accepted, found.confirmed, found.succeeded, found.cost) == (60, 60, 1, Decimal("0.25"))
        assert await figures(one) == found


async def test_processes_that_show_their_metrics_together_add_only_what_is_their_own(
    tmp_path: Path, postgres_schema_url: str
) -> None:
    given: dict[str, Any] = {"ml_spool_url": postgres_schema_url, "ml_metrics_dir": tmp_path, "ml_analytics_flush": NOW}

    async def publish(b: Bench, count: int) -> None:
        await b.producer.connected(2)
        await asyncio.gather(*(b.producer.publish(embed(n)) for n in range(count)))
        await figures(b)

    gone = bench(**given)
    async with gone.producer:
        await publish(gone, 3)
    one, two = bench(**given), bench(**given)
    async with one.producer, two.producer:
        await publish(one, 4)
        await publish(two, 5)
        assert one.producer.metrics.json()["tasks"]["accepted"] == 12  # type: ignore[index]  # a document
        for b in (one, two, one):  # what another process counts in the meantime is no growth of ours
            found = await figures(b)
            assert (found.accepted, found.confirmed) == (12, 12)
    async with bench(**given).producer as last:  # and the shared counts are no growth of one that starts
        assert (await last.analytics.summary()).total.accepted == 12
        await last._parts.counting.flush()
        assert (await last.analytics.summary()).total.accepted == 12


class Forgetful(MemorySpool):
    """Its counters fail while told to; with `late`, after they have counted."""

    failing = late = False
    calls = 0

    async def count(self, tallies: Sequence[Tally]) -> Sequence[bool]:
        self.calls += 1
        if self.failing and not self.late:
            raise SpoolUnavailable("down")
        answer = await super().count(tallies)
        if self.failing:
            raise SpoolUnavailable("down")
        return answer


@pytest.mark.parametrize("late", [False, True])
async def test_a_store_that_fails_disturbs_no_task_and_loses_or_doubles_no_figure(*, late: bool) -> None:
    spool = Forgetful()
    spool.failing, spool.late = True, late
    b = bench(spool=spool, ml_analytics_flush=NOW)
    async with b.producer:
        await b.producer.connected(2)
        for n in range(3):
            calls = spool.calls
            assert (await b.producer.publish(embed(n))).confirmed
            await until(lambda before=calls: spool.calls > before + 1)  # type: ignore[misc]  # mypy: a default
        spool.failing = False
        assert (await figures(b)).confirmed == 3


async def test_figures_that_cannot_be_stored_at_the_end_are_told_of() -> None:
    spool = Forgetful()
    b = bench(spool=spool, ml_analytics_flush=3_600)
    async with b.producer:
        await b.producer.connected(2)
        await b.producer.publish(embed())
        spool.failing = True
    (told,) = b.told(SpoolFailed)
    assert "not stored at the end: down" in told.text


async def test_a_result_of_a_clock_that_is_wrong_is_counted_now_and_one_of_an_unknown_type_as_such() -> None:
    b = bench()
    async with b.producer:
        far = TaskResult("a", "embed_vectors", 9e9, ResultStatus.FAILED)
        other = TaskResult("b\x00\x1f", "what is this", 9e9, ResultStatus.REVOKED, cost=Decimal(1), model="m\x1f\ud800")
        await b.producer.report([far, other])
        found = await b.producer.analytics.summary(1)
        assert found.by_type["embed_vectors"].failed == 1
        assert found.by_type["unknown"].revoked == 1
        assert list((await b.producer.analytics.costs(1)).by_model) == ["unknown/m"]


async def test_made_up_models_do_not_make_as_many_rows() -> None:
    b = bench()
    async with b.producer:
        results = [TaskResult(str(n), "embed_vectors", 9e9, cost=Decimal(1), model=f"m{n}") for n in range(300)]
        await b.producer.report(results)
        found = await b.producer.analytics.costs(1)
        assert found.total.cost == 300
        assert len(found.by_model) == 201
        assert found.by_model["embed_vectors/other"].reports == 100


@pytest.mark.parametrize("hours", [0, 721, -1])
async def test_a_window_has_bounds(hours: int) -> None:
    b = bench()
    async with b.producer:
        with pytest.raises(ValueError, match="1 to 720"):
            await b.producer.analytics.summary(hours)
