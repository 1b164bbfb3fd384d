"""One thread that writes, and commits in groups.

A durable commit costs one fsync, however many rows are in it. So requests are queued, and each turn of the thread
takes all that wait, runs them in one transaction, commits, and only then answers their waiters, all in one call to
the event loop. Under load the groups grow by themselves while the disk is busy.

The event loop and the thread share the interpreter's lock. So what is asked in one turn of the loop is handed over in
batches, and the thread's work is one of few, long statements (see `bulk`): each hand-over, and each statement, is a
wait of one for the other.

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
from itertools import groupby
from typing import Any, Final, TypeVar

from msgspec import Struct

from mlproducer.errors import SpoolUnavailable
from mlproducer.spool.commands import Command
from mlproducer.spool.store import Store
from mlproducer.spool.transaction import Transaction

LARGEST_GROUP: Final = 2_000
"""Rows in one transaction: beyond it a commit is no cheaper by the row, and the first waiter waits longer."""
LARGEST_GROUP_BYTES: Final = 32 * 1024 * 1024
"""The write-ahead log holds a whole transaction: a bound on the one is a bound on the other."""
_LARGEST_BATCH: Final = 500
"""Requests that are handed over before the loop's turn ends: a turn of a thousand callers would else leave the thread
idle for as long."""
_LOOK_SECONDS: Final = 0.5
"""How often a thread that writes to a server is looked at, while it has work."""

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class _Failed(Struct, frozen=True):
    """An answer: nothing of this request is stored. Each waiter raises an exception of its own from it."""

    words: str
    cause: BaseException | None = None


class _Batch(Struct, eq=False):
    """Requests of one kind, from one turn of the loop: their items, waiters and answers side by side."""

    command: Command[Any, Any]
    asked: float
    items: list[Any]
    waiters: list[asyncio.Future[Any]]
    answers: Sequence[Any] = ()

    def leave_out_cancelled(self) -> None:
        # Race: a caller is cancelled while its put waits here. Before the commit we look, and leave the row out;
        # cancelled after that look, the row is committed whole and drained like any other. Never half.
        if any(waiter.cancelled() for waiter in self.waiters):
            left = [each for each in zip(self.items, self.waiters, strict=True) if not each[1].cancelled()]
            self.items, self.waiters = [item for item, _ in left], [waiter for _, waiter in left]

    def halves(self) -> tuple[_Batch, _Batch]:
        """The first one last."""
        at = len(self.items) // 2
        first, second = slice(None, at), slice(at, None)
        return (
            _Batch(self.command, self.asked, self.items[second], self.waiters[second]),
            _Batch(self.command, self.asked, self.items[first], self.waiters[first]),
        )

    def fail(self, failed: _Failed) -> None:
        self.answers = [failed] * len(self.items)


class Writer:
    """Owns the writing connection. To be made on the event loop, and ended on another thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._batch: _Batch | None = None
        """What was asked in this turn of the loop, and is not handed over yet."""
        self._batches: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        self._kept: list[_Batch] = []
        """The thread's own: what it took and found too large for the group, the next one last."""
        self._began: float | None = None
        """When the thread began what it does now; None while it waits for work."""
        self._looking = False
        self._lost: _Failed | None = None
        """What the store last failed with, until it answers again."""
        self._thread = threading.Thread(target=self._work, name="mlproducer-spool", daemon=True)
        self._thread.start()

    def ask(self, command: Command[Item, Answer], item: Item) -> asyncio.Future[Answer]:
        """Done with the commit. It raises SpoolUnavailable, and then nothing of the request was stored; cancelled, the
        request is left out or stored whole.
        """
        batch = self._batch
        if batch is None or batch.command is not command:
            self.hand_over()
            batch = self._batch = _Batch(command, time.monotonic(), [], [])
            self._loop.call_soon(self.hand_over)
        waiter: asyncio.Future[Answer] = self._loop.create_future()
        batch.items.append(item)
        batch.waiters.append(waiter)
        if len(batch.items) >= _LARGEST_BATCH:
            self.hand_over()
        return waiter

    def hand_over(self) -> None:
        """To the thread, what was asked so far."""
        batch, self._batch = self._batch, None
        if batch is None:
            return
        self._batches.put(batch)
        if self._store.patience is not None and not self._looking:
            self._looking = True
            self._loop.call_later(_LOOK_SECONDS, self._look, self._store.patience)

    def end(self) -> None:
        """Finish what is handed over, then end the thread. Blocks; nobody may call `ask` any more."""
        self._batches.put(None)
        self._thread.join()

    def _look(self, patience: float) -> None:
        began = self._began
        more = bool(self._kept) or not self._batches.empty()
        self._looking = self._thread.is_alive() and (began is not None or more)
        if self._looking:
            self._loop.call_later(_LOOK_SECONDS, self._look, patience)
        if began is not None and time.monotonic() - began > patience:
            self._store.cut(self._store.writing)

    # On the thread

    def _work(self) -> None:
        last = False
        while not last:
            group, last = self._take()
            for batch in group:
                batch.leave_out_cancelled()
            group = [batch for batch in group if batch.items]
            if not group:
                continue
            self._began = time.monotonic()
            self._run(group)
            self._began = None
            with contextlib.suppress(RuntimeError):  # the loop was closed under us: nobody waits any more
                self._loop.call_soon_threadsafe(_answer, group)

    def _take(self) -> tuple[list[_Batch], bool]:
        """All that waits, but no more than a group may be; whether it is the last."""
        group: list[_Batch] = []
        rows = size = 0
        while True:
            try:
                batch = self._kept.pop() if self._kept else self._batches.get(block=not group)
            except queue.Empty:
                return group, False
            if batch is None:
                return group, True
            more_rows, more_size = batch.command.weigh(batch.items)
            if size + more_size > LARGEST_GROUP_BYTES:
                if group:
                    self._kept.append(batch)
                    return group, False
                if len(batch.items) > 1:
                    self._kept += batch.halves()
                    continue
            group.append(batch)
            rows += more_rows
            size += more_size
            if rows >= LARGEST_GROUP:
                return group, False

    def _run(self, group: Sequence[_Batch]) -> None:
        """Commit the group and note the answers. Raises nothing: its waiters would hang."""
        try:
            group = sorted(self._refuse_overdue(self._refuse_new(group)), key=lambda batch: batch.command.last)
            try:
                self._commit_twice(group)
            except Exception as error:
                if sum(len(batch.items) for batch in group) == 1 or self._store.blames_the_store(error):
                    raise
                self._began = time.monotonic()
                self._commit(group, self._one_by_one)
            self._lost = None
        except Exception as error:  # noqa: BLE001  # whatever it was, the waiters must hear of it
            failed = self._failed(error)
            self._lost = failed if self._store.blames_the_store(error) else None
            for batch in group:
                batch.fail(failed)

    def _refuse_new(self, group: Sequence[_Batch]) -> Sequence[_Batch]:
        refusal = self._store.refusal() if any(batch.command.adds for batch in group) else None
        if refusal is None:
            return group
        for batch in group:
            if batch.command.adds:
                batch.fail(_Failed(refusal))
        return [batch for batch in group if not batch.command.adds]

    def _refuse_overdue(self, group: Sequence[_Batch]) -> Sequence[_Batch]:
        """Who waited out a store that hangs, or that another holds, does not wait for another try with it."""
        lost = self._lost
        if lost is None:
            return group
        latest = time.monotonic() - self._store.overdue
        for batch in group:
            if batch.asked < latest:
                batch.fail(lost)
        return [batch for batch in group if batch.asked >= latest]

    def _commit_twice(self, group: Sequence[_Batch]) -> None:
        try:
            self._commit(group, _together)
        except Exception as error:
            if not self._store.may_pass(error):
                raise
            self._commit(group, _together)

    def _commit(self, group: Sequence[_Batch], perform: Callable[[Transaction, Sequence[_Batch]], None]) -> None:
        if group:
            self._store.time.look(self._store.writing)
            with self._store.turn(), self._store.writing.begin() as connection:
                tx = Transaction(connection, self._store.time)
                perform(tx, group)
                tx.finish(self._store.slot, self._store.who)

    def _one_by_one(self, tx: Transaction, group: Sequence[_Batch]) -> None:
        for batch in group:
            batch.answers = [self._alone(tx, batch.command, item) for item in batch.items]

    def _alone(self, tx: Transaction, command: Command[Item, Answer], item: Item) -> Answer | _Failed:
        part = Transaction(tx.connection, tx.time)
        try:
            with tx.connection.begin_nested():
                answer = command.perform(part, [item])[0]
        except Exception as error:
            if self._store.blames_the_store(error):
                raise
            return self._failed(error)
        tx.take_in(part)
        return answer

    def _failed(self, error: Exception) -> _Failed:
        told = error if isinstance(error, SpoolUnavailable) else self._store.explain(error)
        return _Failed(str(told), told.__cause__)


def _together(tx: Transaction, group: Sequence[_Batch]) -> None:
    """Neighbours of one kind become one; the order stays."""
    for command, neighbours in groupby(group, key=lambda batch: batch.command):
        batches = list(neighbours)
        answers = iter(command.perform(tx, [item for batch in batches for item in batch.items]))
        for batch in batches:
            batch.answers = [next(answers) for _ in batch.items]


def _answer(group: Sequence[_Batch]) -> None:
    for batch in group:
        for waiter, answer in zip(batch.waiters, batch.answers, strict=True):
            if waiter.done():
                continue  # cancelled after the look: its row is safe, but nobody waits to hear so
            if isinstance(answer, _Failed):
                error = SpoolUnavailable(answer.words)
                error.__cause__ = answer.cause
                waiter.set_exception(error)
            else:
                waiter.set_result(answer)
