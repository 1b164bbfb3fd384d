"""What a publish has done so far: per line on request, as a bar on a terminal, as a line now and then elsewhere."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from mlproducer.cli.lines import Line
from mlproducer.cli.output import Output, plural
from mlproducer.cli.routes import said
from mlproducer.errors import Fault, InvalidTask, MLProducerError
from mlproducer.events import Event, RouteChanged, TaskDeadLettered
from mlproducer.settings import Settings
from mlproducer.task import Receipt
from mlproducer.urls.parts import shown

_EVERY: Final = 5.0
"""Seconds between the lines of a progress that nobody watches."""
_TICK: Final = 0.1
"""Seconds between two pictures of a bar."""
_FIRST_LINE: Final = re.compile(r" at line 1 column (\d+)")
"""Each line of NDJSON is a document of its own; its "line 1" would only be taken for the file's."""


@dataclass(slots=True)
class Tally:
    out: Output
    total: int | None
    """Bytes of the input, if they are known."""
    lines: int = 0
    """Lines read, without the blank ones."""
    confirmed: int = 0
    spooled: int = 0
    refused: int = 0
    died: int = 0
    """Tasks that went to the dead letter queue meanwhile, earlier ones included."""
    left: int = 0
    """Tasks that wait in the spool at the end, earlier ones included."""
    settings: Settings | None = None
    _bytes: int = 0
    _bar: tuple[Progress, TaskID] | None = None
    _said: float = field(default_factory=time.monotonic)

    @property
    def accepted(self) -> int:
        return self.confirmed + self.spooled

    def read(self, line: Line) -> None:
        self.lines += 1
        self._bytes += len(line.data) + 1
        self._show()

    def accept(self, number: int, receipt: Receipt) -> None:
        if receipt.confirmed:
            self.confirmed += 1
        else:
            self.spooled += 1
        self.out.data(
            {
                "line": number,
                "task_id": receipt.task_id,
                "task_type": receipt.task_type,
                "state": receipt.state.value,
                "reason": receipt.reason,
            }
        )
        self._show()

    def refuse(self, number: int, error: MLProducerError) -> None:
        self.refused += 1
        faults = error.faults if isinstance(error, InvalidTask) else (Fault("", str(error)),)
        faults = tuple(Fault(each.field, _FIRST_LINE.sub(r" at column \1", each.problem)) for each in faults)
        first, *others = faults
        refused = {"line": number, "state": "refused", "field": first.field or None, "error": first.problem}
        if others:
            refused["errors"] = [{"field": each.field, "problem": each.problem} for each in faults]
        self.out.data(refused)
        self.out.note(f"line {number}: {'; '.join(map(str, faults))}")
        self._show()

    def hear(self, event: Event) -> None:
        """A listener of the producer."""
        if isinstance(event, TaskDeadLettered):
            self.died += 1
        elif isinstance(event, RouteChanged):
            self.out.note(said(event))

    def offline(self, reason: str, settings: Settings) -> None:
        """Said once, when the broker is not there."""
        why = reason or f"{', '.join(settings.broker_nodes)}: no answer in time"
        self.out.note(f"not connected, so tasks are spooled: {why}")

    @contextmanager
    def progress(self) -> Iterator[None]:
        if not self.out.notes.is_terminal:
            yield
            return
        with Progress(
            SpinnerColumn(),
            TextColumn("publishing"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[counts]}"),
            TimeElapsedColumn(),
            console=self.out.notes,
            transient=True,
        ) as progress:
            self._bar = (progress, progress.add_task("", total=self.total, counts=self._short()))
            yield
        self._bar = None

    def conclude(self, *, interrupted: bool) -> None:
        settings = self.settings
        self.out.data(
            {
                "summary": {
                    "lines": self.lines,
                    "accepted": self.accepted,
                    "confirmed": self.confirmed,
                    "spooled": self.spooled,
                    "refused": self.refused,
                    "dead": self.died,
                    "waiting": self.left,
                    "interrupted": interrupted,
                }
            }
        )
        if interrupted:
            self.out.note(f"stopped after {plural(self.lines, 'line')}; what was accepted is safe")
        self.out.say(self._counts())
        if self.died:
            self.out.note(f"{plural(self.died, 'task')} went to the dead letter queue: see mlproducer dlq list")
        if self.left:
            where = f" at {shown(settings.spool_url)}" if settings else ""
            self.out.note(
                f"{plural(self.left, 'task')} wait{'s' if self.left == 1 else ''} in the spool{where}; "
                "a running service, or the next publish, sends them"
            )

    def _counts(self) -> str:
        return (
            f"accepted {self.accepted:,} (confirmed {self.confirmed:,}, spooled {self.spooled:,}), "
            f"refused {self.refused:,}"
        )

    def _show(self) -> None:
        now = time.monotonic()
        if now - self._said < (_TICK if self._bar is not None else _EVERY):
            return
        self._said = now
        if self._bar is not None:
            progress, bar = self._bar
            done = None if self.total is None else min(self._bytes, self.total)
            progress.update(bar, completed=done, counts=self._short())
        else:
            self.out.note(self._counts())

    def _short(self) -> str:
        return f"{self.confirmed:,} confirmed, {self.spooled:,} spooled, {self.refused:,} refused"
