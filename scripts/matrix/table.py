"""The results as `docs/compatibility.md`: between two marks of a page whose words people wrote."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from matrix.plan import ROWS, Kind, Row
from matrix.results import Book, Result

BEGIN: Final = "<!-- `make matrix` writes from here -->"
END: Final = "<!-- to here -->"

_HEADS: Final[dict[Kind, tuple[str, ...]]] = {
    "broker": ("RabbitMQ", "Python", "Celery"),
    "unit": ("Python", "libraries", "pydantic", "pydantic-settings", "structlog", "typer", "fastapi", "sqlalchemy"),
    "system": ("RabbitMQ", "Python"),
}
_TITLES: Final[dict[Kind, str]] = {
    "broker": "## Brokers, workers, faults",
    "unit": "## Python, and the versions of libraries",
    "system": "## `make test` on Debian 13",
}


def write(page: Path, book: Book, rows: Sequence[Row]) -> None:
    """The tables of all results that there are, of earlier runs too."""
    before, _, rest = page.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n{text(book, rows)}\n{END}{after}")


def text(book: Book, rows: Sequence[Row]) -> str:
    every = [*ROWS, *(row for row in rows if row not in ROWS)]
    parts = []
    for kind, title in _TITLES.items():
        parts += ["", title, "", *_table(kind, [(row, book.get(row)) for row in every if row.kind == kind])]
    failed = [
        f"- {result.row}, {step.name}: {', '.join(f'`{name}`' for name in step.failures)}"
        for row in every
        if (result := book.get(row))
        for step in result.steps
        if step.failures
    ]
    parts += ["", "## What failed", "", *failed] if failed else []
    return "\n".join(parts)


def _table(kind: Kind, rows: Sequence[tuple[Row, Result | None]]) -> list[str]:
    results = [result for _, result in rows if result is not None]
    steps = list(dict.fromkeys(step.name for result in results for step in result.steps))
    heads = [*_HEADS[kind], *steps, "seconds", "when (UTC), commit"]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for row, result in rows:
        if result is None or not result.steps:
            why = "not run" if result is None else f"**skipped**: {result.missing}"
            known = [row.broker, row.python] if kind != "unit" else [row.python, row.versions]
            cells = [*known, *[""] * (len(heads) - 3), why]
        else:
            done = {step.name: step.words() for step in result.steps}
            cells = [result.versions.get(head, "") for head in _HEADS[kind]]
            cells += [done.get(step, "") for step in steps]
            cells += [f"{result.seconds:.0f}", f"{result.date}, {result.commit}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines
