"""`mlproducer dlq`: look at dead letters, and send them again. Beside a running service, or with none."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass
from typing import Annotated, Final

import typer
from rich.text import Text

from mlproducer.cli.output import ExitCode, JsonOption, Output, fail, output, plural, size, span, when
from mlproducer.cli.store import looking_at
from mlproducer.envelope.encode import describe
from mlproducer.errors import NotFound
from mlproducer.ports import DeadFilter, DeadLetter, Spool
from mlproducer.settings import Settings

app = typer.Typer(help="The dead letter queue: tasks that need a person.", no_args_is_help=True)

_PAGE: Final = 500
_AGE: Final = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def _age(text: str) -> float:
    """Seconds of `30s`, `15m`, `2h`, `7d`."""
    match = _AGE.fullmatch(text.strip())
    if match is None:
        raise typer.BadParameter("write an age such as 30s, 15m, 2h or 7d")
    return float(match[1]) * _UNITS[match[2]]


TypeOption = Annotated[str | None, typer.Option("--type", help="Only this task type.")]
ReasonOption = Annotated[
    str | None,
    typer.Option("--reason", help="Only nacked, returned, channel_refused, too_large or expired."),
]
TextOption = Annotated[str | None, typer.Option("--text", help="Only where the error contains this text.")]
AgeOption = Annotated[
    float | None, typer.Option("--older-than", parser=_age, metavar="AGE", help="Only if it died before: 15m, 2h, 7d.")
]


@app.command("list")
def list_dead(
    *,
    task_type: TypeOption = None,
    reason: ReasonOption = None,
    text: TextOption = None,
    older_than: AgeOption = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many to show.")] = 50,
    offset: Annotated[int, typer.Option(min=0, help="How many to skip.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """List dead letters, the newest on top."""
    out = output(as_json=as_json)
    where = _where(task_type, reason, text, older_than)

    async def fetch() -> tuple[list[DeadLetter], int]:
        async with looking_at(Settings.load()) as spool:
            return list(await spool.dead(where, limit=limit, offset=offset)), (await spool.measure()).dead

    letters, total = asyncio.run(fetch())
    out.data({"total": total, "dead_letters": [letter_dict(letter) for letter in letters]})
    if not letters:
        out.say("The dead letter queue is empty." if not total else f"None of {plural(total, 'dead letter')} matches.")
        return
    _table(out, f"{len(letters):,} of {plural(total, 'dead letter')}", letters)


@app.command("show")
def show(task_id: str, *, as_json: JsonOption = False) -> None:
    """Show one dead letter whole: why it died, and what it would tell the worker."""
    out = output(as_json=as_json)

    async def fetch() -> DeadLetter:
        async with looking_at(Settings.load()) as spool:
            return await _find(spool, task_id)

    letter = asyncio.run(fetch())
    told = describe(letter.envelope)
    out.data({**letter_dict(letter), "message": told})
    if as_json:
        return
    for name, value in (
        ("task id", letter.envelope.task_id),
        ("type", letter.envelope.task_type),
        ("queue", letter.envelope.routing_key),
        ("size", size(letter.envelope.size)),
        ("accepted", when(letter.accepted_at)),
        ("died", when(letter.died_at)),
        ("attempts", str(letter.attempts)),
        ("reason", letter.reason if letter.code is None else f"{letter.reason} ({letter.code})"),
        ("error", letter.text or "–"),
    ):
        out.screen.print(Text.assemble((f"{name:<9}", "bold"), " ", value), soft_wrap=True)
    out.screen.print(Text("message", style="bold"))
    out.screen.print_json(data=told, default=str)


@app.command("replay")
def replay(
    task_ids: Annotated[list[str] | None, typer.Argument(metavar="[TASK_ID]...", help="These dead letters.")] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="All dead letters.")] = False,
    task_type: TypeOption = None,
    reason: ReasonOption = None,
    text: TextOption = None,
    older_than: AgeOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be replayed.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Send dead letters again: by id, by filter, or all. They go back to the retry queue with no attempts spent.

    A running service publishes them within moments; without one they wait for the next.
    """
    out = output(as_json=as_json)
    settings = Settings.load()
    ids = tuple(dict.fromkeys(task_ids or ()))
    where = _where(task_type, reason, text, older_than)
    filtered = where != DeadFilter()
    if sum((bool(ids), filtered, everything)) != 1:
        raise fail("say which: task ids, or filters (--type, --reason, --text, --older-than), or --all", ExitCode.USAGE)
    chosen = asyncio.run(_choose(settings, _Choice(ids, where)))
    missing = [task_id for task_id in ids if task_id not in {letter.envelope.task_id for letter in chosen}]
    for task_id in missing:
        out.note(f"no dead letter {task_id}")
    if dry_run or not chosen:
        out.data({"replayed": 0, "would_replay": [x.envelope.task_id for x in chosen], "missing": missing})
        _table(out, f"Would replay {plural(len(chosen), 'dead letter')}", chosen)
    else:
        if not ids and not yes and not typer.confirm(f"Replay {plural(len(chosen), 'dead letter')}?", err=True):
            raise fail("nothing was replayed", ExitCode.FAILED)
        count = asyncio.run(_replay(settings, [letter.envelope.task_id for letter in chosen]))
        out.data({"replayed": count, "missing": missing})
        out.say(f"[green]✓[/green] {plural(count, 'task')} back in the retry queue")
    if missing:
        raise typer.Exit(ExitCode.FAILED)


@dataclass(frozen=True, slots=True)
class _Choice:
    ids: tuple[str, ...]
    where: DeadFilter


async def _choose(settings: Settings, choice: _Choice) -> list[DeadLetter]:
    async with looking_at(settings) as spool:
        if choice.ids:
            found = [await spool.find(task_id) for task_id in choice.ids]
            return [letter for letter in found if isinstance(letter, DeadLetter)]
        letters: list[DeadLetter] = []
        while page := await spool.dead(choice.where, limit=_PAGE, offset=len(letters)):
            letters.extend(page)
        return letters


async def _replay(settings: Settings, task_ids: list[str]) -> int:
    async with looking_at(settings) as spool:
        now = time.time()
        pages = [task_ids[i : i + _PAGE] for i in range(0, len(task_ids), _PAGE)]
        return sum([await spool.replay(page, now=now) for page in pages])


async def _find(spool: Spool, task_id: str) -> DeadLetter:
    found = await spool.find(task_id)
    if isinstance(found, DeadLetter):
        return found
    state = "it waits in the retry queue (mlproducer retry list)" if found else "mlproducer dlq list shows them"
    raise NotFound(f"no dead letter {task_id}: {state}")


def _where(task_type: str | None, reason: str | None, text: str | None, older_than: float | None) -> DeadFilter:
    before = None if older_than is None else time.time() - older_than
    return DeadFilter(task_type, reason, before, text)


def letter_dict(letter: DeadLetter) -> dict[str, object]:
    return {
        "task_id": letter.envelope.task_id,
        "task_type": letter.envelope.task_type,
        "queue": letter.envelope.routing_key,
        "size": letter.envelope.size,
        "accepted_at": letter.accepted_at,
        "died_at": letter.died_at,
        "attempts": letter.attempts,
        "reason": letter.reason,
        "code": letter.code,
        "text": letter.text,
    }


def _table(out: Output, title: str, letters: list[DeadLetter]) -> None:
    now = time.time()
    out.table(
        title,
        ("task id", "type", "died", "why"),
        [
            (
                letter.envelope.task_id,
                letter.envelope.task_type,
                f"{span(max(0.0, now - letter.died_at))} ago",
                f"{letter.reason}: {letter.text}" if letter.text else letter.reason,
            )
            for letter in letters
        ],
    )
