"""`mlproducer dlq`: look at dead letters, send them again, or remove them. Beside a running service, or with none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final, Literal

import typer
from rich.markup import escape

from mlproducer.cli.choosing import (
    ByOption,
    NewerOption,
    OlderOption,
    RateOption,
    ReasonOption,
    TextOption,
    TypeOption,
    chosen_by,
    user_name,
    where_of,
)
from mlproducer.cli.output import ExitCode, JsonOption, Output, fail, output, plural, size, span, when
from mlproducer.cli.shown import show_whole
from mlproducer.cli.store import in_time, looking_at, replayer, time_of
from mlproducer.cli.sweep import Swept, sweep
from mlproducer.core.replay import Chosen
from mlproducer.delivery.lookup import dead_letter
from mlproducer.delivery.views import audit_view, dead_view, dead_whole
from mlproducer.ports import Spool
from mlproducer.rows import Audit, DeadEntry, DeadFilter, DeadLetter
from mlproducer.settings import Settings

app = typer.Typer(help="The dead letter queue: tasks that need a person.", no_args_is_help=True)

_SAMPLE: Final = 50
"""How many of those that would be taken a dry run shows."""
_IDS_SHOWN: Final = 3

IdsArgument = Annotated[list[str] | None, typer.Argument(metavar="[TASK_ID]...", help="These dead letters.")]
AllOption = Annotated[bool, typer.Option("--all", help="All dead letters.")]
DryOption = Annotated[bool, typer.Option("--dry-run", help="Only say which; change nothing.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
MostOption = Annotated[int | None, typer.Option("--limit", min=1, help="At most so many, the newest first.")]
LimitOption = Annotated[int, typer.Option(min=1, max=10_000, help="How many to show.")]
OffsetOption = Annotated[int, typer.Option(min=0, help="How many to skip.")]


@app.command("list")
def list_dead(
    *,
    task_type: TypeOption = None,
    reason: ReasonOption = None,
    text: TextOption = None,
    older_than: OlderOption = None,
    newer_than: NewerOption = None,
    limit: LimitOption = 50,
    offset: OffsetOption = 0,
    as_json: JsonOption = False,
) -> None:
    """List dead letters, the newest on top."""
    out = output(as_json=as_json)
    where = where_of(task_type, reason, text, older_than, newer_than)

    async def fetch() -> tuple[Sequence[DeadEntry], int, int]:
        async with looking_at(Settings.load()) as spool:
            wanted = in_time(where, await time_of(spool))
            entries = await spool.dead(wanted, limit=limit, offset=offset)
            return entries, await spool.count_dead(wanted), await spool.count_dead(DeadFilter())

    entries, matched, total = asyncio.run(fetch())
    shown = [dead_view(entry) for entry in entries]
    out.data({"total": total, "matched": matched, "dead_letters": shown})
    if shown:
        _table(out, f"{len(shown):,} of {plural(matched, 'dead letter')}", shown)
    elif matched:
        out.say(f"{plural(matched, 'dead letter')}; none from --offset on.")
    else:
        out.say("The dead letter queue is empty." if not total else f"None of {plural(total, 'dead letter')} matches.")


@app.command("show")
def show(task_id: str, *, as_json: JsonOption = False) -> None:
    """Show one dead letter whole: why it died, what its attempts came to, and what it would tell the worker."""
    out = output(as_json=as_json)

    async def fetch() -> DeadLetter:
        async with looking_at(Settings.load()) as spool:
            return await dead_letter(spool, task_id)

    letter = asyncio.run(fetch())
    whole = dead_whole(letter)
    out.data(whole)
    if as_json:
        return
    task = letter.envelope
    fields = (
        ("task id", task.task_id),
        ("type", task.task_type),
        ("queue", task.routing_key),
        ("size", size(task.size)),
        ("accepted", when(letter.accepted_at)),
        ("died", when(letter.died_at)),
        ("attempts", f"{letter.attempts} spent"),
        ("reason", letter.reason if letter.code is None else f"{letter.reason} ({letter.code})"),
        ("error", letter.text or "–"),
    )
    show_whole(out, fields, letter.history, whole["message"])


@app.command("audit")
def audit(*, limit: LimitOption = 50, offset: OffsetOption = 0, as_json: JsonOption = False) -> None:
    """List who replayed or purged what, the latest on top."""
    out = output(as_json=as_json)

    async def fetch() -> Sequence[Audit]:
        async with looking_at(Settings.load()) as spool:
            return await spool.audits(limit=limit, offset=offset)

    audits = asyncio.run(fetch())
    out.data({"audits": [audit_view(each) for each in audits]})
    if not audits:
        out.say("Nobody has replayed or purged a dead letter." if not offset else "None from --offset on.")
        return
    rows = [(when(each.at), each.by, each.action, f"{len(each.task_ids):,}", _which(each)) for each in audits]
    out.table("", ("time", "by", "action", "tasks", "which"), rows)


@app.command("replay")
def replay(
    task_ids: IdsArgument = None,
    *,
    everything: AllOption = False,
    task_type: TypeOption = None,
    reason: ReasonOption = None,
    text: TextOption = None,
    older_than: OlderOption = None,
    newer_than: NewerOption = None,
    rate: RateOption = None,
    limit: MostOption = None,
    dry_run: DryOption = False,
    by: ByOption = None,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Send dead letters again: by id, by filter, or all. They go back to the retry queue with no attempts spent.

    A running service publishes them within moments; without one they wait for the next. Asks first, unless ids are
    given. Ctrl-C stops between two chunks: what is not replayed by then stays dead.
    """
    where = where_of(task_type, reason, text, older_than, newer_than)
    chosen = chosen_by(task_ids, where, everything=everything)
    ask = not yes and isinstance(chosen, DeadFilter)
    _change(
        output(as_json=as_json), _Errand("replay", chosen, by or user_name(), rate, limit), dry_run=dry_run, ask=ask
    )


@app.command("purge")
def purge(
    task_ids: IdsArgument = None,
    *,
    everything: AllOption = False,
    task_type: TypeOption = None,
    reason: ReasonOption = None,
    text: TextOption = None,
    older_than: OlderOption = None,
    newer_than: NewerOption = None,
    limit: MostOption = None,
    dry_run: DryOption = False,
    by: ByOption = None,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Remove dead letters for good: by id, by filter, or all. Always asks first, unless told --yes."""
    where = where_of(task_type, reason, text, older_than, newer_than)
    chosen = chosen_by(task_ids, where, everything=everything)
    errand = _Errand("purge", chosen, by or user_name(), None, limit)
    _change(output(as_json=as_json), errand, dry_run=dry_run, ask=not yes)


@dataclass(frozen=True, slots=True)
class _Errand:
    action: Literal["replay", "purge"]
    chosen: Chosen
    by: str
    rate: float | None
    limit: int | None

    @property
    def done_key(self) -> str:
        return "replayed" if self.action == "replay" else "removed"


@dataclass(frozen=True, slots=True)
class _Plan:
    chosen: Chosen
    """By the spool's own time."""
    matched: int
    sample: list[dict[str, Any]]
    missing: list[str]

    def taken(self, limit: int | None) -> int:
        return self.matched if limit is None else min(self.matched, limit)


def _change(out: Output, errand: _Errand, *, dry_run: bool, ask: bool) -> None:
    settings = Settings.load()
    plan = asyncio.run(_look(settings, errand))
    for task_id in plan.missing:
        out.note(f"no dead letter {task_id}")
    count = plan.taken(errand.limit)
    swept = Swept(0, 0, interrupted=False)
    if dry_run:
        _table(out, f"Would {errand.action} {plural(count, 'dead letter')}", plan.sample[:count])
        if count > _SAMPLE:
            out.say(f"… and {count - _SAMPLE:,} more")
    elif count:
        if ask and not typer.confirm(_question(errand, count, plan.matched), err=True):
            raise fail("nothing was changed", ExitCode.FAILED)
        swept = asyncio.run(_run(settings, out, replace(errand, chosen=plan.chosen)))
        _conclude(out, errand, swept)
    elif not plan.missing:
        out.say(f"No dead letter matches: nothing to {errand.action}.")
    facts = {"matched": plan.matched, errand.done_key: swept.done, "dry_run": dry_run, "missing": plan.missing}
    out.data({**facts, "by": errand.by, "interrupted": swept.interrupted})
    if swept.interrupted:
        raise typer.Exit(ExitCode.INTERRUPTED)
    if plan.missing:
        raise typer.Exit(ExitCode.FAILED)


def _question(errand: _Errand, count: int, matched: int) -> str:
    which = plural(count, "dead letter") if count == matched else f"{count:,} of {plural(matched, 'dead letter')}"
    if errand.action == "replay":
        return f"Replay {which}? It is recorded as done by {errand.by}."
    return f"Remove {which} for good? They cannot be brought back. It is recorded as done by {errand.by}."


def _conclude(out: Output, errand: _Errand, swept: Swept) -> None:
    what = "back in the retry queue" if errand.action == "replay" else "removed for good"
    if swept.interrupted:
        out.note(f"stopped: {swept.total - swept.done:,} of {plural(swept.total, 'dead letter')} stay as they were")
    out.say(f"[green]✓[/green] {plural(swept.done, 'task')} {what}; recorded as done by {escape(errand.by)}")


async def _look(settings: Settings, errand: _Errand) -> _Plan:
    async with looking_at(settings) as spool:
        if isinstance(errand.chosen, DeadFilter):
            where = in_time(errand.chosen, await time_of(spool))
            matched = await (await replayer(spool, asyncio.sleep)).plan(where)
            sample = await spool.dead(where, limit=_SAMPLE)
            return _Plan(where, matched, [dead_view(entry) for entry in sample], [])
        return await _look_up(spool, errand.chosen)


async def _look_up(spool: Spool, task_ids: Sequence[str]) -> _Plan:
    sample: list[dict[str, Any]] = []
    missing: list[str] = []
    for task_id in task_ids:
        letter = await spool.find(task_id)
        if not isinstance(letter, DeadLetter):
            missing.append(task_id)
        elif len(sample) < _SAMPLE:
            sample.append(dead_view(letter))
    return _Plan(task_ids, len(task_ids) - len(missing), sample, missing)


async def _run(settings: Settings, out: Output, errand: _Errand) -> Swept:
    chosen, by, limit = errand.chosen, errand.by, errand.limit
    if errand.action == "replay":
        rate = errand.rate
        return await sweep(settings, out, "replaying", lambda each: each.replay(chosen, by=by, rate=rate, limit=limit))
    return await sweep(settings, out, "removing", lambda each: each.purge(chosen, by=by, limit=limit))


def _which(audit: Audit) -> str:
    ids = ", ".join(audit.task_ids[:_IDS_SHOWN])
    return f"{audit.detail}: {ids}{', …' if len(audit.task_ids) > _IDS_SHOWN else ''}"


def _table(out: Output, title: str, letters: Sequence[dict[str, Any]]) -> None:
    now = time.time()
    out.table(
        title,
        ("task id", "type", "died", "why"),
        [
            (
                letter["task_id"],
                letter["task_type"],
                f"{span(max(0.0, now - letter['died_at']))} ago",
                f"{letter['reason']}: {letter['text']}" if letter["text"] else letter["reason"],
            )
            for letter in letters
        ],
    )
