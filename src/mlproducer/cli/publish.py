"""`mlproducer publish`: NDJSON from a file or a pipe, one task or one share a line. A bad line fails that line only."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Annotated, Final

import typer

from mlproducer.cli.lines import Line, read_lines
from mlproducer.cli.output import ExitCode, JsonOption, fail, output
from mlproducer.cli.signals import stop_on_signals
from mlproducer.cli.tally import Tally
from mlproducer.delivery.stream import Refusal
from mlproducer.envelope.encode import parse_task
from mlproducer.errors import InvalidTask, RefusedTask
from mlproducer.settings import Settings
from mlproducer.shares import ShareIncomplete, ShareProcessor, parse_share
from mlproducer.task import Receipt, Task
from mlproducer.wiring import Producer

_DRAIN_LIMIT: Final = 5.0
"""Seconds that a finished publish waits for what it had to spool although the broker is there."""


def publish(
    file: Annotated[str, typer.Argument(help="NDJSON file; - reads standard input.")] = "-",
    *,
    share: Annotated[bool, typer.Option("--share", help="Each line is a share; its tasks are published.")] = False,
    window: Annotated[int, typer.Option(min=1, max=100_000, help="Tasks under way at once.")] = 1_000,
    as_json: JsonOption = False,
) -> None:
    """Publish NDJSON, one task (or, with --share, one share) a line, from a file or standard input.

    A bad line is reported with its number and field, and the others go on. Exit code 1 if any was refused or died.
    """
    settings = Settings.load(ml_log_level="error")
    out = output(as_json=as_json)
    with _opened(file) as descriptor:
        tally = Tally(out, total=_size(descriptor), settings=settings)
        interrupted = asyncio.run(_publish(settings, descriptor, tally, share=share, window=window))
    tally.conclude(interrupted=interrupted)
    if interrupted:
        raise typer.Exit(ExitCode.INTERRUPTED)
    if tally.refused or tally.died:
        raise typer.Exit(ExitCode.FAILED)


async def _publish(settings: Settings, descriptor: int, tally: Tally, *, share: bool, window: int) -> bool:
    """True if it was interrupted; then no further line was read, and what was read is settled."""
    with stop_on_signals(lambda: tally.out.note("stopping: reading no more, finishing what is under way ...")) as stop:
        async with Producer(settings, listeners=(tally.hear,)) as producer:
            if not await producer.connected(settings.rabbitmq_connection_timeout / 1000):
                tally.offline(producer.status().last_error, settings)
            lines = read_lines(descriptor, limit=settings.ml_max_message_bytes, stop=stop)
            with tally.progress():
                if share:
                    await _shares(producer, lines, tally, window)
                else:
                    await _tasks(producer, lines, tally, window)
            await producer.drained(_DRAIN_LIMIT)
            tally.left = producer.status().spool_tasks
        return stop.is_set()


async def _tasks(producer: Producer, lines: AsyncIterator[Line], tally: Tally, window: int) -> None:
    waiting: dict[str, list[tuple[int, Task]]] = {}

    async def tasks() -> AsyncIterator[Task]:
        async for line in lines:
            tally.read(line)
            try:
                task = parse_task(_text(line))
            except InvalidTask as exc:
                tally.refuse(line.number, exc)
                continue
            waiting.setdefault(task.id, []).append((line.number, task))
            yield task

    def number(task_id: str, task: Task | None = None) -> int:
        """The line of a result. One id may stand on several lines: a refusal knows its own task, and receipts of one
        id are alike, so the first line takes the first.
        """
        found = waiting[task_id]
        taken, _ = found.pop(next((i for i, (_, each) in enumerate(found) if each is task), 0))
        if not found:
            del waiting[task_id]
        return taken

    async for result in producer.publish_many(tasks(), window=window):
        if isinstance(result, Refusal):
            tally.refuse(number(result.task.id, result.task), result.error)
        else:
            tally.accept(number(result.task_id), result)


async def _shares(producer: Producer, lines: AsyncIterator[Line], tally: Tally, window: int) -> None:
    processor = ShareProcessor.from_settings(producer.publish, producer.settings, producer.task_types)
    room = asyncio.Semaphore(window)

    async def one(line: Line) -> None:
        receipts: tuple[Receipt, ...] = ()
        try:
            receipts = (await processor.process(parse_share(_text(line)))).receipts
        except RefusedTask as exc:
            receipts = exc.receipts if isinstance(exc, ShareIncomplete) else ()
            tally.refuse(line.number, exc)
        finally:
            room.release()
        for receipt in receipts:
            tally.accept(line.number, receipt)

    async with asyncio.TaskGroup() as group:
        async for line in lines:
            tally.read(line)
            await room.acquire()
            group.create_task(one(line))


def _text(line: Line) -> bytes:
    """Raises: InvalidTask, for a line that is too long or no UTF-8."""
    if line.too_long:
        raise InvalidTask("the line has more bytes than ML_MAX_MESSAGE_BYTES allows")
    try:
        line.data.decode()
    except UnicodeDecodeError as exc:
        raise InvalidTask(f"invalid UTF-8 at byte {exc.start + 1} of the line") from None
    return line.data


@contextmanager
def _opened(file: str) -> Iterator[int]:
    """The descriptor to read from. A wrong path is a wrong option: exit code 2."""
    if file == "-":
        if sys.stdin.isatty():
            output().note("reading NDJSON from the terminal; end with Ctrl-D")
        yield sys.stdin.fileno()
        return
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except OSError as exc:
        raise fail(f"cannot read {file}: {exc.strerror}", ExitCode.USAGE) from exc
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _size(descriptor: int) -> int | None:
    """Bytes of a regular file; None for a pipe."""
    found = os.fstat(descriptor)
    return found.st_size if stat.S_ISREG(found.st_mode) else None
