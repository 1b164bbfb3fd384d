"""The rows of the matrix, and which of them are asked for."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["broker", "unit", "system"]
Versions = Literal["newest", "lowest"]

RELEASES: Final = {"3.10": "", "4.0": "trixie", "4.3": "forky"}
"""By RabbitMQ: the Debian release that has it; the machine's own where it is empty."""

ROOT_PYTHONS: Final = {"3.13": "trixie", "3.14": "forky"}
"""By Python: the Debian release that has it, for a machine that has not."""

PYTHONS: Final = ("3.11", "3.12", "3.13", "3.14")

UNIT: Final = tuple(
    f"tests/{name}"
    for name in ("core", "envelope", "engine", "amqp", "telemetry", "analytics", "blobs", "shares", "http", "platform")
)
"""Tests that start no server."""


@dataclass(frozen=True, slots=True)
class Row:
    """`broker` is empty where no RabbitMQ is started; `versions` are those of what pyproject.toml asks for."""

    kind: Kind
    python: str
    broker: str = ""
    versions: Versions = "newest"

    @property
    def name(self) -> str:
        match self.kind:
            case "broker":
                return f"RabbitMQ {self.broker}, Python {self.python}"
            case "unit":
                return f"Python {self.python}, {self.versions} versions"
            case "system":
                return "make test on Debian 13"


ROWS: Final = (
    Row("broker", "3.11", "3.10"),
    Row("broker", "3.11", "4.0"),
    Row("broker", "3.11", "4.3"),
    Row("broker", "3.13", "4.0"),
    Row("broker", "3.14", "4.3"),
    *(Row("unit", python, versions=versions) for python in PYTHONS for versions in ("newest", "lowest")),
    Row("system", "3.13", "4.0"),
)


def chosen(kinds: Collection[str], brokers: Collection[str], pythons: Collection[str]) -> list[Row]:
    """The rows that were asked for; nothing asked for means all.

    A broker and a Python that are both named make a row of their own where the matrix has none.
    """
    rows = list(ROWS)
    rows += [
        row for broker in brokers for python in pythons if (row := Row("broker", python, broker)) not in rows
    ]  # fmt: skip
    return [
        row
        for row in rows
        if (not kinds or row.kind in kinds)
        and (not brokers or row.broker in brokers)
        and (not pythons or row.python in pythons)
    ]
