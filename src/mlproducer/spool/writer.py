"""One thread that writes, and commits in groups.

A durable commit costs one fsync, however many rows are in it. So requests are queued, and each turn of the thread
takes all that wait, runs them in one transaction, commits, and only then answers their waiters, all in one call to
the event loop. Under load the groups grow by themselves while the disk is busy.

What fails one request fails only that one: where the group as a whole does not go through and the store is not to
blame, its requests are run again, each behind a savepoint of its own.

A server that hangs would hold the thread for ever. So the event loop looks at it, and past the store's patience cuts
the connection: the thread wakes with an error, and the next turn makes a new connection.

A commit whose answer is lost (the server died while it answered, or was cut) may have been stored. We say that it was
not, and who asks again finds out: a `put` of the same row meets it and returns False, after which the row is treated
as what it is, a row that waits; a `settle` meets no lease of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, assert_never

from msgspec import Struct

from mlproducer.errors import SpoolUnavailable
from mlproducer.ports import Bury, Record, Settlement, SpoolRow, Tally
from mlproducer.spool.counters import count_tallies
from mlproducer.spool.statements import claim_rows, confirm_rows, put_rows, settle_rows
from mlproducer.spool.store import Store
from mlproducer.spool.transaction import Transaction

LARGEST_GROUP: Final = 2_000
"""Rows in one transaction: beyond it a commit is no cheaper by the row, and the first waiter waits longer."""
LARGEST_GROUP_BYTES: Final = 32 * 1024 * 1024
"""The write-ahead log holds a whole transaction: a bound on the one is a bound on the other."""
_LOOK_SECONDS: Final = 0.5
"""How often a thread that writes to a server is looked at, while it has work."""


class Put(Struct, frozen=True):
    row: SpoolRow


class Claim(Struct, frozen=True):
    claim: Record
    now: float


class Confirm(Struct, frozen=True):
    record: Record


class Settle(Struct, frozen=True):
    settlements: Sequence[Settlement]


class Count(Struct, frozen=True):
    tallies: Sequence[Tally]


class Run(Struct, frozen=True):
    """Any other statement; `work` is run in the group's transaction."""

    work: Callable[[Transaction], Any]


Command = Put | Claim | Confirm | Settle | Count | Run


class _Failed(Struct, frozen=True):
    """An answer: nothing of this request is stored. Each waiter raises an exception of its own from it."""

    words: str
    cause: BaseException | None = None


class _Request(Struct):
    command: Command
    waiter: asyncio.Future[Any]
    asked: float
    answer: Any = None


class Writer:
    """Owns the writing connection. To be made on the event loop, and ended on another thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._began: float | None = None
        """When the thread began what it does now; None while it waits for work."""
        self._looking = False
        self._lost: _Failed | None = None
        """What the store last failed with, until it answers again."""
        self._thread = threading.Thread(target=self._work, name="mlproducer-spool", daemon=True)
        self._thread.start()

    async def do(self, command: Command) -> Any:  # noqa: ANN401  # the command's own result
        """Queue a command and wait for its commit. Raises: SpoolUnavailable; then nothing of it was stored."""
        waiter: asyncio.Future[Any] = self._loop.create_future()
        self._requests.put(_Request(command, waiter, time.monotonic()))
        if self._store.patience is not None and not self._looking:
            self._looking = True
            self._loop.call_later(_LOOK_SECONDS, self._look, self._store.patience)
        return await waiter

    def end(self) -> None:
        """Finish what is queued, then end the thread. Blocks; nobody may call `do` any more."""
        self._requests.put(None)
        self._thread.join()

    def _look(self, patience: float) -> None:
        began = self._began
        self._looking = self._thread.is_alive() and (began is not None or not self._requests.empty())
        if self._looking:
            self._loop.call_later(_LOOK_SECONDS, self._look, patience)
        if began is not None and time.monotonic() - began > patience:
            self._store.cut(self._store.writing)

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
            self._began = time.monotonic()
            self._run(group)
            self._began = None
            with contextlib.suppress(RuntimeError):  # the loop was closed under us: nobody waits any more
                self._loop.call_soon_threadsafe(_answer, group)

    def _take(self) -> tuple[list[_Request], bool]:
        request = self._requests.get()
        group: list[_Request] = []
        rows = size = 0
        while request is not None:
            group.append(request)
            more_rows, more_size = _weight(request.command)
            rows += more_rows
            size += more_size
            if rows >= LARGEST_GROUP or size >= LARGEST_GROUP_BYTES:
                return group, False
            try:
                request = self._requests.get_nowait()
            except queue.Empty:
                return group, False
        return group, True

    def _run(self, group: Sequence[_Request]) -> None:
        """Commit the group and note each request's answer. Raises nothing: its waiters would hang."""
        try:
            group = _counts_last(self._refuse_overdue(self._refuse_new(group)))
            try:
                self._commit_twice(group)
            except Exception as error:
                if len(group) == 1 or self._store.blames_the_store(error):
                    raise
                self._began = time.monotonic()
                self._commit(group, self._one_by_one)
            self._lost = None
        except Exception as error:  # noqa: BLE001  # whatever it was, the waiters must hear of it
            failed = self._failed(error)
            self._lost = failed if self._store.blames_the_store(error) else None
            for request in group:
                request.answer = failed

    def _refuse_new(self, group: Sequence[_Request]) -> Sequence[_Request]:
        """What is new needs a file that will be found again, on a disk with room. What is in it may still go out."""
        new = [request for request in group if isinstance(request.command, Put | Claim)]
        refusal = self._store.refusal() if new else None
        if refusal is None:
            return group
        for request in new:
            request.answer = _Failed(refusal)
        return [request for request in group if not isinstance(request.command, Put | Claim)]

    def _refuse_overdue(self, group: Sequence[_Request]) -> Sequence[_Request]:
        """Who waited out a server that hangs does not wait for another try with it."""
        patience, lost = self._store.patience, self._lost
        if patience is None or lost is None:
            return group
        latest = time.monotonic() - patience
        for request in group:
            if request.asked < latest:
                request.answer = lost
        return [request for request in group if request.asked >= latest]

    def _commit_twice(self, group: Sequence[_Request]) -> None:
        try:
            self._commit(group, _together)
        except Exception as error:
            if not self._store.may_pass(error):
                raise
            self._commit(group, _together)

    def _commit(self, group: Sequence[_Request], perform: Callable[[Transaction, Sequence[_Request]], None]) -> None:
        if group:
            with self._store.writing.begin() as connection:
                tx = Transaction(connection)
                perform(tx, group)
                tx.finish(self._store.slot, self._store.who)

    def _one_by_one(self, tx: Transaction, group: Sequence[_Request]) -> None:
        for request in group:
            part = Transaction(tx.connection)
            try:
                with tx.connection.begin_nested():
                    _perform(part, [request])
            except Exception as error:
                if self._store.blames_the_store(error):
                    raise
                request.answer = self._failed(error)
            else:
                tx.take_in(part)

    def _failed(self, error: Exception) -> _Failed:
        told = error if isinstance(error, SpoolUnavailable) else self._store.explain(error)
        return _Failed(str(told), told.__cause__)


def _weight(command: Command) -> tuple[int, int]:
    """Rows and bytes that it writes, about."""
    match command:
        case Put(row):
            return 1, row.envelope.size
        case Settle(settlements):
            buried = sum(lease.row.envelope.size for lease, verdict in settlements if isinstance(verdict, Bury))
            return len(settlements), buried
        case Count(tallies):
            return len(tallies), 0
        case _:
            return 1, 0


def _counts_last(group: Sequence[_Request]) -> Sequence[_Request]:
    """Instances add to the same sums. In one statement, the last of its transaction, they take those in one order, and
    hold them for a moment only; in several, two transactions could each wait for the other's.
    """
    return sorted(group, key=lambda request: isinstance(request.command, Count))


def _together(tx: Transaction, group: Sequence[_Request]) -> None:
    """Neighbours of one kind become one statement; the order stays."""
    at = 0
    for end in range(1, len(group) + 1):
        kind = type(group[at].command)
        if end == len(group) or kind is Run or type(group[end].command) is not kind:
            _perform(tx, group[at:end])
            at = end


def _perform(tx: Transaction, run: Sequence[_Request]) -> None:
    """Requests of one kind."""
    commands = [request.command for request in run]
    answers: Sequence[Any]
    match commands[0]:
        case Put():
            answers = put_rows(tx, [command.row for command in commands if isinstance(command, Put)])
        case Claim():
            answers = claim_rows(tx, [(each.claim, each.now) for each in commands if isinstance(each, Claim)])
        case Confirm():
            confirm_rows(tx, [command.record for command in commands if isinstance(command, Confirm)])
            answers = [None] * len(run)
        case Settle():
            answers = _settle(tx, [command.settlements for command in commands if isinstance(command, Settle)])
        case Count():
            answers = _count(tx, [command.tallies for command in commands if isinstance(command, Count)])
        case Run():
            answers = [command.work(tx) for command in commands if isinstance(command, Run)]
        case _:
            assert_never(commands[0])
    for request, answer in zip(run, answers, strict=True):
        request.answer = answer


def _settle(tx: Transaction, batches: Sequence[Sequence[Settlement]]) -> list[list[bool]]:
    held = iter(settle_rows(tx, [settlement for batch in batches for settlement in batch]))
    return [[next(held) for _ in batch] for batch in batches]


def _count(tx: Transaction, batches: Sequence[Sequence[Tally]]) -> list[list[bool]]:
    added = iter(count_tallies(tx, [tally for batch in batches for tally in batch]))
    return [[next(added) for _ in batch] for batch in batches]


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
