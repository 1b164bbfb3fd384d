"""`mlproducer retry`: the tasks that wait in the spool."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

import typer

from mlproducer.cli.output import JsonOption, Output, output, plural, size, span
from mlproducer.cli.store import looking_at
from mlproducer.ports import SpoolRow, SpoolSize
from mlproducer.settings import Settings

app = typer.Typer(help="The retry queue: tasks that wait in the spool.", no_args_is_help=True)


@app.command("list")
def list_waiting(
    *,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many to show.")] = 50,
    offset: Annotated[int, typer.Option(min=0, help="How many to skip.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """List the tasks that wait, the one due first on top. Works while a service runs and while none does."""
    out = output(as_json=as_json)
    rows, total = asyncio.run(_fetch(Settings.load(), limit, offset))
    now = time.time()
    out.data({"total": total.tasks, "bytes": total.bytes, "tasks": [row_dict(row) for row in rows]})
    _show(out, rows, total, now)


async def _fetch(settings: Settings, limit: int, offset: int) -> tuple[list[SpoolRow], SpoolSize]:
    async with looking_at(settings) as spool:
        return list(await spool.waiting(limit=limit, offset=offset)), await spool.measure()


def row_dict(row: SpoolRow) -> dict[str, object]:
    return {
        "task_id": row.envelope.task_id,
        "task_type": row.envelope.task_type,
        "queue": row.envelope.routing_key,
        "size": row.envelope.size,
        "accepted_at": row.accepted_at,
        "due_at": row.due_at,
        "expires_at": row.envelope.expires_at,
        "attempts": row.attempts,
        "cause": row.cause,
        "text": row.text,
    }


def _show(out: Output, rows: list[SpoolRow], total: SpoolSize, now: float) -> None:
    if not rows:
        out.say("No task waits in the spool." if not total.tasks else f"{plural(total.tasks, 'task')} wait; none here.")
        return
    out.table(
        f"{plural(total.tasks, 'task')} in the retry queue, {size(total.bytes)}",
        ("task id", "type", "age", "due", "attempts", "why it waits"),
        [
            (
                row.envelope.task_id,
                row.envelope.task_type,
                span(max(0.0, now - row.accepted_at)),
                "now" if row.due_at <= now else f"in {span(row.due_at - now)}",
                row.attempts,
                row.text or row.cause,
            )
            for row in rows
        ],
    )
