"""accept → encode → publish → settle: the straight line of a task through one process.

A task is encoded (or refused), tried once on the link if link, breaker and window admit it, and if that gives no
confirm it is committed in the spool. Only then its caller gets a receipt. The drain does the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import assert_never

from mlproducer.core.admission import SpoolGate
from mlproducer.core.lifecycle import Move, advance
from mlproducer.core.retry import Dead, RetryPolicy, Settled, Wait, decide
from mlproducer.delivery.attempts import Attempts
from mlproducer.delivery.drain import Drain
from mlproducer.delivery.health import Gauges
from mlproducer.delivery.receipts import Accepting, ReceiptBook, digest_of
from mlproducer.errors import InvalidTask, NotAccepting, RefusedTask, SpoolFull, TaskConflict
from mlproducer.events import TaskAccepted, TaskConfirmed, TaskRefused, TaskSpooled
from mlproducer.outcome import Confirmed, NotSent, NotSentCause, Outcome
from mlproducer.ports import Again, Broker, Bury, Clock, DeadLetter, Done, Listener, Settle, Spool, SpoolRow, Verdict
from mlproducer.task import Envelope, Receipt, Task, TaskState


class Pipeline:
    """Shared by `publish` (one coroutine a task) and `publish_many` (none)."""

    def __init__(
        self,
        *,
        encode: Callable[[Task], Envelope],
        attempts: Attempts,
        broker: Broker,
        spool: Spool,
        gate: SpoolGate,
        gauges: Gauges,
        policy: RetryPolicy,
        book: ReceiptBook,
        drain: Drain,
        clock: Clock,
        tell: Listener,
        confirm_timeout: float,
    ) -> None:
        self._encode = encode
        self._attempts = attempts
        self._broker = broker
        self._spool = spool
        self._gate = gate
        self._gauges = gauges
        self._policy = policy
        self._book = book
        self._drain = drain
        self._clock = clock
        self._tell = tell
        self._confirm_timeout = confirm_timeout
        self.accepting = False

    @property
    def under_way(self) -> int:
        """Calls that wait for their receipt."""
        return self._book.under_way

    def begin(self, task: Task, limit: float | None = None) -> Accepting | None:
        """Check and encode; None if the id is known with the same content (then see `known`).

        Raises: RefusedTask of every kind; nothing was accepted.
        """
        try:
            if not self.accepting:
                raise NotAccepting("the producer is not started, or is stopping: use it within `async with`")
            envelope = self._encode(task)
            now = self._clock.now()
            if envelope.expires_at is not None and envelope.expires_at <= now:
                raise InvalidTask("is in the past: the task could never run", field="expires")
            limit = self._confirm_timeout if limit is None else min(limit, self._confirm_timeout)
            return self._book.begin(envelope, now, self._clock.monotonic() + limit)
        except RefusedTask as error:
            self.refused(task, error)
            raise

    async def known(self, task: Task) -> Receipt | None:
        return await self._book.known(task.id)

    def attempt(self, accepting: Accepting, settle: Settle) -> None:
        """Start the direct attempt; `settle` is called exactly once, perhaps at once."""
        accepting.move(Move.PUBLISH)
        self._attempts.start(accepting.envelope, settle, deadline=accepting.deadline)

    def waits_for_eta(self, accepting: Accepting) -> bool:
        eta = accepting.envelope.eta
        return eta is not None and eta > self._clock.now()

    def paused(self) -> bool:
        return self._broker.paused

    async def writable(self, accepting: Accepting) -> bool:
        return await self._broker.writable(accepting.deadline)

    def confirmed(self, accepting: Accepting) -> Receipt:
        """The direct way's end: nothing was written to disk, nothing needs to be."""
        envelope, now, since = accepting.envelope, self._clock.now(), accepting.accepted_at
        accepting.move(Move.CONFIRM)
        receipt = Receipt(envelope.task_id, envelope.task_type, accepting.state, since, now)
        self._book.finish(accepting, receipt)
        tell = self._tell
        tell(TaskAccepted(envelope.task_id, envelope.task_type, envelope.size))
        tell(TaskConfirmed(envelope.task_id, envelope.task_type, max(0.0, now - since)))
        return receipt

    async def conclude(self, accepting: Accepting, outcome: Outcome) -> Receipt:
        """Turn the outcome of the direct attempt into a receipt: confirmed now, or spooled.

        Raises: SpoolFull, SpoolUnavailable.
        """
        decision = decide(
            outcome,
            attempts=0,
            policy=self._policy,
            now=self._clock.now(),
            rand=self._clock.random(),
            expires_at=accepting.envelope.expires_at,
        )
        match decision:
            case Settled():
                return self.confirmed(accepting)
            case Wait(due_at=due_at, attempts=attempts, cause=cause, text=text, alone=alone):
                return await self._commit(accepting, self._row(accepting, due_at, attempts, cause, text, alone=alone))
            case Dead(reason=reason, text=text, attempts=attempts):
                # Kept like any other: the row goes through the spool, and the drain buries it there.
                due_at = self._clock.now()
                return await self._commit(accepting, self._row(accepting, due_at, attempts, reason, text, alone=False))
            case _:
                assert_never(decision)

    async def defer(self, accepting: Accepting) -> Receipt:
        """A task with an `eta` waits in the spool rather than in a worker's memory."""
        eta = accepting.envelope.eta or 0.0
        return await self._commit(accepting, self._row(accepting, eta, 0, "eta", "not before its eta", alone=False))

    def abandon(self, accepting: Accepting) -> None:
        """The caller is gone or was refused: no receipt, so not accepted."""
        self._book.forget(accepting)

    def refused(self, task: Task, error: RefusedTask) -> None:
        self._tell(TaskRefused(task.task_type, type(error).__name__))

    def record(self, row: SpoolRow, verdict: Verdict) -> None:
        """The drain committed a verdict: recent receipts follow."""
        # Race: a caller is cancelled while its row commits, publishes the same id again, and is in flight when the
        # drain confirms the row. Only a receipt that stands for the row, a spooled one, follows it.
        receipt = self._book.settled(row.envelope.task_id)
        if receipt is None or receipt.state is not TaskState.SPOOLED:
            return
        flying = advance(receipt.state, Move.PUBLISH)
        match verdict:
            case Done():
                state = advance(flying, Move.CONFIRM)
                now = self._clock.now()
                receipt = replace(receipt, state=state, confirmed_at=now, reason=None, next_attempt_at=None)
            case Again(due_at=due_at, attempts=attempts, text=text, cause=cause):
                receipt = replace(receipt, attempts=attempts, reason=text or cause, next_attempt_at=due_at)
            case Bury(reason=reason, attempts=attempts, text=text):
                state = advance(flying, Move.EXPIRE if reason == "expired" else Move.BURY)
                receipt = replace(receipt, state=state, attempts=attempts, reason=text or reason, next_attempt_at=None)
            case _:
                assert_never(verdict)
        self._book.update(receipt)

    def _row(  # one column each
        self, accepting: Accepting, due_at: float, attempts: int, cause: str, text: str, *, alone: bool
    ) -> SpoolRow:
        envelope = accepting.envelope
        if envelope.eta is not None:
            due_at = max(due_at, envelope.eta)
        return SpoolRow(envelope, accepting.accepted_at, due_at, attempts, cause, text, alone)

    async def _check_known(self, envelope: Envelope) -> bool:
        """The spool knows the id, from before a restart. Raises: TaskConflict, unless it is this very task, waiting.

        Race: the row that was there is drained between the put and this look. Then nothing is found, and the caller
        puts again.
        """
        found = await self._spool.find(envelope.task_id)
        if isinstance(found, DeadLetter):
            raise TaskConflict(
                f"task id {envelope.task_id} is in the dead letter queue: replay or remove it, or use a new id"
            )
        if found is not None and digest_of(found.envelope) != digest_of(envelope):
            raise TaskConflict(f"task id {envelope.task_id} waits in the spool with other content; use a new id")
        return found is not None

    async def _commit(self, accepting: Accepting, row: SpoolRow) -> Receipt:
        envelope, gauges = accepting.envelope, self._gauges
        full = self._gate.check(gauges.spooled_tasks, gauges.spooled_bytes, envelope.size)
        if full is not None:
            raise SpoolFull(full, retry_after=5.0)
        gauges.added(envelope.size)
        while not await self._spool.put(row):
            if await self._check_known(envelope):
                break
        # From here the task is safe. No await may follow: a cancellation would take the receipt away.
        accepting.move(Move.SPOOL)
        why, since = row.text or row.cause, row.accepted_at
        receipt = Receipt(
            envelope.task_id, envelope.task_type, accepting.state, since, None, row.attempts, why, row.due_at
        )
        self._book.finish(accepting, receipt)
        self._tell(TaskAccepted(envelope.task_id, envelope.task_type, envelope.size))
        self._tell(TaskSpooled(envelope.task_id, envelope.task_type, row.cause))
        self._drain.wake()
        return receipt


async def publish_one(pipeline: Pipeline, task: Task, timeout: float | None) -> Receipt:  # noqa: ASYNC109  # a deadline over several awaits, of which the last (the commit) must not be cut off
    """One task from call to receipt. See `Engine.publish`."""
    while (accepting := pipeline.begin(task, timeout)) is None:
        known = await pipeline.known(task)
        if known is not None:
            return known
    try:
        if pipeline.waits_for_eta(accepting):
            return await pipeline.defer(accepting)
        outcome = await _direct(pipeline, accepting)
        if type(outcome) is Confirmed:
            return pipeline.confirmed(accepting)
        return await pipeline.conclude(accepting, outcome)
    except RefusedTask as error:
        pipeline.refused(task, error)
        raise
    finally:
        pipeline.abandon(accepting)  # does nothing to a task that got its receipt


async def _direct(pipeline: Pipeline, accepting: Accepting) -> Outcome:
    if pipeline.paused() and not await pipeline.writable(accepting):
        accepting.move(Move.PUBLISH)
        return NotSent(NotSentCause.DEADLINE, text="the socket took nothing more before the deadline")
    answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    def settle(outcome: Outcome) -> None:
        # False if the caller was cancelled meanwhile: nobody was promised anything, and the ledger is whole.
        if not answer.done():
            answer.set_result(outcome)

    pipeline.attempt(accepting, settle)
    return await answer
