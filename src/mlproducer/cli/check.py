"""`mlproducer check`: connected or not, and why. One connect, which changes nothing at the broker."""

from __future__ import annotations

import asyncio
import time

import typer
from pydantic import SecretStr
from rich.markup import escape

from mlproducer.cli.output import ExitCode, JsonOption, output, span
from mlproducer.settings import Settings
from mlproducer.status import Status
from mlproducer.wiring import Producer


def check(*, as_json: JsonOption = False) -> None:
    """Say whether the broker can be reached with these settings, and if not, why. Exit code 0 or 1."""
    out = output(as_json=as_json)
    settings = Settings.load()
    started = time.monotonic()
    status = look(settings)
    seconds = time.monotonic() - started
    connected = status.connection == "connected"
    reason = status.last_error or ("" if connected else "no answer in time (RABBITMQ_CONNECTION_TIMEOUT)")
    out.data(
        {
            "connected": connected,
            "node": status.node,
            "blocked": status.blocked,
            "reason": reason or None,
            "seconds": round(seconds, 3),
        }
    )
    if not connected:
        where = "" if status.last_error else f" to {', '.join(settings.broker_nodes)}"
        out.say(f"[red]✗ not connected[/red]{where}: {escape(reason)}")
        raise typer.Exit(ExitCode.FAILED)
    out.say(f"[green]✓ connected[/green] to {status.node} in {span(seconds)}")
    if status.blocked:
        out.say("[yellow]! the broker blocks publishers[/yellow] (memory or disk alarm): new tasks go to the spool")


def look(settings: Settings) -> Status:
    """The status once the first connect has succeeded, or every node of the list has failed once."""
    # A spool of its own, so that a running service keeps its own to itself.
    alone = settings.model_copy(update={"ml_spool_url": SecretStr("memory://"), "ml_log_level": "error"})

    async def connect() -> Status:
        async with Producer(alone) as producer:
            await producer.connected(alone.rabbitmq_connection_timeout / 1000 * len(alone.broker_urls))
            return producer.status()

    return asyncio.run(connect())
