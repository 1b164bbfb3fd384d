"""Scenario: one queue is stuck, in each of the ways in which one can be, beside a healthy one under load.

It is full: it nacks what comes, as a queue does that has a limit and `reject-publish`. It is unbound: each message
comes back. It is silent: its leader does not go on, and it confirms nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Final, Self
from urllib.parse import unquote, urlsplit

from mlproducer.events import RouteChanged, RouteState, TaskDeadLettered
from mlproducer.reliability.latency import is_near, p99
from mlproducer.reliability.message import EXCHANGE, Worker
from mlproducer.reliability.reader import Reader
from mlproducer.reliability.stage import Call, Scale, Stage, Trial, whole

SETTINGS: Final[Mapping[str, float]] = {"ml_confirm_timeout": 2.0, "ml_retry_cap": 2.0}
_HEALTHY: Final = "embed_vectors"
_TYPE: Final = "stuck"
_QUEUE: Final = "ml.stuck"
_PLENTY: Final = 1_000_000
"""Messages that it takes when it is not full."""
_WORKERS: Final = {_TYPE: Worker("stuck.work", _QUEUE)}


@dataclass(frozen=True, slots=True)
class Way:
    """How the queue is stuck."""

    name: str
    begin: Callable[[Stage], None]
    end: Callable[[Stage], None]


def _full(stage: Stage, *, full: bool) -> None:
    """A quorum queue goes on refusing until something is taken from it, whatever its limit is by then."""
    limit = f'[{{<<"max-length">>, {1 if full else _PLENTY}}}, {{<<"overflow">>, <<"reject-publish">>}}]'
    stage.rabbit.eval(
        f'ok = rabbit_policy:set(<<"{_vhost(stage)}">>, <<"full">>, <<"^{_QUEUE}$">>, {limit}, 0, <<"queues">>, '
        '<<"test">>).'
    )
    if not full:
        stage.judge.take(_QUEUE)


def _unbound(stage: Stage, *, unbound: bool) -> None:
    with Reader(stage.url) as admin:
        (admin.unbind if unbound else admin.bind)(_QUEUE, EXCHANGE, _QUEUE)


def _silent(stage: Stage, *, silent: bool) -> None:
    queue = f'rabbit_misc:r(<<"{_vhost(stage)}">>, queue, <<"{_QUEUE}">>)'
    what = "suspend" if silent else "resume"
    stage.rabbit.eval(f"{{ok, Q}} = rabbit_amqqueue:lookup({queue}), sys:{what}(amqqueue:get_pid(Q)).")


WAYS: Final = (
    Way("full", partial(_full, full=True), partial(_full, full=False)),
    Way("unbound", partial(_unbound, unbound=True), partial(_unbound, unbound=False)),
    Way("silent", partial(_silent, silent=True), partial(_silent, silent=False)),
)


@dataclass(frozen=True, slots=True)
class Seen:
    """One way, as it was. Moments on the monotonic clock."""

    way: Way
    began: float
    held: float
    healed: float
    flowed: float
    spent: int
    """Attempts that were spent by the tasks which waited when it was healed."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What one way came to. Times in seconds; `calls` are those of the healthy route while the other was stuck."""

    stuck: float
    held_after: float
    flowed_after: float
    """Its end."""
    probes: int
    spent: int
    calls: int
    spooled: int
    p99: float

    @classmethod
    def of(cls, trial: Trial, seen: Seen) -> Self:
        calls = trial.calls(seen.began, seen.healed, _HEALTHY)
        return cls(
            stuck=round(seen.healed - seen.began, 3),
            held_after=round(seen.held - seen.began, 3),
            flowed_after=round(seen.flowed - seen.healed, 3),
            probes=trial.attempts(seen.held, seen.healed, _TYPE),
            spent=seen.spent,
            calls=len(calls),
            spooled=sum(not call.confirmed for call in calls),
            p99=p99(calls),
        )


async def stuck_route(stage: Stage) -> None:
    """Callers of both routes publish all the time."""
    book, scale = stage.book, stage.scale
    types = stage.know(_WORKERS, declare=False)
    await whole(partial(_make, stage.url))
    seen, calm = [], []
    async with stage.trial(stage.settings(ml_task_types=types, **SETTINGS)) as trial:
        book.step(f"{scale.callers} callers publish to a queue, as many to another one")
        await trial.burst(1)
        async with trial.load(scale), trial.load(scale, _TYPE):
            calm += await _undisturbed(trial, scale)
            for way in WAYS:
                seen.append(await _stuck(stage, trial, way))
                calm += await _undisturbed(trial, scale)
        book.step("the spool drains")
        await stage.drained(trial)
        await trial.is_whole()
    _write(stage, trial, seen, calm)


async def _undisturbed(trial: Trial, scale: Scale) -> list[Call]:
    """Calls with nothing stuck: before each way and after the last, since the machine may be slower by then."""
    began = time.monotonic()
    await asyncio.sleep(scale.load)
    return trial.calls(began, time.monotonic(), _HEALTHY)


async def _stuck(stage: Stage, trial: Trial, way: Way) -> Seen:
    scale = stage.scale
    stage.book.step(f"the other one is {way.name} for {scale.stuck:g} s")
    began = time.monotonic()
    try:
        await whole(partial(way.begin, stage))
        held = await trial.heard(RouteChanged, began, "the route to be held", _is(RouteState.HELD))
        await asyncio.sleep(max(0.0, began + scale.stuck - time.monotonic()))
        spent = stage.judge.spent()
    finally:
        healed = time.monotonic()
        await whole(partial(way.end, stage))
    flowed = await trial.heard(RouteChanged, healed, "the route to open again", _is(RouteState.OPEN))
    return Seen(way, began, held, healed, flowed, spent)


def _write(stage: Stage, trial: Trial, seen: Sequence[Seen], calm: Sequence[Call]) -> None:
    book, before = stage.book, p99(calm)
    ways = {each.way.name: Figures.of(trial, each) for each in seen}
    book.time_to_detect = max(each.held - each.began for each in seen)
    book.time_to_recover = max(each.flowed - each.healed for each in seen)
    book.extra = {"p99_undisturbed": before, "ways": {name: asdict(each) for name, each in ways.items()}}
    for name, each in ways.items():
        most = 2 + (each.stuck - each.held_after)  # the shortest wait between two is a second
        book.saw(
            f"{name}: held after {each.held_after:.1f} s, {each.probes} probes, no attempt spent; it flowed again "
            f"{each.flowed_after:.1f} s after its end",
            ok=not each.spent and each.probes <= most,
            instead=f"{name}: {each.probes} probes in {each.stuck:.1f} s, {each.spent} attempts spent",
        )
        book.saw(
            f"{name}: 99 of 100 of the {each.calls:,} calls beside it took at most {each.p99 * 1000:.0f} ms, "
            f"{before * 1000:.0f} ms with nothing stuck; {each.spooled:,} of them were spooled",
            ok=is_near(each.p99, before),
        )
    dead = len(trial.told(TaskDeadLettered))
    book.saw("none became a dead letter", ok=not dead, instead=f"{dead} tasks became dead letters")


def _is(state: RouteState) -> Callable[[RouteChanged], bool]:
    return lambda event: event.route == _QUEUE and event.state is state


def _vhost(stage: Stage) -> str:
    return unquote(urlsplit(stage.url).path[1:])


def _make(url: str) -> None:
    with Reader(url) as admin:
        admin.make_queue(_QUEUE, EXCHANGE)
