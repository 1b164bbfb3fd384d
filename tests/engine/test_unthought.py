"""Errors that nobody thought of, in each part of the engine: told at once, and the producer goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from engine_bench import Bench, bench, embed, until
from mlproducer import Producer, engine
from mlproducer.delivery.verdicts import Verdicts
from mlproducer.errors import ErrorType
from mlproducer.events import ConnectionFailed, PartFailed
from mlproducer.jobs import Jobs, heard
from unheard import nothing_unheard


class Bug(Exception):
    """Nobody thought of it."""


class Once:
    """`real`, after it failed once."""

    def __init__(self, real: Callable[..., Any]) -> None:
        self._real = real
        self.calls = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if self.calls == 1:
            raise Bug("nobody thought of this")
        return self._real(*args, **kwargs)


def method_of(b: Bench, place: str) -> tuple[object, str]:
    """`place` is `broker.…`, `spool.…` or a part and its method."""
    name, method = place.split(".")
    parts = b.producer._parts
    owners = (getattr(b, name, None), getattr(parts, name, None), *(part for of, part in parts.loops if of == name))
    return next(owner for owner in owners if hasattr(owner, method)), method


async def nothing(_: Bench, __: Producer) -> None:
    pass


async def reconnect(b: Bench, p: Producer) -> None:
    p.reconnect()
    await until(lambda: b.broker.connects > 1)


async def lose(b: Bench, _: Producer) -> None:
    b.broker.drop()


async def spool_and_drain(b: Bench, p: Producer) -> None:
    b.broker.blocked = True
    await p.publish(embed("waits"))
    b.broker.blocked = False
    p.reset_breaker()


async def open_breaker(_: Bench, p: Producer) -> None:
    for _n in range(10):
        p._parts.guard.failure()
    await until(lambda: p.status().breaker == "half_open")


async def publish_chosen(_: Bench, p: Producer) -> None:
    await p.publish(embed(id="chosen"))


@pytest.mark.parametrize(
    ("place", "trigger", "part"),
    [
        ("broker.close", reconnect, "link"),
        ("broker.check", nothing, "link"),
        ("broker.queue_depths", nothing, "link"),
        ("link._connected", reconnect, "link"),
        ("link._tell_state", lose, None),
        ("guard._half_opened", open_breaker, "breaker"),
        ("gauges.measure", nothing, "gauges"),
        ("counting.flush", nothing, "analytics"),
        ("health.check", nothing, "health"),
        ("drain._round", nothing, "drain"),
        ("drain._settle", spool_and_drain, "drain"),
        ("spool.confirm", publish_chosen, "claims"),
    ],
    ids=lambda x: x.__qualname__ if callable(x) else x,
)
async def test_a_part_that_fails_once_is_told_and_goes_on(
    place: str,
    trigger: Callable[[Bench, Producer], Any],
    part: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine, "BEGIN_AGAIN", 0.05)
    b = bench(ml_analytics_flush=0.05, ml_drain_lease=1.0, ml_confirm_timeout=0.5, ml_breaker_cooldown=0.05)
    async with nothing_unheard(), b.producer as p:
        await p.connected(5)
        where, name = method_of(b, place)
        fault = Once(getattr(where, name))
        monkeypatch.setattr(where, name, fault)
        if part is None:
            with pytest.raises(Bug):  # the fake broker lets it through; ours ends with it
                await trigger(b, p)
        else:
            await trigger(b, p)
            await until(lambda: bool(b.told(PartFailed)))
            told = b.told(PartFailed)[0]
            assert (told.part, type(told.error)) == (part, Bug)
            assert f'internal_errors_total{{part="{part}"}} 1' in p.metrics.prometheus()[0].decode()
        if part == "link" and name != "_connected":
            assert "nobody thought of this" in b.told(ConnectionFailed)[0].text
            assert b.told(ConnectionFailed)[0].error_type is ErrorType.INTERNAL
        async with asyncio.timeout(20):
            while not (await p.publish(embed("afterwards"))).confirmed:  # noqa: ASYNC110  # the link has no event
                await asyncio.sleep(0.02)
        await until(lambda: p.status().spool_tasks == 0 and not p._parts.drain.batches)
        if part in {"gauges", "analytics", "health", "drain"}:  # a loop, which begins again
            await until(lambda: fault.calls > 1, 20)


async def test_a_connect_that_fails_as_nobody_thought_of_says_so_in_status(monkeypatch: pytest.MonkeyPatch) -> None:
    b = bench()
    monkeypatch.setattr(b.broker, "connect", Once(b.broker.connect))
    async with nothing_unheard(), b.producer as p:
        await p.connected(5)
        assert "nobody thought of this" in b.told(ConnectionFailed)[0].text
        await until(p.is_healthy)


async def test_a_row_whose_verdict_fails_leaves_its_batch_to_the_next_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three such batches took all lanes of the drain: it stood still for good."""
    b = bench(ml_drain_lease=0.3, ml_confirm_timeout=0.2)
    b.broker.blocked = True
    async with nothing_unheard(), b.producer as p:
        await p.connected(5)
        for n in range(4):
            await p.publish(embed(n))
        failing = [1] * 3
        real = Verdicts.after

        def after(self: Verdicts, *args: Any) -> Any:
            if failing:
                failing.pop()
                raise Bug("nobody thought of this")
            return real(self, *args)

        monkeypatch.setattr(Verdicts, "after", after)
        b.broker.blocked = False
        await until(lambda: not failing and p.status().spool_tasks == 0, 20)
        assert {event.part for event in b.told(PartFailed)} == {"drain"}


async def test_a_job_a_timer_and_a_callback_tell_their_owner() -> None:
    told: list[Exception] = []

    async def job() -> None:
        raise Bug("in a job")

    def callback() -> None:
        raise Bug("in a callback")

    async with nothing_unheard():
        jobs = Jobs(told.append)
        jobs.spawn(job())
        jobs.later(0, callback)
        jobs.run(callback)
        jobs.spawn(asyncio.sleep(600)).cancel()
        await until(lambda: len(told) == 3 and not len(jobs))
        assert {str(each) for each in told} == {"in a job", "in a callback"}


async def test_an_error_that_is_told_in_another_way_may_go_to_nobody() -> None:
    async with nothing_unheard():
        heard(asyncio.get_running_loop().create_future()).set_exception(Bug("told in another way"))
        heard(asyncio.get_running_loop().create_future()).cancel()
