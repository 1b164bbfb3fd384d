"""Options that choose dead letters, the same for every command that takes them."""

from __future__ import annotations

import getpass
import os
import re
import time
from typing import Annotated, Final

import typer

from mlproducer.cli.output import ExitCode, fail
from mlproducer.core.replay import Chosen
from mlproducer.delivery.replay import checked_by
from mlproducer.rows import DeadFilter

_AGE: Final = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_RATE: Final = re.compile(r"(\d+(?:\.\d+)?)(?:/(s|min|h))?")
_PER: Final = {"s": 1.0, "min": 60.0, "h": 3600.0}


def age(text: str) -> float:
    """Seconds of `30s`, `15m`, `2h`, `7d`."""
    match = _AGE.fullmatch(text.strip())
    if match is None:
        raise typer.BadParameter("write an age such as 30s, 15m, 2h or 7d")
    return float(match[1]) * _UNITS[match[2]]


def _rate(text: str) -> float:
    """Tasks per second of `50`, `50/s`, `600/min`, `1000/h`."""
    match = _RATE.fullmatch(text.strip())
    rate = 0.0 if match is None else float(match[1]) / _PER[match[2] or "s"]
    if not rate:
        raise typer.BadParameter("write how many tasks a second such as 50/s, or 600/min, or 1000/h")
    return rate


def _by(text: str) -> str:
    try:
        return checked_by(text)
    except ValueError as exc:
        raise typer.BadParameter(str(exc).removeprefix("by: ")) from exc


TypeOption = Annotated[str | None, typer.Option("--type", help="Only this task type.")]
ReasonOption = Annotated[
    str | None,
    typer.Option("--reason", help="Only nacked, returned, channel_refused, too_large or expired."),
]
TextOption = Annotated[str | None, typer.Option("--text", help="Only where the error contains this text.")]
OlderOption = Annotated[
    float | None,
    typer.Option("--older-than", parser=age, metavar="AGE", help="Only if it died longer ago: 15m, 2h, 7d."),
]
NewerOption = Annotated[
    float | None,
    typer.Option("--newer-than", parser=age, metavar="AGE", help="Only if it died within: 15m, 2h, 7d."),
]
RateOption = Annotated[
    float | None,
    typer.Option("--rate", parser=_rate, metavar="N/s", help="No more than so many tasks a second (or /min, /h)."),
]
ByOption = Annotated[
    str | None,
    typer.Option("--by", parser=_by, metavar="NAME", help="Who does this, for the audit. [default: your user name]"),
]


def where_of(
    task_type: str | None, reason: str | None, text: str | None, older_than: float | None, newer_than: float | None
) -> DeadFilter:
    """The filter that the options make; ages are in seconds."""
    now = time.time()
    older = None if older_than is None else now - older_than
    newer = None if newer_than is None else now - newer_than
    return DeadFilter(task_type, reason, older, text, newer)


def chosen_by(task_ids: list[str] | None, where: DeadFilter, *, everything: bool) -> Chosen:
    """Ids, or a filter, or all of them: exactly one, so that no slip of the keyboard takes more than was meant."""
    ids = tuple(dict.fromkeys(task_ids or ()))
    if sum((bool(ids), where != DeadFilter(), everything)) != 1:
        raise fail(
            "say which: task ids, or filters (--type, --reason, --text, --older-than, --newer-than), or --all",
            ExitCode.USAGE,
        )
    return ids or where


def user_name() -> str:
    """Who runs this, as the system knows them."""
    try:
        return checked_by(getpass.getuser())
    except (KeyError, OSError, ImportError, ValueError):  # a container's user that has no name
        return f"uid {os.getuid()}"
