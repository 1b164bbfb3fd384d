"""`mlproducer check`: connected or not, and why. One connect, which declares nothing and asks passively."""

from __future__ import annotations

import asyncio
import time

import typer
from rich.markup import escape

from mlproducer.cli.output import ExitCode, JsonOption, Output, output, plural, span
from mlproducer.envelope.types import TaskTypes
from mlproducer.errors import BrokerError
from mlproducer.outcome import blocked_text
from mlproducer.settings import Settings
from mlproducer.status import BrokerFacts
from mlproducer.wiring import look_at_broker


def check(*, as_json: JsonOption = False) -> None:
    """Say whether the broker can be reached with these settings, and if not, why. Exit code 0 or 1.

    Changes nothing there, and tells what a producer would make.
    """
    out = output(as_json=as_json)
    settings = Settings.load()
    started = time.monotonic()
    try:
        facts = look(settings)
    except BrokerError as error:
        _tell(out, settings, None, str(error), started)
        out.say(f"[red]✗ not connected[/red]: {escape(str(error))}")
        raise typer.Exit(ExitCode.FAILED) from None
    if not facts.exchange_exists and not settings.ml_declare_topology:
        reason = f"{facts.node}: there is no exchange {settings.ml_exchange}: see ML_EXCHANGE, and ML_DECLARE_TOPOLOGY"
        _tell(out, settings, facts, reason, started)
        out.say(f"[red]✗ nothing could be published[/red]: {escape(reason)}")
        raise typer.Exit(ExitCode.FAILED)
    _tell(out, settings, facts, "", started)
    out.say(f"[green]✓ connected[/green] to {facts.node} in {span(time.monotonic() - started)}")
    if facts.blocked:
        out.say(f"[yellow]! {escape(blocked_text(facts.blocked))}[/yellow]; new tasks go to the spool")
    _say_what_is_missing(out, facts, settings)


def look(settings: Settings) -> BrokerFacts:
    """On the first node of the list that answers. Raises: BrokerError, of the last one; SettingsError."""
    return asyncio.run(look_at_broker(settings, TaskTypes.chosen(settings)))


def _tell(out: Output, settings: Settings, facts: BrokerFacts | None, reason: str, started: float) -> None:
    out.data(
        {
            "connected": not reason,
            "node": ", ".join(settings.broker_nodes) if facts is None else facts.node,
            "blocked": facts is not None and bool(facts.blocked),
            "reason": reason or None,
            "seconds": round(time.monotonic() - started, 3),
            "would_declare": [] if reason or facts is None else _to_make(facts, settings),
        }
    )


def _to_make(facts: BrokerFacts, settings: Settings) -> list[str]:
    exchange = [f"topic exchange {settings.ml_exchange}"] if not facts.exchange_exists else []
    return exchange + [queue.made for queue in facts.to_make]


def _say_what_is_missing(out: Output, facts: BrokerFacts, settings: Settings) -> None:
    missing = _to_make(facts, settings)
    if missing:
        out.say(f"{plural(len(missing), 'thing')} not there yet, made when a producer needs it: {', '.join(missing)}")
