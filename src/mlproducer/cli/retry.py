"""`mlproducer retry`: the tasks that wait in the spool. Beside a running service, or with none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Annotated

import typer

from mlproducer.cli.output import JsonOption, Output, output, plural, size, span, when
from mlproducer.cli.shown import show_whole
from mlproducer.cli.store import looking_at
from mlproducer.delivery.lookup import waiting_task
from mlproducer.delivery.views import waiting_view, waiting_whole
from mlproducer.rows import SpoolRow, SpoolSize, WaitingEntry
from mlproducer.settings import Settings

app = typer.Typer(help="The retry queue: tasks that wait in the spool.", no_args_is_help=True)


@app.command("list")
def list_waiting(
    *,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many to show.")] = 50,
    offset: Annotated[int, typer.Option(min=0, help="How many to skip.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """List the tasks that wait, the one due first on top: attempts spent, when the next is due, the last error."""
    out = output(as_json=as_json)
    entries, total = asyncio.run(_fetch(Settings.load(), limit, offset))
    out.data({"total": total.tasks, "bytes": total.bytes, "tasks": [waiting_view(entry) for entry in entries]})
    _show(out, entries, total, time.time())


@app.command("show")
def show(task_id: str, *, as_json: JsonOption = False) -> None:
    """Show one task that waits, whole: what its attempts came to, and what it would tell the worker."""
    out = output(as_json=as_json)
    row = asyncio.run(_find(Settings.load(), task_id))
    whole = waiting_whole(row)
    out.data(whole)
    if as_json:
        return
    task, now = row.envelope, time.time()
    fields = (
        ("task id", task.task_id),
        ("type", task.task_type),
        ("queue", task.routing_key),
        ("size", size(task.size)),
        ("accepted", when(row.accepted_at)),
        ("next", f"{when(row.due_at)} ({_due(row.due_at, now)})"),
        ("expires", when(task.expires_at)),
        ("attempts", f"{row.attempts} spent"),
        ("waits for", row.cause or "–"),
        ("error", row.text or "–"),
    )
    show_whole(out, fields, row.history, whole["message"])


async def _fetch(settings: Settings, limit: int, offset: int) -> tuple[Sequence[WaitingEntry], SpoolSize]:
    async with looking_at(settings) as spool:
        return await spool.waiting(limit=limit, offset=offset), await spool.measure()


async def _find(settings: Settings, task_id: str) -> SpoolRow:
    async with looking_at(settings) as spool:
        return await waiting_task(spool, task_id)


def _show(out: Output, entries: Sequence[WaitingEntry], total: SpoolSize, now: float) -> None:
    if not entries:
        out.say("No task waits in the spool." if not total.tasks else f"{plural(total.tasks, 'task')} wait; none here.")
        return
    out.table(
        f"{plural(total.tasks, 'task')} in the retry queue, {size(total.bytes)}",
        ("task id", "type", "age", "due", "attempts", "why it waits"),
        [
            (
                entry.task_id,
                entry.task_type,
                span(max(0.0, now - entry.accepted_at)),
                _due(entry.due_at, now),
                entry.attempts,
                entry.text or entry.cause,
            )
            for entry in entries
        ],
    )


def _due(at: float, now: float) -> str:
    return "now" if at <= now else f"in {span(at - now)}"
