"""What every command prints with: tables and colour on a terminal, plain lines elsewhere, JSON on request."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from typing import Annotated, Any, Final, Literal, TextIO

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mlproducer.redact import masked, redact_known, redact_text

PLAIN_WIDTH: Final = 160
"""Columns of a table in a pipe or a file, where nobody's window sets a limit."""

_BETWEEN: Final = 3
"""Columns of the screen between two of a table."""
_LEAST: Final = 20
"""Columns that the last of a table gets at least."""

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


class ExitCode(IntEnum):
    OK = 0
    FAILED = 1
    """Something failed or was refused."""
    USAGE = 2
    """A wrong option or setting."""
    INTERRUPTED = 130
    """Ctrl-C, as shells count it."""


@dataclass(frozen=True, slots=True)
class Output:
    """`screen` is stdout and holds results only; `notes` is stderr and holds everything else."""

    screen: Console
    notes: Console
    as_json: bool

    def say(self, text: str) -> None:
        """One line for people; nothing if a program is reading. Rich markup is understood."""
        if not self.as_json:
            self.screen.print(redact_known(text), soft_wrap=True)

    def note(self, text: str, *, style: str = "") -> None:
        """One line on stderr, printed as it is."""
        self.notes.print(Text(redact_text(text), style=style), soft_wrap=True)

    def data(self, value: object) -> None:
        """One JSON document on one line, only with `--json`."""
        if self.as_json:
            line = json.dumps(masked(value), ensure_ascii=False, default=lambda each: redact_known(str(each)))
            print(line, file=self.screen.file, flush=True)

    def table(
        self,
        title: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[object]],
        *,
        last: Literal["ellipsis", "fold"] = "ellipsis",
    ) -> None:
        """A table for people. What does not fit is taken from the `last` column, which is cut or folded."""
        if self.as_json:
            return
        table = Table(
            title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)
        )
        table.title_style = "bold"
        room = self.screen.width
        for number, column in enumerate(columns[:-1]):
            widest = max((len(str(row[number])) for row in rows), default=0)
            table.add_column(column, no_wrap=True, min_width=widest)
            room -= max(widest, len(column)) + _BETWEEN
        table.add_column(columns[-1], overflow="fold")
        for row in rows:
            *first, rest = (Text(redact_known(str(cell))) for cell in row)
            if last == "ellipsis":
                rest.truncate(max(_LEAST, room - _BETWEEN), overflow="ellipsis")
            table.add_row(*first, rest)
        self.screen.print(table)


class Redacting:
    """A stream whose text is passed through `redact`; else the stream itself."""

    def __init__(self, stream: TextIO, redact: Callable[[str], str]) -> None:
        self._stream = stream
        self._redact = redact

    def write(self, text: str) -> int:
        self._stream.write(self._redact(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # whatever a stream has
        return getattr(self._stream, name)


def output(*, as_json: bool = False) -> Output:
    return Output(_console(stderr=False), _console(stderr=True), as_json)


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal:
        console = Console(stderr=stderr, highlight=False, width=PLAIN_WIDTH)
    return console


def fail(text: str, code: ExitCode = ExitCode.FAILED) -> typer.Exit:
    """Say it in one line on stderr; the caller raises what it gets back."""
    output().note(f"mlproducer: {text}", style="red" if sys.stderr.isatty() else "")
    return typer.Exit(code)


def when(moment: float | None) -> str:
    """A Unix time as local time to the second."""
    if moment is None:
        return "–"
    return datetime.fromtimestamp(moment, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def span(seconds: float) -> str:
    """A duration in the unit that people would use: 3.2 ms, 1.5 s, 4 min, 2.1 h, 3.0 d."""
    for limit, size, unit in ((1.0, 1e-3, "ms"), (120.0, 1.0, "s"), (7200.0, 60.0, "min"), (172_800.0, 3600.0, "h")):
        if seconds < limit:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 86_400:.1f} d"


def size(count: int) -> str:
    """Bytes in binary units."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:  # noqa: PLR2004  # the step of the units
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def percentile(values: Sequence[float], share: float) -> float | None:
    """The nearest-rank percentile: the smallest value that `share` of them do not exceed; None of nothing."""
    if not values:
        return None
    ranked = sorted(values)
    return ranked[max(0, math.ceil(share * len(ranked)) - 1)]


def plural(count: int, noun: str, many: str | None = None) -> str:
    return f"{count:,} {noun if count == 1 else many or noun + 's'}"


def counts(values: Mapping[str, int]) -> str:
    return ", ".join(f"{value:,} {name}" for name, value in values.items())
