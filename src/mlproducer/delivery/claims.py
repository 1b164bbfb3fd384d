"""Ids that callers chose: the spool remembers them across restarts and instances (docs/adr/0007).

A random id is nobody else's, so its task needs no memory but its receipt. An id that the caller chose (`Task(id=…)`,
`Idempotency-Key`) may come again: after a restart, or at another instance at the same moment. So before its first
attempt it is *claimed* in the spool, and after its confirm the claim becomes a record:

    claim ──▶ attempt ──▶ confirmed ──▶ record, kept for ML_RECEIPT_RETENTION
      │          └─ not confirmed ──▶ row in the spool, in the claim's place; its record comes when it is drained
      └─ the id is known: the first receipt, or a conflict

Race: A claims, publishes, and dies before it could record the confirm. Its caller got no receipt. The claim lapses;
B, who waited for it, claims and publishes the same id again: a duplicate with the same task id, and one receipt.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Final, assert_never

from mlproducer.core.digest import content_digest
from mlproducer.core.lifecycle import Move, advance
from mlproducer.delivery.deadlines import Deadlines, is_late
from mlproducer.delivery.receipts import Accepting
from mlproducer.errors import NotInTime, SpoolUnavailable, TaskConflict
from mlproducer.events import PartFailed, SpoolFailed
from mlproducer.jobs import Jobs
from mlproducer.ports import Clock, Listener, Spool
from mlproducer.rows import Claim, DeadLetter, Known, Record, SpoolRow
from mlproducer.task import Envelope, Receipt, TaskState

LOOK_AGAIN: Final = 0.05
"""Seconds between two looks at a claim of another call or instance: it mostly ends within milliseconds."""
MARGIN: Final = 2.0
"""Seconds that a claim outlasts its call's deadline: a commit may be on its way."""
COMMIT: Final = 10.0
"""Seconds that a claim leaves for the commit after the direct attempt. A call may have hours for it
(`ML_SPOOL_OVERFLOW=wait`), but were its process killed, nobody else could publish the id for as long."""
REMEMBER: Final = 5.0
"""Seconds for the record of a confirm, which nobody waits for beyond the call's deadline."""


class Claims:
    """`retention` in seconds."""

    def __init__(self, spool: Spool, clock: Clock, tell: Listener, retention: float) -> None:
        self._spool = spool
        self._clock = clock
        self._tell = tell
        self._retention = retention
        self._deadlines = Deadlines(clock)
        self._jobs = Jobs(lambda error: tell(PartFailed("claims", error)))

    async def take(self, accepting: Accepting) -> Receipt | None:
        """Claim the id; None if it is ours now, else the receipt that was given for it.

        Raises: TaskConflict; SpoolUnavailable, since without the spool nobody can say whether the id is known;
        NotInTime.
        """
        envelope = accepting.envelope
        digest = content_digest(envelope)
        token = secrets.token_hex(8)
        while True:
            left = accepting.until - self._clock.monotonic()
            if left <= 0:
                raise NotInTime(f"another call is publishing task id {envelope.task_id}: ask again with the same id")
            hold = min(left, self._attempt_left(accepting) + COMMIT) + MARGIN
            claim = Claim(envelope.task_id, envelope.task_type, digest, accepting.accepted_at, token)
            # Race: the caller is cancelled while the store commits. The claim may stand then: it is noted before the
            # call, so that `drop` releases it whatever came of it.
            accepting.claim = claim
            try:
                known = await self._deadlines.by(accepting.until, self._spool.claim(claim, hold=hold))
            except asyncio.CancelledError as error:
                if not is_late(error):
                    raise
                raise NotInTime("the spool did not answer in time whether the task id is known") from None
            # A store whose answer was lost may show us our own claim when it is asked again.
            if known is None or (isinstance(known, Record) and known.token == token):
                return None
            accepting.claim = None
            if (receipt := receipt_of(known, envelope)) is not None:
                return receipt
            await asyncio.sleep(min(left, LOOK_AGAIN))

    async def confirmed(self, accepting: Accepting, at: float) -> None:
        """Remember the confirm. The task is safe whether this goes well or not, so it raises nothing."""
        claim, accepting.claim = accepting.claim, None
        if claim is None:
            return
        # Race: the caller is cancelled, or its deadline comes, while the store commits. The broker has the task by
        # now, and a claim that was left behind would block the id and then have it published again. So the record is
        # written whether anybody waits for it or not.
        job = self._jobs.spawn(self._remember(claim, at))
        await asyncio.wait([job], timeout=max(0.0, accepting.until - self._clock.monotonic()))

    def drop(self, accepting: Accepting) -> None:
        """The call came to nothing: let the next one claim at once. In the background, since nobody waits for it."""
        claim, accepting.claim = accepting.claim, None
        if claim is not None:
            self._jobs.spawn(self._release(claim))

    async def stop(self) -> None:
        """Wait for what is under way in the background."""
        await self._jobs.ended()

    def _attempt_left(self, accepting: Accepting) -> float:
        return max(0.0, accepting.deadline - self._clock.monotonic())

    async def _remember(self, claim: Claim, at: float) -> None:
        try:
            async with asyncio.timeout(REMEMBER):
                await self._spool.confirm(claim, confirmed_at=at, keep=self._retention)
        except (SpoolUnavailable, TimeoutError) as error:
            self._tell(SpoolFailed(f"task {claim.task_id} is confirmed, but not remembered: {error or 'no answer'}"))

    async def _release(self, claim: Claim) -> None:
        try:
            async with asyncio.timeout(MARGIN):
                await self._spool.release(claim.task_id, claim.token)
        except (SpoolUnavailable, TimeoutError):
            pass  # then it lapses; the watch over the spool knows


def receipt_of(known: Known, envelope: Envelope) -> Receipt | None:
    """The receipt that was given for this very task; None if a claim holds its id, so that there may be one soon.

    Raises: TaskConflict, if the id stands for other content, or for a dead letter.
    """
    task_id = envelope.task_id
    match known:
        case DeadLetter():
            raise TaskConflict(f"task id {task_id} is in the dead letter queue: replay or remove it, or use a new id")
        case SpoolRow():
            _same(content_digest(known.envelope), envelope)
            why = known.text or known.cause
            spooled = advance(TaskState.ACCEPTED, Move.SPOOL)
            return Receipt(
                task_id, envelope.task_type, spooled, known.accepted_at, None, known.attempts, why, known.due_at
            )
        case Record(confirmed_at=None):
            _same(known.digest, envelope)
            return None
        case Record():
            _same(known.digest, envelope)
            return Receipt(
                task_id, known.task_type, TaskState.CONFIRMED, known.accepted_at, known.confirmed_at, known.attempts
            )
        case _:
            assert_never(known)


def _same(digest: bytes, envelope: Envelope) -> None:
    if digest != content_digest(envelope):
        raise TaskConflict(
            f"task id {envelope.task_id} was accepted before with other content; use a new id or Idempotency-Key"
        )
