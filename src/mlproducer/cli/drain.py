"""`mlproducer drain`: publish what waits in the spool and is due, then end. Beside a running service, or with none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Final

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from mlproducer.cli.output import ExitCode, JsonOption, Output, output, plural, when
from mlproducer.cli.routes import said
from mlproducer.cli.signals import stop_on_signals
from mlproducer.cli.store import looking_at
from mlproducer.events import Event, RouteChanged, RouteState, TaskConfirmed, TaskDeadLettered
from mlproducer.rows import SpoolSize
from mlproducer.settings import Settings
from mlproducer.wiring import Producer

_SAY_EVERY: Final = 2.0
"""Seconds between two lines of progress where no terminal shows a bar."""


@dataclass(slots=True)
class _Drained:
    """How it went; a listener of the producer."""

    out: Output
    closed: set[str] = field(default_factory=set)
    """Routes that take nothing: what waits for them is put off until after their next probe."""
    confirmed: int = 0
    died: int = 0
    connected: bool = True
    complete: bool = False
    interrupted: bool = False
    error: str = ""

    def hear(self, event: Event) -> None:
        if isinstance(event, TaskConfirmed):
            self.confirmed += 1
        elif isinstance(event, TaskDeadLettered):
            self.died += 1
        elif isinstance(event, RouteChanged):
            self.out.note(said(event))
            (self.closed.discard if event.state is RouteState.OPEN else self.closed.add)(event.route)


def drain(
    *,
    timeout: Annotated[float, typer.Option(min=0.0, help="Seconds after which it ends, done or not.")] = 3_600.0,
    as_json: JsonOption = False,
) -> None:
    """Publish what is due in the spool, and end: after an outage, before a machine goes away, or from cron.

    Exit code 0 if nothing is due any more, nothing went to the dead letter queue, and every route takes tasks, else 1.
    What is not due yet (an eta, a retry that waits) stays and is said.
    """
    settings = Settings.load(ml_log_level="error")
    out = output(as_json=as_json)
    found = _Drained(out)
    size = asyncio.run(_drain(settings, found, out, timeout))
    _conclude(out, found, size)
    if found.interrupted:
        raise typer.Exit(ExitCode.INTERRUPTED)
    if not found.complete or found.died:
        raise typer.Exit(ExitCode.FAILED)


async def _drain(settings: Settings, found: _Drained, out: Output, timeout: float) -> SpoolSize:  # noqa: ASYNC109  # handed on
    """What the spool holds at the end."""
    async with looking_at(settings) as spool:
        before = await spool.measure()
        if before.tasks:
            await _publish(settings, found, out, before.tasks, timeout)
            return await spool.measure()
    found.complete = True
    return before


async def _publish(settings: Settings, found: _Drained, out: Output, total: int, timeout: float) -> None:  # noqa: ASYNC109  # handed on
    async with Producer(settings, listeners=(found.hear,)) as producer:
        with stop_on_signals(lambda: out.note("stopping: finishing what is under way ...")) as stop:
            await producer.connected(min(timeout, settings.rabbitmq_connection_timeout / 1000))
            with _progress(out, found, total) as show:
                working = asyncio.ensure_future(producer.drained(timeout))
                stopped = asyncio.ensure_future(stop.wait())
                while not (working.done() or stopped.done()):
                    await asyncio.wait((working, stopped), timeout=0.2, return_when=asyncio.FIRST_COMPLETED)
                    show()
                stopped.cancel()
                working.cancel()
                (complete,) = await asyncio.gather(working, return_exceptions=True)
        found.complete, found.interrupted = complete is True and not found.closed, stop.is_set()
        status = producer.status()
        found.connected, found.error = status.connection == "connected", status.last_error or "; ".join(status.reasons)


@contextmanager
def _progress(out: Output, found: _Drained, total: int) -> Iterator[_Show]:
    show = _Show(out, found, total)
    if not out.notes.is_terminal:
        yield show
        return
    columns = (SpinnerColumn(), TextColumn("publishing"), BarColumn(bar_width=20), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=out.notes, transient=True) as progress:
        show.bar = (progress, progress.add_task("", total=total))
        yield show


class _Show:
    """How far it is: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, out: Output, found: _Drained, total: int) -> None:
        self._out = out
        self._found = found
        self._total = total
        self._said = time.monotonic()
        self.bar: tuple[Progress, object] | None = None

    def __call__(self) -> None:
        done = self._found.confirmed + self._found.died
        if self.bar is not None:
            progress, bar = self.bar
            progress.update(bar, completed=min(done, self._total))  # type: ignore[arg-type]  # rich's own id
        elif time.monotonic() - self._said >= _SAY_EVERY:
            self._said = time.monotonic()
            self._out.note(f"published {self._found.confirmed:,} of {self._total:,}")


def _conclude(out: Output, found: _Drained, size: SpoolSize) -> None:
    out.data(
        {
            "published": found.confirmed,
            "dead": found.died,
            "waiting": size.tasks,
            "next_due_at": size.next_due_at,
            "complete": found.complete,
            "interrupted": found.interrupted,
        }
    )
    out.say(f"published {plural(found.confirmed, 'task')}; {size.tasks:,} wait in the spool")
    if found.died:
        out.note(f"{plural(found.died, 'task')} went to the dead letter queue: see mlproducer dlq list")
    if not size.tasks:
        return
    if found.complete:
        due = f", the next at {when(size.next_due_at)}" if size.next_due_at is not None else ""
        out.note(f"what waits is not due yet{due}, or another producer is publishing it")
    elif found.interrupted:
        out.note("stopped; what waits is safe")
    elif found.connected:
        out.note("what waits was not published in time (--timeout), or the broker takes nothing: see mlproducer check")
    else:
        out.note(f"not connected, so nothing more can be published: {found.error}")
