"""Whoever meets a spool that fails, everybody is told; and told again when it works."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from engine_bench import Bench, bench, embed, until
from mlproducer import NotFound, Producer, SpoolUnavailable
from mlproducer.delivery.spool_watch import CALLS, READS
from mlproducer.events import SpoolChanged, SpoolFailed
from mlproducer.ports import CountingSpool
from mlproducer.rows import Audit, DeadFilter
from mlproducer.spool.memory import MemorySpool
from mlproducer.spool.sql import PostgresSpool
from mlproducer.status import CheckStatus
from private_postgres import PrivatePostgres


class Breakable(MemorySpool):
    """Each call fails while it is `gone`, and hangs while it `hangs`."""

    gone = hangs = False


def _breaking(name: str) -> Callable[..., Awaitable[Any]]:
    async def call(self: Breakable, *args: Any, **kwargs: Any) -> Any:
        if self.gone:
            raise SpoolUnavailable(f"the store is gone: {name}")
        while self.hangs:  # noqa: ASYNC110  # what is awaited has no event
            await asyncio.sleep(0.01)
        return await getattr(MemorySpool, name)(self, *args, **kwargs)

    return call


for _name in CALLS:
    setattr(Breakable, _name, _breaking(_name))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlproducer.delivery.spool_watch.LOOK", 0.02)


def _metric(b: Bench) -> float:
    found = b.producer.metrics.registry.get_sample_value("ml_producer_spool_unavailable")
    assert found is not None
    return found


def _shown(b: Bench) -> tuple[CheckStatus, bool, bool]:
    spool = next(check for check in b.producer.health().checks if check.name == "spool")
    return spool.status, b.producer.status().ready, _metric(b) == 1.0


GONE = (CheckStatus.FAILED, False, True)
SOON = 30.0
WORKS = (CheckStatus.OK, True, False)


def test_every_call_of_the_port_is_watched() -> None:
    calls = {name for name, _ in inspect.getmembers(CountingSpool, inspect.isfunction) if not name.startswith("_")}
    assert set(CALLS) == calls - {"open", "close", "watch"}
    assert calls > READS


ASKED: dict[str, Callable[[Producer], Awaitable[object]]] = {
    # Through the producer, as a caller, an operator or a page asks.
    "put": lambda p: p.publish(embed()),
    "claim": lambda p: p.publish(embed(id="mine")),
    "find": lambda p: p.receipt("nobody"),
    "waiting": lambda p: p.waiting(),
    "dead": lambda p: p.dead_letters(),
    "count_dead": lambda p: p.plan(DeadFilter()),
    "audits": lambda p: p.audits(),
    "counts": lambda p: p.analytics.summary(),
    "count": lambda p: p._parts.counting.flush(),
    "replay": lambda p: p._parts.watch.spool.replay(Audit(0.0, "ada", "replay", "by id", ("a",))),
    "purge": lambda p: p._parts.watch.spool.purge(Audit(0.0, "ada", "purge", "by id", ("a",))),
    "measure": lambda p: p._parts.watch.spool.measure(),
}


@pytest.mark.parametrize("call", ASKED)
async def test_whatever_call_meets_a_store_that_is_gone_it_is_shown_at_once_and_until_it_is_back(call: str) -> None:
    spool = Breakable()
    b = bench(spool=spool, ml_drain_poll=30, ml_analytics_flush=30)
    b.broker.down = True
    async with b.producer as p:
        await p.connected(1)
        await p.publish(embed(0))  # so that there is something to count
        assert _shown(b) == WORKS
        spool.gone = True
        with pytest.raises(SpoolUnavailable, match="gone"):
            await ASKED[call](p)
        assert _shown(b) == GONE
        assert b.told(SpoolFailed)
        spool.gone = False
        await until(lambda: _shown(b) == WORKS, SOON)
        assert [event.available for event in b.told(SpoolChanged)] == [False, True]


@pytest.mark.parametrize("call", ["confirm", "release", "lease", "settle"])
async def test_what_fails_behind_a_callers_back_is_shown_too(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = MemorySpool()
    b = bench(spool=spool)
    fails = True

    async def fail(*args: Any, **kwargs: Any) -> Any:
        if fails:
            raise SpoolUnavailable(f"the store is gone: {call}")
        return await getattr(MemorySpool, call)(spool, *args, **kwargs)

    monkeypatch.setattr(spool, call, fail)
    b.broker.blocked = call == "settle"
    async with b.producer as p:
        await p.connected(1)
        if call == "release":
            b.broker.hold()
            leaver = asyncio.create_task(p.publish(embed(id="a")))
            await until(lambda: b.broker.view().in_flight == 1)
            leaver.cancel()
        else:
            await p.publish(embed(id="a"))
            b.broker.blocked = False
        await until(lambda: bool(b.told(SpoolChanged)), SOON)
        assert b.told(SpoolChanged)[0].text == f"the store is gone: {call}"
        fails = False
        await until(lambda: _shown(b) == WORKS, SOON)


async def test_a_store_that_hangs_is_shown_before_any_call_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlproducer.delivery.spool_watch.SILENT", 0.2)
    spool = Breakable()
    b = bench(spool=spool)
    async with b.producer as p:
        await p.connected(1)
        spool.hangs = True
        await until(lambda: _shown(b) == GONE, SOON)
        assert "has not answered" in b.told(SpoolChanged)[0].text
        assert not b.told(SpoolFailed)
        spool.hangs = False
        await until(lambda: _shown(b) == WORKS, SOON)


async def test_a_thousand_callers_that_meet_one_failure_are_told_of_once_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mlproducer.delivery.spool_watch.LOOK", 60.0)
    spool = Breakable()
    b = bench(spool=spool, ml_drain_poll=30, ml_analytics_flush=30)
    b.broker.down = True
    async with b.producer as p:
        await p.connected(1)
        spool.gone = True
        answers = await asyncio.gather(*(p.publish(embed(n)) for n in range(1_000)), return_exceptions=True)
        assert {type(answer) for answer in answers} == {SpoolUnavailable}
        assert sum("put" in event.text for event in b.told(SpoolFailed)) == 1


async def test_a_task_that_is_nowhere_is_no_failure_of_the_spool() -> None:
    b = bench()
    async with b.producer as p:
        await p.connected(1)
        with pytest.raises(NotFound):
            await p.receipt("nobody")
        assert _shown(b) == WORKS


async def test_with_server_and_broker_gone_one_callers_own_id_is_enough_to_be_not_ready(
    own_postgres: PrivatePostgres,
) -> None:
    b = bench(spool=PostgresSpool(own_postgres.url(own_postgres.new_database(), timeout=5)))
    b.broker.down = True
    async with b.producer as p:
        await p.connected(1)
        assert p.status().ready
        await asyncio.to_thread(own_postgres.stop)
        with pytest.raises(SpoolUnavailable):
            await p.publish(embed(id="mine"))
        assert _shown(b) == GONE
        await asyncio.to_thread(own_postgres.start)
        await until(lambda: _shown(b) == WORKS, SOON)
        await p.publish(embed(id="mine"))
