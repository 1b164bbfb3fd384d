"""What is known in memory of recent tasks: their receipts, and who is publishing which id just now.

A bounded memory for look-ups and for idempotency while this process lives. What must survive is in the spool.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from msgspec import Struct

from mlproducer.core.lifecycle import Move, advance
from mlproducer.delivery.due import DueTimes
from mlproducer.delivery.traces import CallTrace
from mlproducer.errors import TaskConflict
from mlproducer.jobs import shielded
from mlproducer.rows import Claim
from mlproducer.task import Envelope, Receipt, TaskState


class Accepting(Struct, eq=False):
    """A task between its call and its receipt. `state` moves only along the table of `core.lifecycle`."""

    envelope: Envelope
    digest: int
    accepted_at: float
    """Unix time, seconds."""
    deadline: float
    """On the monotonic clock: when the direct attempt is over."""
    until: float
    """On the monotonic clock: when the whole call is over."""
    chosen_id: bool
    """Its id may come again, at another instance or after a restart: see `delivery.claims`."""
    slow: bool
    """It needs more than an attempt: see `Pipeline.prepare`."""
    claim: Claim | None = None
    """Ours in the spool, while it stands."""
    hurried: bool = False
    """Its caller waits for less long than the broker has for its confirm: the call's own timeout is short, or a claim
    or a blob store took a part of it."""
    committing: bool = False
    """A put was asked for, and may have gone through whatever becomes of the call."""
    trace: CallTrace | None = None
    """None if nobody traces the call. `finish` or `forget` ends it."""
    state: TaskState = TaskState.ACCEPTED
    followers: asyncio.Future[None] | None = None

    def move(self, move: Move) -> None:
        self.state = advance(self.state, move)


# A remembered receipt, flat: the fields of `Receipt` after the id, its state by value, then the digest. A tuple of
# nothing but strings and numbers is let go by the cyclic collector, which would else walk a hundred thousand receipts.
_Known = tuple[str, str, float, float | None, int, str | None, float | None, int]
_STATE: Final = 1
_DIGEST: Final = 7


def _packed(receipt: Receipt, digest: int) -> _Known:
    return (
        receipt.task_type,
        receipt.state._value_,  # what `value` gives, without the two calls of its descriptor
        receipt.accepted_at,
        receipt.confirmed_at,
        receipt.attempts,
        receipt.reason,
        receipt.next_attempt_at,
        digest,
    )


def digest_of(envelope: Envelope) -> int:
    """Equal for equal content. Python's keyed hash of bytes: good within one process, which is all it is for."""
    return hash((envelope.routing_key, envelope.body))


DOUBTS_KEPT: Final = 10_000
"""Ids whose calls ended in the midst of a commit: a second's worth of a slow disk."""


class ReceiptBook:
    """Recent tasks by id; the oldest settled ones leave first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._under_way: dict[str, Accepting] = {}
        self._settled: OrderedDict[str, _Known] = OrderedDict()
        self._doubtful: OrderedDict[str, None] = OrderedDict()
        self.due = DueTimes()
        """Of the tasks that this process spooled and that, as far as it knows, nobody published since."""

    @property
    def under_way(self) -> int:
        """Tasks whose callers still wait for a receipt."""
        return len(self._under_way)

    def begin(
        self, envelope: Envelope, now: float, deadline: float, until: float, *, chosen_id: bool, slow: bool
    ) -> Accepting | None:
        """Start a task; None if its id is under way or confirmed, with the same content: then wait for `known`.

        Nothing leaves `confirmed`. A task that was spooled may have moved since without our hearing of it: another
        instance drained it, the command line removed it from the dead letters. One whose call ended in the midst of
        its commit may be in the spool. So there the spool has the word, and the id is claimed as one that the caller
        chose.

        Raises: TaskConflict, if the id is known with other content.
        """
        task_id, digest = envelope.task_id, digest_of(envelope)
        flying, settled = self._under_way.get(task_id), self._settled.get(task_id)
        if flying is not None:
            known = flying.digest
        elif settled is not None and settled[_STATE] == TaskState.CONFIRMED:
            known = settled[_DIGEST]
        else:
            asked = settled is not None or task_id in self._doubtful
            accepting = self._under_way[task_id] = Accepting(
                envelope, digest, now, deadline, until, chosen_id or asked, slow or asked
            )
            return accepting
        if digest != known:
            raise TaskConflict(
                f"task id {task_id} was accepted before with other content; use a new id or Idempotency-Key"
            )
        return None

    async def known(self, task_id: str) -> Receipt | None:
        """The receipt of a task that is known, waiting for it if it is under way; None if that was refused.

        Race: A begins id 7; B publishes the same id and waits here; A is refused (spool full). B then gets None
        and starts an attempt of its own, rather than a receipt for a task that nobody accepted.
        """
        accepting = self._under_way.get(task_id)
        if accepting is not None:
            if accepting.followers is None:
                accepting.followers = asyncio.get_running_loop().create_future()
            await shielded(accepting.followers)
        return self.settled(task_id)

    def finish(self, accepting: Accepting, receipt: Receipt) -> Receipt:
        """The caller's receipt: from now on the task is accepted."""
        self._release(accepting)
        if accepting.trace is not None:
            accepting.trace.end(accepting.envelope, receipt.state.value)
        self._remember(receipt, accepting.digest)
        if len(self._settled) > self._limit:
            oldest, _ = self._settled.popitem(last=False)
            self.due.drop(oldest)
        return receipt

    def forget(self, accepting: Accepting) -> None:
        """Refused or cancelled: nothing was accepted. Does nothing to a finished one."""
        task_id = accepting.envelope.task_id
        if self._under_way.get(task_id) is not accepting:
            return
        self._release(accepting)
        if accepting.trace is not None:
            accepting.trace.end(accepting.envelope, "abandoned")
        if accepting.committing:
            self._doubtful[task_id] = None
            if len(self._doubtful) > DOUBTS_KEPT:
                self._doubtful.popitem(last=False)

    def find(self, task_id: str) -> Receipt | None:
        """The receipt as of now; of a task under way, what it would say."""
        accepting = self._under_way.get(task_id)
        if accepting is None:
            return self.settled(task_id)
        return Receipt(task_id, accepting.envelope.task_type, accepting.state, accepting.accepted_at)

    def settled(self, task_id: str) -> Receipt | None:
        known = self._settled.get(task_id)
        if known is None:
            return None
        task_type, state, accepted_at, confirmed_at, attempts, reason, next_at, _ = known
        return Receipt(task_id, task_type, TaskState(state), accepted_at, confirmed_at, attempts, reason, next_at)

    def update(self, receipt: Receipt) -> None:
        """A remembered task moved on."""
        known = self._settled.get(receipt.task_id)
        if known is not None:
            self._remember(receipt, known[_DIGEST])

    def replayed(self, task_ids: Iterable[str]) -> None:
        """Dead letters went back to waiting."""
        for task_id in task_ids:
            receipt = self.settled(task_id)
            if receipt is not None and receipt.state in {TaskState.DEAD, TaskState.EXPIRED}:
                state = advance(receipt.state, Move.REPLAY)
                self.update(replace(receipt, state=state, attempts=0, reason="replayed"))

    def removed(self, task_ids: Iterable[str]) -> None:
        """Dead letters were removed for good: their ids are free again."""
        for task_id in task_ids:
            receipt = self.settled(task_id)
            if receipt is not None and receipt.state in {TaskState.DEAD, TaskState.EXPIRED}:
                del self._settled[task_id]

    def _remember(self, receipt: Receipt, digest: int) -> None:
        self._settled[receipt.task_id] = _packed(receipt, digest)
        if receipt.state is TaskState.SPOOLED:
            self.due.add(receipt.task_id, receipt.next_attempt_at or 0.0)  # no time is known of one that is due at once
        elif len(self.due):
            self.due.drop(receipt.task_id)

    def _release(self, accepting: Accepting) -> None:
        task_id = accepting.envelope.task_id
        if self._under_way.get(task_id) is accepting:  # else it was abandoned, and the id is another call's by now
            del self._under_way[task_id]
        if accepting.followers is not None and not accepting.followers.done():
            accepting.followers.set_result(None)
