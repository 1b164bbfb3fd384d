"""One thread that writes, and commits in groups.

A durable commit costs one fsync, however many rows are in it. So requests are queued, and each turn of the thread
takes all that wait, runs them in one transaction, commits, and only then answers their waiters, all in one call to
the event loop. Under load the groups grow by themselves while the disk is busy.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, Engine, exc

from mlproducer.errors import SpoolUnavailable
from mlproducer.ports import Lease, SpoolRow, Verdict
from mlproducer.spool.statements import put_rows, settle_rows

LARGEST_GROUP: Final = 2_000
"""Requests in one transaction: beyond it a commit is no cheaper by the row, and the first waiter waits longer."""

Fault = Callable[[exc.DBAPIError], SpoolUnavailable]


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
class _Request:
    command: Put | Settle | Run
    waiter: asyncio.Future[Any]
    answer: list[Any] = field(default_factory=list)


class Writer:
    """Owns the writing connection. `explain` turns a database error into words."""

    def __init__(self, engine: Engine, explain: Fault) -> None:
        self._engine = engine
        self._explain = explain
        self._loop = asyncio.get_running_loop()
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="mlproducer-spool", daemon=True)
        self._closed = False
        self._thread.start()

    async def do(self, command: Put | Settle | Run) -> Any:  # noqa: ANN401  # the command's own result
        """Queue a command and wait for its commit. Raises: SpoolUnavailable; then nothing of it was stored."""
        if self._closed:
            raise SpoolUnavailable("the spool is closed")
        waiter: asyncio.Future[Any] = self._loop.create_future()
        self._requests.put(_Request(command, waiter))
        return await waiter

    async def close(self) -> None:
        """Finish what is queued, then end the thread."""
        if not self._closed:
            self._closed = True
            self._requests.put(None)
        await asyncio.to_thread(self._thread.join)

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
            error = self._commit(group)
            with contextlib.suppress(RuntimeError):  # the loop was closed under us: nobody waits any more
                self._loop.call_soon_threadsafe(_answer, group, error)

    def _take(self) -> tuple[list[_Request], bool]:
        first = self._requests.get()
        if first is None:
            return [], True
        group = [first]
        while len(group) < LARGEST_GROUP:
            try:
                request = self._requests.get_nowait()
            except queue.Empty:
                break
            if request is None:
                return group, True
            group.append(request)
        return group, False

    def _commit(self, group: Sequence[_Request]) -> Exception | None:
        try:
            with self._engine.begin() as connection:
                for run in _runs(group):
                    _perform(connection, run)
        except exc.DBAPIError as error:
            return self._explain(error)
        except Exception as error:  # noqa: BLE001  # the waiters must hear of a bug too, or they would hang
            return error
        return None


def _runs(group: Sequence[_Request]) -> list[list[_Request]]:
    """Neighbours of one kind together, so that they become one statement; the order stays."""
    runs: list[list[_Request]] = []
    for request in group:
        kind = type(request.command)
        if runs and kind is not Run and type(runs[-1][0].command) is kind:
            runs[-1].append(request)
        else:
            runs.append([request])
    return runs


def _perform(connection: Connection, run: Sequence[_Request]) -> None:
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
        request.answer.append(answer)


def _answer(group: Sequence[_Request], error: Exception | None) -> None:
    for request in group:
        if request.waiter.done():
            continue  # cancelled after the look: its row is safe, but nobody waits to hear so
        if error is not None:
            request.waiter.set_exception(error)
        else:
            request.waiter.set_result(request.answer[0])
