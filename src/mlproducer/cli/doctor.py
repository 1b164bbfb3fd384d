"""`mlproducer doctor`: everything that a first task needs, looked at before there is one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Final

import typer
from rich.markup import escape

from mlproducer.cli.findings import (
    Finding,
    Verdict,
    of_alarm,
    of_exchange,
    of_login,
    of_queues,
    of_size,
    of_spool,
    of_types,
)
from mlproducer.cli.hidden import UNSEEN, of_hidden
from mlproducer.cli.output import ExitCode, JsonOption, Output, output, plural
from mlproducer.cli.output import size as size_of
from mlproducer.cli.releases import of_release
from mlproducer.cli.store import looking_at, room_of, time_of
from mlproducer.envelope.encode import Encoder
from mlproducer.envelope.types import TaskTypes
from mlproducer.errors import BrokerError, MLProducerError, SettingsError, SpoolNotMade, SpoolUnavailable
from mlproducer.http.auth import refuse_open_door
from mlproducer.settings import Settings
from mlproducer.task import Task
from mlproducer.wiring import blobs_for, look_at_broker, look_behind

_SIGNS: Final = {
    Verdict.OK: "[green]✓[/green]",
    Verdict.WARNING: "[yellow]![/yellow]",
    Verdict.FAILED: "[red]✗[/red]",
}
_EXAMPLES: Final = {
    "summarize_llm": {"share_id": "doctor", "content": "A text."},
    "transcribe_whisper": {"share_id": "doctor", "content": "https://example.org/a.mp3"},
    "embed_vectors": {"share_id": "doctor", "content": "A text."},
    "embed_vectors_batch": {"tasks": [{"share_id": "doctor", "content": "A text."}]},
    "summarize_video_combined": {"share_id": "doctor", "content": "What was said."},
}


def doctor(*, as_json: JsonOption = False) -> None:
    """Look at broker, queues, workers, envelopes, spool and keys before the first task; change nothing at the broker.

    Exit code 0 if tasks would be accepted and confirmed, warnings or not; 1 if something must be put right first.
    """
    out = output(as_json=as_json)
    found = asyncio.run(_collect(Settings.load(), out))
    failed = sum(each.verdict is Verdict.FAILED for each in found)
    warned = sum(each.verdict is Verdict.WARNING for each in found)
    out.data({"ok": not failed, "findings": [asdict(each) for each in found]})
    if failed:
        out.say(f"[red]{plural(failed, 'problem')}[/red] to put right first")
        raise typer.Exit(ExitCode.FAILED)
    out.say(f"[green]ready[/green], {plural(warned, 'warning')}" if warned else "[green]ready[/green]")


async def _collect(settings: Settings, out: Output) -> list[Finding]:
    found: list[Finding] = []
    async for finding in _examine(settings):
        found.append(finding)
        out.say(f"{_SIGNS[finding.verdict]} [bold]{escape(finding.check)}[/bold]: {escape(finding.detail)}")
        if finding.todo and finding.verdict is not Verdict.OK:
            out.say(f"  → {escape(finding.todo)}")
    return found


async def _examine(settings: Settings) -> AsyncIterator[Finding]:
    types = TaskTypes.chosen(settings)
    for words in settings.mistyped():
        yield Finding("settings", Verdict.WARNING, words, "`mlproducer settings` lists the names that there are")
    yield of_types(types)
    yield _envelope(settings, types)
    yield of_login(settings)
    try:
        facts = await look_at_broker(settings, types, compare=True)
    except BrokerError as error:
        reached = False
        yield Finding("broker", Verdict.FAILED, str(error), "tasks would wait in the spool until it answers")
    else:
        reached = True
        yield Finding("broker", Verdict.OK, f"{facts.product} {facts.version} at {facts.node}")
        for finding in (*of_alarm(facts), *of_release(facts)):
            yield finding
        yield of_exchange(facts, settings)
        for finding in of_queues(facts, settings):
            yield finding
        yield of_size(facts, settings)
        for finding in await asyncio.to_thread(_behind, settings, [queue.name for queue in facts.queues]):
            yield finding
    yield await _spool(settings, reached=reached)
    if settings.ml_blob_url.get_secret_value():
        yield await asyncio.to_thread(_blobs, settings)
    yield _keys(settings)


def _envelope(settings: Settings, types: TaskTypes) -> Finding:
    """Encodes an example of each built-in type that is as it was built in; of a user's own, we know no example."""
    encoder = Encoder(types, "mlproducer@doctor", settings.ml_max_message_bytes)
    known = {each.name: each.fields for each in TaskTypes.builtin()}
    names = [name for name in _EXAMPLES if name in types and types[name].fields is known[name]]
    try:
        largest = max((encoder.encode(Task(task_type=name, payload=_EXAMPLES[name])).size for name in names), default=0)
    except MLProducerError as error:
        return Finding("envelope", Verdict.FAILED, f"an example task cannot be encoded: {error}", "see ML_TASK_TYPES")
    own = len(types) - len(names)
    detail = f"{plural(len(names), 'example')} encoded as Celery messages of up to {size_of(largest)}"
    return Finding("envelope", Verdict.OK, f"{detail}; {plural(own, 'own type')} not tried" if own else detail)


async def _spool(settings: Settings, *, reached: bool) -> Finding:
    """Looks at it beside a producer that may run, and makes none where there is none. `reached`: the broker was."""
    try:
        async with looking_at(settings) as spool:
            size = await spool.measure()
            clock = await time_of(spool)
            late = 0.0 if size.first_due_at is None else max(0.0, clock.now() - size.first_due_at)
    except SpoolNotMade as missing:
        return Finding("spool", Verdict.OK, f"not there yet; the producer makes it when it starts ({missing})")
    except SpoolUnavailable as error:
        return Finding("spool", Verdict.FAILED, str(error), "without a spool the producer does not start")
    detail = f"{plural(size.tasks, 'task')} wait, {plural(size.dead, 'dead letter')}"
    if settings.spool_url.startswith("memory:"):
        todo = "leave ML_SPOOL_URL empty for a file, or name a database"
        return Finding("spool", Verdict.WARNING, "in memory: what it holds is lost with the process", todo)
    return of_spool(room_of(size, settings, late), detail, reached=reached)


def _behind(settings: Settings, queues: list[str]) -> list[Finding]:
    try:
        behind = look_behind(settings)
    except MLProducerError as error:
        return [Finding(UNSEEN.check, Verdict.WARNING, f"could not be looked at: {error}", UNSEEN.todo)]
    return [UNSEEN] if behind is None else list(of_hidden(behind, settings.ml_exchange, queues))


def _blobs(settings: Settings) -> Finding:
    try:
        blobs_for(settings)
    except MLProducerError as error:
        return Finding("blob store", Verdict.FAILED, str(error), "see ML_BLOB_URL")
    return Finding("blob store", Verdict.OK, "its address is good; it is asked with the first large payload")


def _keys(settings: Settings) -> Finding:
    try:
        refuse_open_door(settings)
    except SettingsError as error:
        return Finding("keys", Verdict.FAILED, str(error), "the service would not start; the library would")
    if settings.ml_insecure and not settings.loopback_only:
        detail = f"none, on {settings.ml_host}: whoever reaches the service may publish and read tasks"
        return Finding("keys", Verdict.WARNING, detail, "set ML_API_KEYS, or let something in front check callers")
    count = len(settings.ml_api_keys)
    if count:
        return Finding("keys", Verdict.OK, f"{plural(count, 'API key')}")
    return Finding("keys", Verdict.OK, "none, and only callers of this machine are served")
