"""Scenarios in which the broker is well, and what the producer needs there is taken away: a right, a queue."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from functools import partial
from typing import Final
from urllib.parse import unquote, urlsplit

from mlproducer.events import RouteChanged, RouteState, TaskDeadLettered
from mlproducer.outcome import EVERY_ROUTE
from mlproducer.reliability.reader import Reader
from mlproducer.reliability.stage import Stage, Trial, publishes_again, whole

SETTINGS: Final[Mapping[str, float]] = {"ml_health_interval": 1.0, "ml_reconnect_cap": 2.0}
_QUEUE: Final = "ml.embed"
_FIRST: Final = 60
"""Attempts that may be on their way when the first of them is refused: one of each caller, and some of the drain."""


async def lost_permission(stage: Stage) -> None:
    """The user may not write any more, and after a while he may again."""
    book, scale = stage.book, stage.scale
    vhost = unquote(urlsplit(stage.url).path[1:])
    give = partial(stage.rabbit.set_permissions, vhost)
    async with stage.trial(stage.settings(**SETTINGS)) as trial:
        book.step(f"{scale.callers} callers publish")
        async with trial.load(scale):
            await asyncio.sleep(scale.load)
            book.step("the right to write is taken away; connections are closed, since a channel remembers its rights")
            taken = time.monotonic()
            await whole(partial(give, write=""))
            try:
                await whole(stage.rabbit.close_connections)
                held = await trial.heard(RouteChanged, taken, "all routes to be held", _is_held)
                book.time_to_detect = held - taken
                await asyncio.sleep(3 * scale.load)
                told = _told(trial)
            finally:
                book.step("the right is given back")
                await whole(give)
            back = time.monotonic()
        book.step("the spool drains")
        book.time_to_recover = await stage.drained(trial) - back
        await trial.is_whole()
    waited, tried = back - held, trial.attempts(held, back)
    book.saw(f"the broker's reason was told: {told}", ok="refused for user" in told, instead=f"told was: {told}")
    book.saw(
        f"one fault for all routes: {tried} attempts were made on it in {waited:.1f} s, as probes",
        ok=tried <= _FIRST + 2 * waited,
        instead=f"{tried} attempts were made in {waited:.1f} s without the right: no probes but a storm",
    )
    _none_died(stage, trial)


async def deleted_queue(stage: Stage) -> None:
    """A queue is deleted under load: by a producer that makes it, it is made again; else its tasks wait for it."""
    book, scale = stage.book, stage.scale
    async with stage.trial(stage.settings(**SETTINGS)) as trial:
        book.step(f"{scale.callers} callers publish")
        async with trial.load(scale):
            await asyncio.sleep(scale.load)
            book.step("their queue is deleted, the callers go on; the producer makes it again")
            looked, deleted = await whole(partial(_delete, stage))
            again = await publishes_again(trial, deleted)
            await asyncio.sleep(scale.load)
        await stage.drained(trial)
        await trial.is_whole()
        stage.ledger.went(trial.confirmed_between(looked, deleted))
    book.saw(f"{again - deleted:.1f} s after it was deleted a task was confirmed again", ok=True)
    _none_died(stage, trial)
    settings = stage.settings(ml_declare_topology=False, **SETTINGS)
    async with stage.trial(settings) as trial:
        book.step("callers of a producer that makes no queues publish; the queue is deleted again, and its tasks wait")
        async with trial.load(scale):
            await asyncio.sleep(scale.load)
            looked, deleted = await whole(partial(_delete, stage))
            held = await trial.heard(RouteChanged, looked, "the route to be held", _is_held)
            book.time_to_detect = max(0.0, held - deleted)
            await asyncio.sleep(3 * scale.load)
            told = _told(trial)
            book.step("somebody makes the queue")
            await whole(partial(_make, stage.url, settings.ml_exchange))
        back = time.monotonic()
        book.time_to_recover = await stage.drained(trial) - back
        await trial.is_whole()
        stage.ledger.went(trial.confirmed_between(looked, deleted))
    book.saw(f"the missing queue was named: {told}", ok=_QUEUE in told, instead=f"told was: {told}")
    book.saw(f"{trial.spooled:,} tasks waited for it", ok=trial.spooled > 0, instead="no task waited for it")
    _none_died(stage, trial)


def _is_held(event: RouteChanged) -> bool:
    return event.state is RouteState.HELD and event.route in {EVERY_ROUTE, _QUEUE}


def _told(trial: Trial) -> str:
    return next((check.detail for check in trial.producer.health().checks if check.name == "routes"), "nothing")


def _none_died(stage: Stage, trial: Trial) -> None:
    dead = len(trial.told(TaskDeadLettered))
    text = f"{trial.spooled:,} tasks were spooled meanwhile, and none became a dead letter"
    stage.book.saw(text, ok=not dead, instead=f"{dead} tasks became dead letters")


def _make(url: str, exchange: str) -> None:
    with Reader(url) as admin:
        admin.make_queue(_QUEUE, exchange)


def _delete(stage: Stage) -> tuple[float, float]:
    """A worker takes what is in it, and it is deleted. The moments before the worker's last look and after the delete:
    what came between them went with it.
    """
    stage.judge.take(_QUEUE)
    looked = time.monotonic()
    with Reader(stage.url) as admin:
        stage.judge.take(_QUEUE)
        admin.delete(_QUEUE)
    return looked, time.monotonic()
