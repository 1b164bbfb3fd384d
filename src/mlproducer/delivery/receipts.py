"""What is known in memory of recent tasks: their receipts, and who is publishing which id just now.

A bounded memory for look-ups and for idempotency while this process lives. What must survive is in the spool.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from mlproducer.core.lifecycle import Move, advance
from mlproducer.errors import TaskConflict
from mlproducer.task import Envelope, Receipt, TaskState


@dataclass(slots=True)
class Entry:
    """One task's record. `state` moves only along the table of `core.lifecycle`."""

    envelope: Envelope | None
    """Kept while the task is on its way; dropped once settled, so that receipts cost no payload."""
    digest: int
    task_id: str
    task_type: str
    accepted_at: float
    state: TaskState = TaskState.ACCEPTED
    confirmed_at: float | None = None
    attempts: int = 0
    reason: str | None = None
    next_attempt_at: float | None = None
    followers: asyncio.Future[None] | None = None

    def receipt(self) -> Receipt:
        return Receipt(
            self.task_id,
            self.task_type,
            self.state,
            self.accepted_at,
            self.confirmed_at,
            self.attempts,
            self.reason,
            self.next_attempt_at,
        )

    def move(self, move: Move) -> None:
        self.state = advance(self.state, move)


def digest_of(envelope: Envelope) -> int:
    """Equal for equal content. Python's keyed hash of bytes: good within one process, which is all it is for."""
    return hash((envelope.routing_key, envelope.body))


class ReceiptBook:
    """Recent tasks by id; the oldest settled ones leave first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._under_way: dict[str, Entry] = {}
        self._settled: OrderedDict[str, Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._under_way) + len(self._settled)

    @property
    def under_way(self) -> int:
        """Tasks whose callers still wait for a receipt."""
        return len(self._under_way)

    def begin(self, envelope: Envelope, now: float) -> Entry | None:
        """Start a task; None if its id is known with the same content: then wait for `known`.

        Raises: TaskConflict, if the id is known with other content.
        """
        task_id = envelope.task_id
        known = self._under_way.get(task_id) or self._settled.get(task_id)
        if known is None:
            entry = Entry(envelope, digest_of(envelope), task_id, envelope.task_type, now)
            self._under_way[task_id] = entry
            return entry
        if known.digest != digest_of(envelope):
            raise TaskConflict(
                f"task id {task_id} was accepted before with other content; use a new id or Idempotency-Key"
            )
        return None

    async def known(self, task_id: str) -> Receipt | None:
        """The receipt of a task that is known, waiting for it if it is under way; None if that was refused.

        Race: A begins id 7; B publishes the same id and waits here; A is refused (spool full). B then gets None
        and starts an attempt of its own, rather than a receipt for a task that nobody accepted.
        """
        entry = self._under_way.get(task_id)
        if entry is not None:
            if entry.followers is None:
                entry.followers = asyncio.get_running_loop().create_future()
            await asyncio.shield(entry.followers)
        settled = self._settled.get(task_id)
        return settled.receipt() if settled is not None else None

    def finish(self, entry: Entry) -> Receipt:
        """The caller's receipt: from now on the task is accepted."""
        self._release(entry)
        if self._limit:
            self._settled[entry.task_id] = entry
            while len(self._settled) > self._limit:
                self._settled.popitem(last=False)
        return entry.receipt()

    def forget(self, entry: Entry) -> None:
        """Refused or cancelled: nothing was accepted. A finished entry stays."""
        if self._under_way.get(entry.task_id) is entry:
            self._release(entry)

    def find(self, task_id: str) -> Entry | None:
        return self._under_way.get(task_id) or self._settled.get(task_id)

    def spooled(self, task_id: str) -> Entry | None:
        """The entry that stands for a row in the spool, if it is remembered."""
        entry = self._settled.get(task_id)
        return entry if entry is not None and entry.state is TaskState.SPOOLED else None

    def replayed(self, task_ids: Iterable[str]) -> None:
        """Dead letters went back to waiting."""
        for task_id in task_ids:
            entry = self._settled.get(task_id)
            if entry is not None and entry.state in {TaskState.DEAD, TaskState.EXPIRED}:
                entry.move(Move.REPLAY)
                entry.attempts, entry.reason = 0, "replayed"

    def _release(self, entry: Entry) -> None:
        self._under_way.pop(entry.task_id, None)
        entry.envelope = None
        if entry.followers is not None and not entry.followers.done():
            entry.followers.set_result(None)
