"""Scenarios in which the broker fails: it dies, it falls silent, it answers late."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

from mlproducer.events import (
    AnsweredLate,
    AttemptSettled,
    BreakerChanged,
    BreakerState,
    ConfirmsTimedOut,
    ConnectionFailed,
    TaskRetried,
)
from mlproducer.outcome import NotSent
from mlproducer.reliability.stage import Stage, Trial, whole
from mlproducer.task import TaskState

CONNECTION_SETTINGS: Final[Mapping[str, float]] = {
    "ml_reconnect_cap": 2.0,
    "ml_breaker_cooldown": 3.0,
    "ml_health_interval": 5.0,
}
CONFIRM_SETTINGS: Final[Mapping[str, float]] = {
    "ml_breaker_cooldown": 1.0,  # so many timeouts open the breaker, which is another scenario's business
}
BREAKER_SETTINGS: Final[Mapping[str, float]] = {
    "ml_confirm_timeout": 1.0,
    "ml_health_timeout": 1.0,
    "ml_breaker_cooldown": 2.0,
    "ml_reconnect_cap": 1.0,
    "rabbitmq_connection_timeout": 1_000,
}


async def connection_resilience(stage: Stage) -> None:
    """The broker is killed with -9 in the middle of a load, and started again while the load goes on."""
    book, scale = stage.book, stage.scale
    async with stage.trial(stage.settings(**CONNECTION_SETTINGS)) as trial:
        book.step(f"{scale.callers} callers publish")
        # The first task makes the queue. RabbitMQ writes the names of new quorum queues to the disk some seconds late
        # (see PrivateRabbit.sync): a fault of its own, which is not what this is about.
        await trial.burst(1)
        await whole(stage.rabbit.sync)
        async with trial.load(scale):
            await asyncio.sleep(scale.load)
            book.step("the broker is killed with -9, the callers go on")
            killed = time.monotonic()
            await whole(stage.rabbit.kill)
            book.time_to_detect = await trial.heard(ConnectionFailed, killed, "the lost connection") - killed
            await asyncio.sleep(scale.load)
            book.step("the broker starts again, the callers go on")
            await whole(stage.rabbit.start)
            back = time.monotonic()
            await asyncio.sleep(scale.load)
        book.step("the spool drains")
        book.time_to_recover = await stage.drained(trial) - back
        await trial.is_whole()
        spooled, slowest = trial.spooled, trial.slowest
    book.saw(
        f"{spooled:,} tasks were spooled while the broker was away, and published when it was back",
        ok=spooled > 0,
        instead="no task met the outage: nothing was spooled",
    )
    limit = trial.producer.settings.ml_confirm_timeout
    book.saw(f"no caller waited longer than {slowest:.1f} s", ok=slowest < limit + 1)


async def circuit_breaker(stage: Stage) -> None:
    """The broker is paused: it opens at 10 failures, spools at once, half-opens, opens again, closes."""
    book, few = stage.book, stage.scale.few
    settings = stage.settings(**BREAKER_SETTINGS)
    async with stage.trial(settings) as trial:
        book.step(f"{few} tasks while all is well")
        await trial.burst(few)
        book.step("the broker is paused; calls run into the confirm timeout until the breaker opens")
        paused = time.monotonic()
        stage.rabbit.pause()
        await trial.burst(2 * settings.ml_breaker_failures)
        opened = await trial.heard(BreakerChanged, paused, "the breaker to open", _is(BreakerState.OPEN))
        book.time_to_detect = opened - paused
        failures = next(e.failures for e in trial.told(BreakerChanged, paused) if e.state is BreakerState.OPEN)
        book.step("the breaker is open: tasks are spooled at once, the broker is left alone")
        trial.slowest = 0.0
        await trial.burst(few)
        slowest = trial.slowest
        half = await trial.heard(BreakerChanged, opened, "the breaker to half-open", _is(BreakerState.HALF_OPEN))
        book.step("half-open: a probe fails on the silent broker, and the breaker opens again")
        again = await trial.heard(BreakerChanged, half, "the breaker to open again", _is(BreakerState.OPEN))
        book.step("the broker answers again; the breaker half-opens and closes")
        stage.rabbit.resume()
        back = time.monotonic()
        await trial.heard(BreakerChanged, again, "the breaker to close", _is(BreakerState.CLOSED))
        book.time_to_recover = await stage.drained(trial) - back
        await trial.is_whole()
    book.saw(f"it opened after {failures} failures in a row", ok=failures == settings.ml_breaker_failures)
    limit = settings.ml_confirm_timeout / 2
    book.saw(f"while it was open, the slowest of {few} calls took {slowest * 1000:.0f} ms", ok=slowest < limit)
    tried = trial.attempts(opened, half)
    book.saw(
        f"no message went to the broker in the {half - opened:.1f} s before it half-opened",
        ok=tried == 0,
        instead=f"{tried} attempts were made on an open breaker",
    )
    states = [event.state.name.lower().replace("_", "-") for event in trial.told(BreakerChanged, paused)]
    book.saw(" → ".join(["closed", *states]), ok=states[-1] == "closed")


async def publisher_confirms(stage: Stage) -> None:
    """Many at once, each with its own confirm; then the broker answers later than the confirm timeout."""
    book, scale = stage.book, stage.scale
    settings = stage.settings(**CONFIRM_SETTINGS)
    async with stage.trial(settings) as trial:
        book.step(f"{scale.tasks:,} calls at the same time")
        receipts = await trial.burst(scale.tasks)
        direct = sum(receipt.confirmed for receipt in receipts)
        book.step(f"the broker is paused; {scale.few} calls wait for confirms that do not come")
        paused = time.monotonic()
        stage.rabbit.pause()
        late = await trial.burst(scale.few)
        timed_out = await trial.heard(ConfirmsTimedOut, paused, "the confirm timeout")
        book.time_to_detect = timed_out - paused
        book.step("the broker goes on, and its late acks arrive")
        stage.rabbit.resume()
        back = time.monotonic()
        book.time_to_recover = await stage.drained(trial) - back
        await trial.is_whole()
        lost_links = len(trial.told(ConnectionFailed))
    spooled = sum(receipt.state is TaskState.SPOOLED for receipt in late)
    book.saw(f"{direct:,} of {scale.tasks:,} concurrent calls were confirmed directly", ok=direct == scale.tasks)
    book.saw(
        f"{spooled} calls without a confirm were spooled {book.time_to_detect:.1f} s after the pause, and not "
        "reported as sent or as failed",
        ok=spooled == scale.few,
        instead=f"only {spooled} of {scale.few} calls without a confirm were spooled",
    )
    book.saw(
        "the connection stayed up, so the late acks came",
        ok=lost_links == 0,
        instead="the connection was lost, so no late ack came",
    )
    heard = {event.task_id for event in trial.told(AnsweredLate, paused)}
    book.saw(
        f"{len(heard)} late acks confirmed their own tasks, which were not sent again",
        ok=bool(heard) and not sent_again(trial, heard),
        instead="no late ack was heard" if not heard else "tasks that were acked late were sent again",
    )
    twice = settled_twice(trial, {receipt.task_id for receipt in late})
    book.saw(
        "no task has more outcomes than attempts",
        ok=not twice,
        instead=f"{len(twice)} tasks have more outcomes than attempts: late acks settled others' too",
    )


def sent_again(trial: Trial, task_ids: set[str]) -> set[str]:
    """Tasks of which more than one attempt reached the broker, as far as anybody knows."""
    sent = Counter(event.task_id for event in trial.told(AttemptSettled) if not isinstance(event.outcome, NotSent))
    return {task_id for task_id in task_ids if sent[task_id] > 1}


def settled_twice(trial: Trial, task_ids: set[str]) -> set[str]:
    """Tasks with more outcomes than attempts: the direct one, and those from the spool."""
    tried = dict.fromkeys(task_ids, 1)
    for event in trial.told(TaskRetried):
        if event.task_id in tried:
            tried[event.task_id] += 1
    for event in trial.told(AttemptSettled):
        if event.task_id in tried:
            tried[event.task_id] -= 1
    return {task_id for task_id, left in tried.items() if left < 0}


def _is(state: BreakerState) -> Callable[[Any], bool]:
    return lambda event: event.state is state
