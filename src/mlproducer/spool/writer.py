"""One thread that writes, and commits in groups.

A durable commit costs one fsync, however many rows are in it. So requests are queued, and each turn of the thread
takes all that wait, runs them in one transaction, commits, and only then answers their waiters, all in one call to
the event loop. Under load the groups grow by themselves while the disk is busy.

What fails one request fails only that one: where the group as a whole does not go through and the store is not to
blame, its requests are run again, each behind a savepoint of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, exc

from mlproducer.errors import SpoolUnavailable
from mlproducer.ports import Lease, SpoolRow, Verdict
from mlproducer.spool.file import OpenFile, blames_the_store, explain
from mlproducer.spool.statements import put_rows, settle_rows

LARGEST_GROUP: Final = 2_000
"""Requests in one transaction: beyond it a commit is no cheaper by the row, and the first waiter waits longer."""
LARGEST_GROUP_BYTES: Final = 32 * 1024 * 1024
"""The write-ahead log holds a whole transaction: a bound on the one is a bound on the other."""


@dataclass(frozen=True, slots=True)
class Put:
    row: SpoolRow


@dataclass(frozen=True, slots=True)
class Settle:
    lease: Lease
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Run:
    """Any other statement; `work` is run in the group's transaction."""

    work: Callable[[Connection], Any]


@dataclass(frozen=True, slots=True)
class _Failed:
    """An answer: nothing of this request is stored. Each waiter raises an exception of its own from it."""

    words: str
    cause: Exception | None = None


@dataclass(slots=True)
class _Request:
    command: Put | Settle | Run
    waiter: asyncio.Future[Any]
    answer: Any = None


class Writer:
    """Owns the writing connection. To be made on the event loop, and ended on another thread."""

    def __init__(self, file: OpenFile) -> None:
        self._file = file
        self._loop = asyncio.get_running_loop()
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="mlproducer-spool", daemon=True)
        self._thread.start()

    async def do(self, command: Put | Settle | Run) -> Any:  # noqa: ANN401  # the command's own result
        """Queue a command and wait for its commit. Raises: SpoolUnavailable; then nothing of it was stored."""
        waiter: asyncio.Future[Any] = self._loop.create_future()
        self._requests.put(_Request(command, waiter))
        return await waiter

    def end(self) -> None:
        """Finish what is queued, then end the thread. Blocks; nobody may call `do` any more."""
        self._requests.put(None)
        self._thread.join()

    # On the thread

    def _work(self) -> None:
        last = False
        while not last:
            group, last = self._take()
            # Race: a caller is cancelled while its put waits here. Before the commit we look, and leave the row out;
            # cancelled after that look, the row is committed whole and drained like any other. Never half.
            group = [request for request in group if not request.waiter.cancelled()]
            if not group:
                continue
            self._run(group)
            with contextlib.suppress(RuntimeError):  # the loop was closed under us: nobody waits any more
                self._loop.call_soon_threadsafe(_answer, group)

    def _take(self) -> tuple[list[_Request], bool]:
        request = self._requests.get()
        group: list[_Request] = []
        size = 0
        while request is not None:
            group.append(request)
            size += request.command.row.envelope.size if isinstance(request.command, Put) else 0
            if len(group) >= LARGEST_GROUP or size >= LARGEST_GROUP_BYTES:
                return group, False
            try:
                request = self._requests.get_nowait()
            except queue.Empty:
                return group, False
        return group, True

    def _run(self, group: Sequence[_Request]) -> None:
        """Commit the group and note each request's answer. Raises nothing: its waiters would hang."""
        try:
            group = self._refuse_puts_if_missing(group)
            try:
                self._commit(group, _together)
            except Exception as error:
                if len(group) == 1 or blames_the_store(error):
                    raise
                self._commit(group, self._one_by_one)
        except Exception as error:  # noqa: BLE001  # whatever it was, the waiters must hear of it
            failed = self._failed(error)
            for request in group:
                request.answer = failed

    def _refuse_puts_if_missing(self, group: Sequence[_Request]) -> Sequence[_Request]:
        """New rows need a file that will be found again. What is in it may still be leased and published."""
        puts = [request for request in group if isinstance(request.command, Put)]
        missing = self._file.missing() if puts else None
        if missing is None:
            return group
        for request in puts:
            request.answer = _Failed(missing)
        return [request for request in group if not isinstance(request.command, Put)]

    def _commit(self, group: Sequence[_Request], perform: Callable[[Connection, Sequence[_Request]], None]) -> None:
        if group:
            with self._file.writing.begin() as connection:
                perform(connection, group)

    def _one_by_one(self, connection: Connection, group: Sequence[_Request]) -> None:
        for request in group:
            try:
                with connection.begin_nested():
                    _perform(connection, [request])
            except Exception as error:
                if blames_the_store(error):
                    raise
                request.answer = self._failed(error)

    def _failed(self, error: Exception) -> _Failed:
        if isinstance(error, exc.SQLAlchemyError):
            return _Failed(str(explain(self._file.path, error)), error)
        return _Failed(f"the spool {self._file.path} cannot store this ({type(error).__name__})", error)


def _together(connection: Connection, group: Sequence[_Request]) -> None:
    """Neighbours of one kind become one statement; the order stays."""
    at = 0
    for end in range(1, len(group) + 1):
        kind = type(group[at].command)
        if end == len(group) or kind is Run or type(group[end].command) is not kind:
            _perform(connection, group[at:end])
            at = end


def _perform(connection: Connection, run: Sequence[_Request]) -> None:
    """Requests of one kind."""
    puts = [request.command.row for request in run if isinstance(request.command, Put)]
    settlements = [(r.command.lease, r.command.verdict) for r in run if isinstance(r.command, Settle)]
    works = [request.command.work for request in run if isinstance(request.command, Run)]
    answers: list[Any] = []
    if puts:
        answers += put_rows(connection, puts)
    if settlements:
        answers += settle_rows(connection, settlements)
    answers += [work(connection) for work in works]
    for request, answer in zip(run, answers, strict=True):
        request.answer = answer


def _answer(group: Sequence[_Request]) -> None:
    for request in group:
        if request.waiter.done():
            continue  # cancelled after the look: its row is safe, but nobody waits to hear so
        if isinstance(request.answer, _Failed):
            error = SpoolUnavailable(request.answer.words)
            error.__cause__ = request.answer.cause
            request.waiter.set_exception(error)
        else:
            request.waiter.set_result(request.answer)
