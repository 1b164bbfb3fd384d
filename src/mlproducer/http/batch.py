"""A stream of tasks in, a stream of answers out, in bounded memory.

    client ──chunks──> lines ──tasks──> publish_many ──receipts──┐
                         └──lines that are wrong────────> queue ─┴──> client

Memory: one line of at most `ML_MAX_MESSAGE_BYTES`, a window of tasks inside `publish_many`, and a queue of answers.
Whoever is full holds back the one before: a client that does not read its answers is in the end not read from.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import aclosing
from typing import Any, Final, cast

from fastapi import Response
from pydantic_core import to_json
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from mlproducer.delivery.stream import Refusal
from mlproducer.envelope.encode import parse_task
from mlproducer.errors import InvalidTask, MLProducerError, TaskTooLarge
from mlproducer.http.body import lines
from mlproducer.http.problems import UNEXPECTED, Problem, problem_of
from mlproducer.http.views import receipt_view
from mlproducer.task import Receipt, Task
from mlproducer.wiring import Producer

ANSWERS_HELD: Final = 1_000
"""Answers between the producer and the socket, about 300 bytes each: enough that one write carries many."""

BATCH_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "description": "One task a line, as POST /api/ml/tasks takes it.",
        "content": {"application/x-ndjson": {"schema": {"type": "string"}}},
    }
}

_log = logging.getLogger(__name__)


class Batch:
    """One run of a batch call. `max_line` is in bytes."""

    def __init__(self, producer: Producer, max_line: int) -> None:
        self._producer = producer
        self._max_line = max_line
        self._lines: dict[str, list[tuple[int, Task]]] = {}
        self._answers: asyncio.Queue[bytes | None] = asyncio.Queue(ANSWERS_HELD)

    async def run(self, chunks: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
        """Whole lines of answers, as many at once as are there."""
        pump = asyncio.get_running_loop().create_task(self._pump(chunks))
        try:
            while True:
                found = [await self._answers.get()]
                while not self._answers.empty():
                    found.append(self._answers.get_nowait())
                yield b"".join(line for line in found if line is not None)
                if found[-1] is None:
                    return
        finally:
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)

    async def _pump(self, chunks: AsyncIterable[bytes]) -> None:
        # publish_many is an async generator, though its type promises less; closing it lets go of what is in flight.
        published = cast("AsyncGenerator[Receipt | Refusal, None]", self._producer.publish_many(self._tasks(chunks)))
        try:
            async with aclosing(published) as results:
                async for result in results:
                    await self._answers.put(self._answer(result))
        except ClientDisconnect:
            # The client left in the middle of a line or between two. What it had sent whole is published, because
            # publish_many gives all results of its source before the source's error; nobody reads these answers.
            _log.info("the client of a batch left before its end")
        except Exception:  # noqa: BLE001  # nobody awaits this task for its error: it is told here, or never
            _log.exception("a batch ended by an unexpected error")
            await self._answers.put(
                _line({"error": Problem(UNEXPECTED, "The rest of the stream was not read.").as_dict()})
            )
        await self._answers.put(None)

    async def _tasks(self, chunks: AsyncIterable[bytes]) -> AsyncIterator[Task]:
        async for number, line in lines(chunks, self._max_line):
            if line is not None and not line.strip():
                continue
            try:
                task = self._parse(line)
            except InvalidTask as error:
                await self._answers.put(_refused(number, error))
                continue
            self._lines.setdefault(task.id, []).append((number, task))
            yield task

    def _parse(self, line: bytes | None) -> Task:
        if line is None:
            raise TaskTooLarge(f"the line has more than the {self._max_line} bytes that ML_MAX_MESSAGE_BYTES allows")
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise InvalidTask(f"not valid UTF-8, at byte {error.start} of the line") from None
        return parse_task(text)

    def _answer(self, result: Receipt | Refusal) -> bytes:
        if isinstance(result, Refusal):
            return _refused(self._take(result.task.id, result.task), result.error)
        return _line({"line": self._take(result.task_id), **receipt_view(result)})

    def _take(self, task_id: str, task: Task | None = None) -> int:
        """The line of a result. One id may stand on several lines: a refusal knows its own task, and receipts of one
        id are alike, so the first line takes the first.
        """
        waiting = self._lines[task_id]
        index = next((i for i, (_, each) in enumerate(waiting) if each is task), 0)
        number, _ = waiting.pop(index)
        if not waiting:
            del self._lines[task_id]
        return number


class Duplex(Response):
    """Answers while the request is still being read.

    Starlette's own streaming response listens for a disconnect by calling `receive`, which would eat the request's
    body. Here only the stream of the request receives.
    """

    def __init__(self, content: AsyncGenerator[bytes, None], media_type: str) -> None:
        self.content = content
        self.status_code = 200
        self.media_type = media_type
        self.background: BackgroundTask | None = None
        self.init_headers(None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        async with aclosing(self.content) as content:
            # The head goes out with the first answers: before, a client that sent `Expect: 100-continue` would take
            # the 200 for the answer to that, and curl would then wait instead of sending.
            first = await anext(content, b"")
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": first, "more_body": True})
            async for chunk in content:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _refused(line: int, error: MLProducerError) -> bytes:
    return _line({"line": line, "error": problem_of(error).as_dict()})


def _line(content: dict[str, Any]) -> bytes:
    return to_json(content) + b"\n"
