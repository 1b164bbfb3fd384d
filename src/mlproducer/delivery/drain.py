"""The drain: publish what is due from the spool, batch by batch, while the link is up.

Each batch is leased, published through the same window, breaker and ledger as new tasks, and its verdicts are
committed in one group. The wait for the batch's confirms is what paces it. A crash between any two steps leaves
the row leased; when the lease ends it is published again with the same task id: at least once, never lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import assert_never

from mlproducer.core.retry import Dead, RetryPolicy, Settled, Wait, decide
from mlproducer.delivery.attempts import Attempts
from mlproducer.errors import SpoolUnavailable
from mlproducer.events import SpoolFailed, TaskConfirmed, TaskDeadLettered, TaskRetried
from mlproducer.outcome import NotSent, NotSentCause, Outcome
from mlproducer.ports import Again, Broker, Bury, Clock, Done, Lease, Listener, Spool, SpoolRow, Verdict

Told = Callable[[SpoolRow, Verdict], None]


class Drain:
    """One loop over the spool. `verdict_told` hears of each committed verdict."""

    def __init__(
        self,
        spool: Spool,
        broker: Broker,
        attempts: Attempts,
        policy: RetryPolicy,
        clock: Clock,
        tell: Listener,
        verdict_told: Told,
        *,
        batch: int,
        lease: float,
        poll: float,
        confirm_timeout: float,
    ) -> None:
        self._spool = spool
        self._broker = broker
        self._attempts = attempts
        self._policy = policy
        self._clock = clock
        self._tell = tell
        self._verdict_told = verdict_told
        self._batch = batch
        self._lease = lease
        self._poll = poll
        self._confirm_timeout = confirm_timeout
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()

    def wake(self) -> None:
        """Something is due, or the link is up again."""
        self._wake.set()

    def stop(self) -> None:
        """Lease nothing more; `run` returns when the batch under way is settled."""
        self._stopping.set()
        self._wake.set()

    async def run(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                busy = await self._round()
            except SpoolUnavailable as error:
                self._tell(SpoolFailed(str(error)))
                busy = False
            if not busy:
                await self._sleep()

    async def _sleep(self) -> None:
        # The poll finds rows that another process replayed, and rows whose time has come.
        try:
            async with asyncio.timeout(self._poll):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _round(self) -> bool:
        """One batch. True if there may be more to do at once."""
        link = self._broker.view()
        if not link.connected or link.blocked:
            return False
        now = self._clock.now()
        leases = await self._spool.lease(self._batch, now=now, until=now + self._lease)
        if not leases:
            return False
        deadline = self._clock.monotonic() + self._confirm_timeout
        # All of the batch must end before the next begins, even where one verdict could not be committed.
        moved = await asyncio.gather(*(self._one(lease, deadline) for lease in leases), return_exceptions=True)
        for result in moved:
            if isinstance(result, BaseException):
                raise result
        return any(moved)

    async def _one(self, lease: Lease, deadline: float) -> bool:
        """Publish one row and commit its verdict. True unless an outage sent it back as it was."""
        row = lease.row
        verdict = self._verdict_before(row)
        outcome: Outcome | None = None
        if verdict is None:
            self._tell(TaskRetried(row.envelope.task_id, row.envelope.task_type, row.attempts + 1))
            outcome = await self._publish(row, deadline)
            verdict = self._verdict_after(row, outcome)
        if await self._spool.settle(lease, verdict):
            self._say(row, verdict)
            self._verdict_told(row, verdict)
        return not isinstance(outcome, NotSent) or outcome.cause is NotSentCause.CHANNEL_REFUSED

    async def _publish(self, row: SpoolRow, deadline: float) -> Outcome:
        if self._broker.paused and not await self._broker.writable(deadline):
            return NotSent(NotSentCause.DEADLINE)
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def settle(outcome: Outcome) -> None:
            # False only if this drain was cancelled: the row stays leased, and is published again after the lease.
            if not answer.done():
                answer.set_result(outcome)

        self._attempts.start(row.envelope, settle, deadline=deadline, alone=row.alone)
        return await answer

    def _verdict_before(self, row: SpoolRow) -> Verdict | None:
        """What needs no attempt: expired tasks, and those whose attempts were all spent before they came here."""
        now = self._clock.now()
        expires_at = row.envelope.expires_at
        if expires_at is not None and expires_at <= now:
            return Bury(now, row.attempts, "expired", None, "the task expired before it could be published")
        if row.attempts >= self._policy.max_attempts:
            return Bury(now, row.attempts, row.cause, None, row.text)
        return None

    def _verdict_after(self, row: SpoolRow, outcome: Outcome) -> Verdict:
        now = self._clock.now()
        decision = decide(
            outcome,
            attempts=row.attempts,
            policy=self._policy,
            now=now,
            rand=self._clock.random(),
            expires_at=row.envelope.expires_at,
        )
        match decision:
            case Settled():
                return Done()
            case Wait(due_at=due_at, attempts=attempts, cause=cause, text=text, alone=alone):
                # Once alone, always alone: one refusal in company was enough to suspect the row.
                return Again(due_at, attempts, cause, text, alone or row.alone)
            case Dead(reason=reason, code=code, text=text, attempts=attempts):
                return Bury(now, attempts, reason, code, text)
            case _:
                assert_never(decision)

    def _say(self, row: SpoolRow, verdict: Verdict) -> None:
        task_id, task_type = row.envelope.task_id, row.envelope.task_type
        match verdict:
            case Done():
                self._tell(TaskConfirmed(task_id, task_type, max(0.0, self._clock.now() - row.accepted_at)))
            case Bury(reason=reason, text=text):
                self._tell(TaskDeadLettered(task_id, task_type, reason, text))
            case Again():
                pass
            case _:
                assert_never(verdict)
