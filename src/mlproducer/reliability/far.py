"""Scenario: a broker that is far away. Each answer comes 120 ms late, and there are 13 queues to look at."""

from __future__ import annotations

import asyncio
import time
from typing import Final
from urllib.parse import urlsplit

from mlproducer.events import ConnectionFailed
from mlproducer.reliability.message import Worker
from mlproducer.reliability.silence import Relay
from mlproducer.reliability.stage import Stage, Trial, sample

_ROUND_TRIP: Final = 0.12
_WORKERS: Final = {f"far_{n}": Worker("far.work", f"ml.far{n}") for n in range(13)}


async def slow_network(stage: Stage) -> None:
    """With the default settings. The queues are not there at first; they are when the connection is lost."""
    book, few = stage.book, stage.scale.few // 10
    there = urlsplit(stage.url)
    types = stage.know(_WORKERS)
    async with Relay(there.hostname or "127.0.0.1", there.port or 5672) as relay:
        relay.late = _ROUND_TRIP
        through = there._replace(netloc=f"{there.username}:{there.password}@127.0.0.1:{relay.port}").geturl()
        book.step(f"a producer connects over a round trip of {1000 * _ROUND_TRIP:.0f} ms")
        began = time.monotonic()
        async with stage.trial(stage.settings(rabbitmq_url=through, ml_task_types=types)) as trial:
            connected = time.monotonic() - began
            book.step(f"{few} tasks for each of {len(_WORKERS)} queues, which are made by the first")
            await _publish(trial, few)
            await stage.drained(trial)
            book.step("the connection is lost; tasks are spooled, and published over the next one")
            relay.cut()
            lost = time.monotonic()
            await trial.heard(ConnectionFailed, lost, "the lost connection")
            await _publish(trial, few)
            book.time_to_recover = await stage.drained(trial) - lost
            await trial.is_whole()
            failed = len(trial.told(ConnectionFailed))
            dead = len(stage.judge.dead())
    book.saw(f"the first connect took {connected:.1f} s", ok=True)
    book.saw(
        "one connect was enough, with all queues there too",
        ok=failed == 1,
        instead=f"{failed - 1} connects failed before one came up",
    )
    book.saw("no task became a dead letter", ok=not dead, instead=f"{dead:,} tasks became dead letters")


async def _publish(trial: Trial, few: int) -> None:
    await asyncio.gather(*(trial.publish(sample(n, name)) for n in range(few) for name in _WORKERS))
