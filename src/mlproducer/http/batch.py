"""A stream of tasks in, a stream of answers out, in bounded memory.

    client ──chunks──> lines ──tasks──> publish_many ──receipts──┐
                         └──lines that are wrong──────> Answers ─┴──> client

Memory: one line of at most `ML_MAX_MESSAGE_BYTES`, a window of tasks inside `publish_many`, and a list of answers.
Whoever is full holds back the one before: a client that does not read its answers is in the end not read from.

Race: a client writes all before it reads. Its answers fill every buffer up to our list; we wait for it to read, and it
waits for us to read. After `STALL` seconds we give in: the rest of its stream is read and dropped, so that it comes to
reading, and the last answer says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import aclosing
from contextvars import copy_context
from typing import Any, Final

from fastapi import Request, Response
from pydantic_core import to_json
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from mlproducer.delivery.stream import Refusal
from mlproducer.envelope.encode import parse_task
from mlproducer.errors import InvalidTask, MLProducerError, NotAccepting, TaskTooLarge
from mlproducer.http.body import lines, until
from mlproducer.http.problems import UNEXPECTED, AnswersUnread, Problem, problem_of
from mlproducer.http.views import receipt_view
from mlproducer.loggers import get_logger
from mlproducer.redact import masked
from mlproducer.task import Receipt, Task
from mlproducer.wiring import Producer

ANSWERS_HELD: Final = 1_000
"""Answers between the producer and the socket, about 300 bytes each: enough that one write carries many."""
STALL: Final = 30.0
"""Seconds that a client may leave its answers unread while there are more."""

_log = get_logger(__name__)


class Answers:
    """Lines on their way to the client, at most `ANSWERS_HELD`, or without bound once opened."""

    def __init__(self) -> None:
        self._held: list[bytes] = []
        self._bell = asyncio.Event()
        self._room = asyncio.Event()
        self.opened = False
        self._ended = False

    async def put(self, content: dict[str, Any]) -> None:
        while len(self._held) >= ANSWERS_HELD and not self.opened:
            self._room.clear()
            await self._room.wait()
        self._held.append(to_json(masked(content)) + b"\n")
        self._bell.set()

    def end(self) -> None:
        self._ended = True
        self._bell.set()

    def open(self) -> None:
        self.opened = True
        self._room.set()

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """As many lines at once as are there, until `end`."""
        while not self._ended or self._held:
            if not self._held:
                self._bell.clear()
                await self._bell.wait()
            held, self._held = self._held, []
            self._room.set()
            if held:
                yield b"".join(held)


class Batch:
    """One run of a batch call. `max_line` is in bytes; once `stopping` is set, no more is read."""

    def __init__(self, producer: Producer, max_line: int, stopping: asyncio.Event | None = None) -> None:
        self._producer = producer
        self._max_line = max_line
        self._stopping = asyncio.Event() if stopping is None else stopping
        self._lines: dict[str, list[tuple[int, Task]]] = {}
        self._answers = Answers()
        self._dropped = 0
        # Of the call: the answers are sent after it returned, and the tasks belong to its trace all the same.
        self._context = copy_context()

    async def run(self, chunks: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
        """Whole lines of answers, as many at once as are there."""
        pump = asyncio.get_running_loop().create_task(self._pump(chunks), context=self._context)
        try:
            async for chunk in self._answers.chunks():
                yield chunk
        finally:
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)

    def stalled(self) -> None:
        """The client does not read: accept no more of its tasks, and read the rest of its stream into nothing."""
        self._answers.open()

    async def _pump(self, chunks: AsyncIterable[bytes]) -> None:
        published = self._producer.publish_many(self._tasks(chunks))  # closing it lets go of what is in flight
        try:
            async with aclosing(published) as results:
                async for result in results:
                    await self._answers.put(self._answer(result))
            if self._dropped:
                raise AnswersUnread(  # noqa: TRY301  # told as the other reasons for an early end are
                    f"the answers were not read for {STALL:.0f} seconds, so the last {self._dropped} lines were "
                    "dropped; read while you write, or send fewer lines a call"
                )
        except ClientDisconnect:
            # The client left in the middle of a line or between two. What it had sent whole is published, because
            # publish_many gives all results of its source before the source's error; nobody reads these answers.
            _log.info("the client of a batch left before its end")
        except (NotAccepting, AnswersUnread) as error:
            await self._answers.put({"error": problem_of(error).as_dict()})
        except Exception:  # noqa: BLE001  # nobody awaits this task for its error: it is told here, or never
            _log.exception("a batch ended by an unexpected error")
            await self._answers.put({"error": Problem(UNEXPECTED, "The rest of the stream was not read.").as_dict()})
        self._answers.end()

    async def _tasks(self, chunks: AsyncIterable[bytes]) -> AsyncIterator[Task]:
        async for number, line in lines(until(aiter(chunks), self._stopping), self._max_line):
            if line is not None and not line.strip():
                continue
            if self._answers.opened:
                self._dropped += 1
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

    def _answer(self, result: Receipt | Refusal) -> dict[str, Any]:
        if isinstance(result, Refusal):
            return _refused(self._take(result.task.id, result.task), result.error)
        return {"line": self._take(result.task_id), **receipt_view(result)}

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

    def __init__(self, batch: Batch, request: Request, media_type: str) -> None:
        self._batch = batch
        self._request = request
        self.status_code = 200
        self.media_type = media_type
        self.background: BackgroundTask | None = None
        self.init_headers(None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        async with aclosing(self._batch.run(self._request.stream())) as content:
            # The head goes out with the first answers: before, a client that sent `Expect: 100-continue` would take
            # the 200 for the answer to that, and curl would then wait instead of sending.
            first = await anext(content, b"")
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await self._send(send, first)
            async for chunk in content:
                await self._send(send, chunk)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send, chunk: bytes) -> None:
        message: Message = {"type": "http.response.body", "body": chunk, "more_body": True}
        try:
            async with asyncio.timeout(STALL):
                await send(message)
        except TimeoutError:
            self._batch.stalled()
            await send(message)  # uvicorn waits for room before it writes, so nothing of it is out yet


def _refused(line: int, error: MLProducerError) -> dict[str, Any]:
    return {"line": line, "error": problem_of(error).as_dict()}
