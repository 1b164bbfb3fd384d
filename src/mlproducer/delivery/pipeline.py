"""accept → encode → publish → settle: the straight line of a task through one process.

A task is encoded (or refused), tried once on the link if link, breaker and window admit it, and if that gives no
confirm it is committed in the spool. Only then its caller gets a receipt. The drain does the rest.

    begin ─┬─ quick: attempt ─▶ confirmed
           └─ slow:  claim check? claim? eta? ─▶ attempt ─▶ confirmed, or conclude ─▶ spooled
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol, assert_never

from mlproducer.core.lifecycle import Move, advance
from mlproducer.delivery.answer import Answer
from mlproducer.delivery.attempts import Attempts
from mlproducer.delivery.blob_use import BlobUse, ClaimCheck
from mlproducer.delivery.claims import Claims
from mlproducer.delivery.drain import Drain
from mlproducer.delivery.intake import Intake
from mlproducer.delivery.late import LateAnswers
from mlproducer.delivery.link import Opening
from mlproducer.delivery.receipts import Accepting, ReceiptBook
from mlproducer.delivery.traces import CallTrace, Tracer
from mlproducer.delivery.verdicts import Verdicts
from mlproducer.errors import BlobStoreUnavailable, InvalidTask, NotAccepting, NotInTime, RefusedTask
from mlproducer.events import TaskAccepted, TaskConfirmed, TaskRefused, TaskSpooled
from mlproducer.outcome import Confirmed, LateAnswer, NotSent, NotSentCause, Outcome, Unsure, UnsureCause
from mlproducer.ports import Broker, Clock, Listener, Settle
from mlproducer.rows import Again, Bury, Done, NewRow, SpoolRow, Verdict
from mlproducer.task import Envelope, Receipt, Task, TaskState


class Encode(Protocol):
    """See `envelope.encode.Encoder.encode`."""

    def __call__(self, task: Task, carried: Mapping[str, str] | None = None, /) -> Envelope: ...


class Pipeline:
    """Shared by `publish` (one coroutine a task) and `publish_many` (none). Timeouts in seconds."""

    def __init__(
        self,
        *,
        encode: Encode,
        claim_check: ClaimCheck | None,
        attempts: Attempts,
        broker: Broker,
        verdicts: Verdicts,
        claims: Claims,
        claim_all: bool,
        intake: Intake,
        book: ReceiptBook,
        drain: Drain,
        late: LateAnswers,
        opening: Opening,
        clock: Clock,
        tell: Listener,
        tracer: Tracer,
        confirm_timeout: float,
        accept_timeout: float,
        late_for: float,
    ) -> None:
        self._encode = encode
        self._claim_check = claim_check
        self._attempts = attempts
        self._broker = broker
        self._verdicts = verdicts
        self._claims = claims
        self._claim_all = claim_all
        self._intake = intake
        self._book = book
        self._drain = drain
        self._late = late
        self._opening = opening
        self._clock = clock
        self._tell = tell
        self._tracer = tracer
        self._accept_timeout = accept_timeout
        self._late_for = late_for
        self._spans = spans(accept_timeout, confirm_timeout)
        """Of a call that does not say for how long, while answers come in time."""
        self.accepting = False
        self.blobs = None if claim_check is None else BlobUse()

    @property
    def under_way(self) -> int:
        """Calls that wait for their receipt."""
        return self._book.under_way

    def begin(self, task: Task, timeout: float | None = None) -> Accepting | None:
        """Check and encode; None if the id is known with the same content (then see `known`).

        Raises: RefusedTask of every kind; nothing was accepted.
        """
        trace = self._tracer.call(task)
        try:
            if not self.accepting:
                raise NotAccepting("the producer is not started, or is stopping: use it within `async with`")
            envelope = self._encode(task) if trace is None else self._encode(task, trace.headers)
            now = self._clock.now()
            if envelope.expires_at is not None and envelope.expires_at <= now:
                raise InvalidTask("is in the past: the task could never run", field="expires")
            started = self._clock.monotonic()
            hurried = False
            if timeout is None and self._attempts.on_time:
                direct, span = self._spans
            else:
                wait = self._attempts.wait_for(envelope.routing_key)
                direct, span = spans(self._accept_timeout if timeout is None else timeout, wait)
                hurried = direct < wait
            chosen_id = self._claim_all or "id" in task.model_fields_set
            large = self._claim_check is not None and envelope.size > self._claim_check.threshold
            slow = chosen_id or large or (envelope.eta is not None and envelope.eta > now)
            accepting = self._book.begin(
                envelope, now, started + direct, started + span, chosen_id=chosen_id, slow=slow
            )
        except RefusedTask as error:
            self.refused(task, error, trace)
            if trace is not None:
                trace.end(None, "refused")
            raise
        if trace is not None:
            self._follow(trace, accepting)
        if hurried and accepting is not None:
            accepting.hurried = True
        return accepting

    def _follow(self, trace: CallTrace, accepting: Accepting | None) -> None:
        if accepting is None:
            trace.end(None, "known")  # another call has the task: that one's trace goes with it
        else:
            accepting.trace = trace

    def end_of(self, timeout: float | None) -> float:
        """On the monotonic clock: when a call that begins now is over."""
        return self._clock.monotonic() + (self._accept_timeout if timeout is None else timeout)

    def left(self, end: float) -> float:
        return end - self._clock.monotonic()

    async def known(self, task: Task, end: float) -> Receipt | None:
        """See `ReceiptBook.known`; waits until `end`. Raises: NotInTime."""
        try:
            async with asyncio.timeout(self.left(end)):
                return await self._book.known(task.id)
        except TimeoutError:
            late = NotInTime(f"another call is publishing task id {task.id}: ask again with the same id")
            self.refused(task, late)
            raise late from None

    async def prepare(self, accepting: Accepting) -> Receipt | None:
        """What a slow task needs before its attempt. A receipt, if it is safe by now: known, or waiting for its eta."""
        envelope = accepting.envelope
        if self._claim_check is not None and envelope.size > self._claim_check.threshold:
            envelope = accepting.envelope = await self._check_in(self._claim_check, accepting)
        if accepting.chosen_id:
            known = await self._claims.take(accepting)
            if known is not None:
                return self._book.finish(accepting, known)
        if envelope.eta is not None and envelope.eta > self._clock.now():
            row = NewRow(envelope, accepting.accepted_at, cause="eta", text="not before its eta")
            return self._spooled(accepting, row, await self._intake.commit(accepting, row))
        return None

    async def _check_in(self, claim_check: ClaimCheck, accepting: Accepting) -> Envelope:
        started, use = self._clock.monotonic(), BlobUse()
        try:
            async with asyncio.timeout(accepting.until - started):
                envelope = await claim_check.apply(accepting.envelope)
            use.seconds = self._clock.monotonic() - started
        except TimeoutError:
            use.error = "it did not take a payload before the caller's deadline"
            raise NotInTime(
                "the blob store did not take the payload before the deadline: raise the call's timeout, or see "
                "ML_BLOB_URL"
            ) from None
        except BlobStoreUnavailable as error:
            use.error = str(error)
            raise
        finally:
            if use.error or use.seconds is not None:  # not of a payload that was refused for itself
                self.blobs = use
        return envelope

    def hopeless(self, accepting: Accepting) -> NotSent | None:
        """In an outage the attempt's outcome is known before it is made, and so it is not made, unless for a trace."""
        return self._attempts.hopeless() if accepting.trace is None else None

    def unanswered(self, late: LateAnswer) -> Unsure:
        """What an attempt came to whose caller waits no longer."""
        obstacle = self._attempts.hopeless()
        if obstacle is not None and obstacle.cause is NotSentCause.BLOCKED:
            return Unsure(UnsureCause.BLOCKED, obstacle.text, late=late)
        text = "the broker did not answer before the call's own deadline"
        return Unsure(UnsureCause.CONFIRM_TIMEOUT, text, late=late)

    def attempt(self, accepting: Accepting, settle: Settle) -> None:
        """Start the direct attempt; `settle` is called exactly once, perhaps at once."""
        accepting.move(Move.PUBLISH)
        deadline = accepting.deadline
        if accepting.hurried:
            deadline = self._clock.monotonic() + self._attempts.wait_for(accepting.envelope.routing_key)
        if accepting.trace is not None:
            settle = accepting.trace.attempt(accepting.envelope, settle)
        self._attempts.start(accepting.envelope, settle, deadline=deadline)

    def listens_for(self, accepting: Accepting) -> float:
        """Seconds for which the attempt of a hurried caller may still be answered, in time for the broker or late."""
        return self._attempts.wait_for(accepting.envelope.routing_key) + self._late_for

    def paused(self) -> bool:
        return self._broker.paused

    async def writable(self, accepting: Accepting) -> bool:
        return await self._broker.writable(accepting.deadline)

    def confirmed(self, accepting: Accepting, at: float | None = None) -> Receipt:
        """The direct way's end: nothing was written to disk, nothing needs to be. `at` in Unix seconds; None is now."""
        envelope, since = accepting.envelope, accepting.accepted_at
        now = self._clock.now() if at is None else at
        accepting.move(Move.CONFIRM)
        receipt = Receipt(envelope.task_id, envelope.task_type, accepting.state, since, now)
        self._book.finish(accepting, receipt)
        tell = self._tell
        tell(TaskAccepted(envelope.task_id, envelope.task_type, envelope.size))
        tell(TaskConfirmed(envelope.task_id, envelope.task_type, max(0.0, now - since)))
        return receipt

    async def conclude(self, accepting: Accepting, outcome: Outcome | None = None) -> Receipt:
        """From a task that was begun to its receipt: confirmed now, or spooled. `outcome` is that of its direct
        attempt, if it was made already.

        Raises: SpoolFull, SpoolUnavailable, TaskConflict, NotInTime.
        """
        if outcome is None:
            if accepting.slow:
                known = await self.prepare(accepting)
                if known is not None:
                    return known
                accepting.hurried = True
            if self._opening.under_way:
                await self._first_connect(accepting)
            outcome = self.hopeless(accepting) or await _direct(self, accepting)
        if type(outcome) is Confirmed and accepting.claim is None:
            return self.confirmed(accepting)
        row = self._verdicts.first(accepting.envelope, accepting.accepted_at, outcome)
        if row is not None:
            return await self._spool(accepting, row, outcome)
        now = self._clock.now()
        await self._claims.confirmed(accepting, now)
        return self.confirmed(accepting, now)

    async def _spool(self, accepting: Accepting, row: NewRow, outcome: Outcome) -> Receipt:
        """Its attempt may be answered while the row is committed, or after that: then the row is settled."""
        if not self._late.opened(row.acceptance, outcome):
            return self._spooled(accepting, row, await self._intake.commit(accepting, row))
        waits = True
        try:
            known = await self._intake.commit(accepting, row)
            waits = known is None
            return self._spooled(accepting, row, known)
        finally:
            # After the receipt, which follows the row. Of a call that was cancelled the row may wait as well.
            if waits:
                self._late.written(row.waiting(row.first_due(self._clock.now())))
            else:
                self._late.done(row.acceptance)  # another call's row has the id

    @property
    def opening(self) -> bool:
        """The first connect is under way: `conclude` waits for it."""
        return self._opening.under_way

    async def _first_connect(self, accepting: Accepting) -> None:
        """A script publishes as soon as it has a producer: spooled, its task would wait for a producer that may never
        come. The broker still has its full time: see `Accepting.hurried`.
        """
        await self._opening.wait(self.left(accepting.deadline))
        accepting.hurried = True

    def abandon(self, accepting: Accepting) -> None:
        """The caller is gone or was refused: no receipt, so not accepted. Does nothing to one that got its receipt."""
        self._book.forget(accepting)
        self._claims.drop(accepting)

    def refused(self, task: Task, error: RefusedTask, trace: CallTrace | None = None) -> None:
        self._tell(TaskRefused(task.task_type, type(error).__name__, task.id))
        if trace is not None:
            trace.refused(error)

    def close(self) -> None:
        """Accept nothing more. Who waits for room in the spool is refused now: there will be none for him."""
        self.accepting = False
        self._intake.close()

    async def stop(self) -> None:
        """After the link is closed: what came late is settled."""
        await self._late.stop()
        await self._claims.stop()
        if self._claim_check is not None:
            self._claim_check.close()

    def record(self, row: SpoolRow, verdict: Verdict) -> None:
        """The drain committed a verdict: recent receipts follow."""
        # Race: a caller is cancelled while its row commits, publishes the same id again, and is in flight when the
        # drain confirms the row. Only a receipt that stands for the row, a spooled one, follows it.
        receipt = self._book.settled(row.envelope.task_id)
        if receipt is None or receipt.state is not TaskState.SPOOLED:
            return
        flying = advance(receipt.state, Move.PUBLISH)
        match verdict:
            case Done(confirmed_at=at):
                state = advance(flying, Move.CONFIRM)
                receipt = replace(receipt, state=state, confirmed_at=at, reason=None, next_attempt_at=None)
            case Again(delay=delay, attempts=attempts, text=text, cause=cause):
                due_at = self._clock.now() + delay
                receipt = replace(receipt, attempts=attempts, reason=text or cause, next_attempt_at=due_at)
            case Bury(reason=reason, attempts=attempts, text=text):
                state = advance(flying, Move.EXPIRE if reason == "expired" else Move.BURY)
                receipt = replace(receipt, state=state, attempts=attempts, reason=text or reason, next_attempt_at=None)
            case _:
                assert_never(verdict)
        self._book.update(receipt)

    def _spooled(self, accepting: Accepting, row: NewRow, known: Receipt | None) -> Receipt:
        """The task is safe. Nothing may be waited for any more: a cancellation would take the receipt away."""
        if known is not None:
            return self._book.finish(accepting, known)
        envelope = accepting.envelope
        accepting.move(Move.SPOOL)
        why, since, due_at = row.text or row.cause, row.accepted_at, row.first_due(self._clock.now())
        receipt = Receipt(envelope.task_id, envelope.task_type, accepting.state, since, None, row.attempts, why, due_at)
        self._book.finish(accepting, receipt)
        self._drain.wake()
        self._tell(TaskAccepted(envelope.task_id, envelope.task_type, envelope.size))
        self._tell(TaskSpooled(envelope.task_id, envelope.task_type, row.cause, row.attempts))
        return receipt


def spans(timeout: float, wait: float) -> tuple[float, float]:
    """How long the direct attempt may take, which waits for `wait` seconds at most, and how long the whole call.

    A fifth of the time, at most a second, is kept for the commit: a direct attempt that used up the call's last
    moment would leave none to make the task safe.
    """
    return min(wait, timeout - min(1.0, timeout / 5)), timeout


async def publish_one(pipeline: Pipeline, task: Task, timeout: float | None) -> Receipt:  # noqa: ASYNC109  # a deadline over several awaits, each bounded by what is left of it
    """One task from call to receipt. See `Engine.publish`."""
    end: float | None = None
    while (accepting := pipeline.begin(task, timeout)) is None:
        end = pipeline.end_of(timeout) if end is None else end
        known = await pipeline.known(task, end)
        if known is not None:
            return known
        timeout = pipeline.left(end)
    try:
        return await pipeline.conclude(accepting)
    except RefusedTask as error:
        pipeline.refused(task, error, accepting.trace)
        raise
    finally:
        pipeline.abandon(accepting)


async def _direct(pipeline: Pipeline, accepting: Accepting) -> Outcome:
    """The outcome of the direct attempt, or at the call's own deadline what is known of it by then."""
    if pipeline.paused() and not await pipeline.writable(accepting):
        accepting.move(Move.PUBLISH)
        return NotSent(NotSentCause.DEADLINE, text="the socket took nothing more before the deadline")
    left = pipeline.left(accepting.deadline) if accepting.hurried else None
    if left is not None and left <= 0:
        accepting.move(Move.PUBLISH)
        return NotSent(NotSentCause.DEADLINE, text="no time was left for an attempt")
    answer = Answer()
    pipeline.attempt(accepting, answer)
    if answer.outcome is None:
        # The broker has its full time all the same. That it did not answer within a hurried caller's is no failure of
        # it: taken for one, it would cost a channel and all that is in flight on it, and ten of them the breaker's
        # opening. It is listened for meanwhile: the task waits, and a copy would be one too many.
        await answer.wait(left)
    if answer.outcome is not None:
        return answer.outcome
    answer.late = LateAnswer(pipeline.listens_for(accepting))
    return pipeline.unanswered(answer.late)
