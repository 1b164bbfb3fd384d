"""A replay or purge under way: a bar on a terminal, a line now and then elsewhere, and Ctrl-C between two chunks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mlproducer.cli.output import Output
from mlproducer.cli.signals import stop_on_signals
from mlproducer.cli.store import looking_at, replayer
from mlproducer.delivery.replay import Replayer, Step
from mlproducer.errors import MLProducerError
from mlproducer.settings import Settings

_EVERY: Final = 5.0
"""Seconds between the lines of a progress that nobody watches."""

Begin = Callable[[Replayer], AsyncGenerator[Step, None]]


class _Stopped(Exception):
    """Ctrl-C, between two chunks."""


@dataclass(frozen=True, slots=True)
class Swept:
    done: int
    total: int
    interrupted: bool


async def sweep(settings: Settings, out: Output, doing: str, begin: Begin) -> Swept:
    """Run the steps that `begin` gives. Ctrl-C lets the chunk under way finish, so that the counts are exact.

    Raises: SpoolUnavailable, after saying how far it came.
    """
    last = Step((), 0, 0, 0, 0)
    with (
        stop_on_signals(lambda: out.note("stopping after what is under way ...")) as stop,
        _progress(out, doing) as tick,
    ):

        async def nap(seconds: float) -> None:
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), seconds)
            if stop.is_set():
                raise _Stopped

        async with looking_at(settings) as spool, aclosing(begin(await replayer(spool, nap))) as steps:
            try:
                async for step in steps:
                    last = step
                    tick(step)
            except _Stopped:
                return Swept(last.done, last.total, interrupted=True)
            except MLProducerError:
                out.note(f"{doing}: ended by an error after {last.taken:,} of {last.total:,}; the others are as before")
                raise
    return Swept(last.done, last.total, interrupted=False)


@contextmanager
def _progress(out: Output, doing: str) -> Iterator[Callable[[Step], None]]:
    if out.notes.is_terminal:
        columns = (TextColumn(doing), BarColumn(bar_width=30), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=out.notes, transient=True) as progress:
            bar = progress.add_task("", total=None)
            yield lambda step: progress.update(bar, completed=step.taken, total=step.total)
        return
    said = time.monotonic()

    def tick(step: Step) -> None:
        nonlocal said
        if time.monotonic() - said >= _EVERY:
            said = time.monotonic()
            out.note(f"{doing}: {step.taken:,} of {step.total:,}")

    yield tick
