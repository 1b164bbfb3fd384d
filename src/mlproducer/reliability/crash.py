"""Scenario: the producer is killed with -9 under load, again and again; a fresh one finds what it left."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
import time
from pathlib import Path
from typing import Final

from mlproducer.reliability.book import NotSeen
from mlproducer.reliability.judge import Ledger
from mlproducer.reliability.stage import PATIENCE, Stage
from mlproducer.testing.rabbitmq import free_port

_LIVES: Final = (0.1, 0.6)
"""Seconds that a producer lives after its first receipt."""
_REST: Final = 0.02


async def crash_recovery(stage: Stage) -> None:
    """Every other producer finds no broker, so that what it accepted is in the spool when it dies."""
    book, kills = stage.book, stage.scale.kills
    nowhere = f"amqp://ml:ml_password@127.0.0.1:{free_port()}/"
    ended = []
    for kill in range(kills):
        alone = (kills - kill) % 2 == 1  # the last one too
        book.step(f"kill -9 under load, {kill + 1} of {kills}, {'without' if alone else 'with'} a broker")
        ended.append(await _live_and_die(stage, nowhere if alone else stage.url))
    left = len(stage.judge.waiting())
    book.step(f"a fresh producer finds {left:,} tasks in the spool")
    began = time.monotonic()
    async with stage.trial(stage.settings()) as trial:
        book.time_to_recover = await stage.drained(trial) - began
        await trial.is_whole()
    book.saw(f"{kills} producers were killed with -9 under load", ok=ended == [-signal.SIGKILL] * kills)
    book.saw(
        f"the dead left {left:,} tasks in the spool, and a fresh one published them",
        ok=left > 0,
        instead="the dead left nothing in the spool: they were not killed under load",
    )


async def _live_and_die(stage: Stage, url: str) -> int:
    """One producer from its first receipt to its end; its exit code."""
    told = {
        "callers": stage.scale.callers,
        "rest": _REST,
        "settings": {"rabbitmq_url": url, "ml_data_dir": str(stage.folder)},
    }
    log = stage.folder / "child.log"
    with log.open("wb") as errors:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "mlproducer.reliability.child",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            start_new_session=True,  # a Ctrl-C is for us, who end it
        )
    try:
        return await _listen(child, json.dumps(told).encode(), stage, log)
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


async def _listen(child: asyncio.subprocess.Process, told: bytes, stage: Stage, log: Path) -> int:
    if child.stdin is None or child.stdout is None:
        raise NotSeen("the producer to be killed has no pipes")
    child.stdin.write(told)
    child.stdin.close()
    async with asyncio.timeout(PATIENCE):
        first = await child.stdout.readline()
    if not first:
        raise NotSeen(f"the producer to be killed ended by itself: {_end_of(log)}")
    await asyncio.sleep(random.uniform(*_LIVES))
    child.kill()
    # What is in the pipe was written before the caller went on; the last line may be cut off, and then its caller
    # was told nothing.
    for line in (first + await child.stdout.read()).split(b"\n")[:-1]:
        _note(stage.ledger, line.decode())
    stage.ledger.interrupted()
    stage.book.tick()
    return await child.wait()


def _end_of(log: Path) -> str:
    return " ".join(log.read_text(errors="replace")[-500:].split())


def _note(ledger: Ledger, line: str) -> None:
    task_id, what, *digest = line.split(" ")
    match what:
        case "called":
            ledger.called(task_id, digest[0])
        case "later":
            ledger.confirmed_later(task_id)
        case "unsure":
            ledger.unsure(task_id)
        case state:
            ledger.told(task_id, state)
