"""Copies of dead letters on a queue of the broker (`ML_DLQ_PUBLISH`), for tools that watch queues and not us.

The dead letter itself is kept in the spool in any case: that is the one that is shown, replayed and purged. The copy
goes first and the burial second, so that no copy is missing; a crash between the two sends it twice.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Final

from mlproducer.delivery.guard import Guard
from mlproducer.envelope.dead import dead_copy
from mlproducer.events import BreakerState
from mlproducer.outcome import Confirmed, Nacked, NotSent, NotSentCause, Outcome, Returned, Unsure
from mlproducer.ports import Broker, Clock
from mlproducer.rows import Acceptance, Again, Bury, Lease, Settlement

MOST_SENT: Final = 10_000
"""Copies that were confirmed late, of tasks that are not buried yet; the oldest are forgotten first."""


class Copies:
    """`queue` is None where no copies are wanted. `confirm_timeout` in seconds."""

    def __init__(
        self, broker: Broker, guard: Guard, clock: Clock, *, queue: str | None, exchange: str, confirm_timeout: float
    ) -> None:
        self._broker = broker
        self._guard = guard
        self._clock = clock
        self._queue = queue
        self._exchange = exchange
        self._confirm_timeout = confirm_timeout
        self._sent: OrderedDict[Acceptance, None] = OrderedDict()
        """Whose copy was answered after its burial was put off: no second one is sent."""

    def ready(self) -> bool:
        """A burial may go ahead now: its copy can be sent, or none is wanted. An open breaker spares the broker."""
        return self._queue is None or (self._broker.obstacle is None and self._guard.state() is BreakerState.CLOSED)

    async def publish(self, settlements: list[Settlement], until: float) -> None:
        """Send a copy for each burial among them. One that the broker did not answer for is put off: its row goes back,
        with its attempts as spent as they are, and is buried the next time. So is one that could not be answered for
        before the leases end, `until` on the monotonic clock. One whose answer may come late is put off for as long; if
        it comes, the burial needs no other copy. One that the broker refuses (there is no such queue) does
        not keep the task from being buried.
        """
        if self._queue is None:
            return
        deadline = self._clock.monotonic() + self._confirm_timeout
        burials = [
            (n, lease, verdict)
            for n, (lease, verdict) in enumerate(settlements)
            if isinstance(verdict, Bury) and self._sent.pop(lease.row.acceptance, self) is self
        ]
        outcomes: Sequence[Outcome] = [NotSent(NotSentCause.DEADLINE)] * len(burials)
        if deadline <= until and self.ready():
            outcomes = await asyncio.gather(*(self._copy(self._queue, *each[1:], deadline) for each in burials))
        for (n, lease, bury), outcome in zip(burials, outcomes, strict=True):
            if not _answered(outcome):
                settlements[n] = (lease, self._put_off(lease.row.acceptance, bury, outcome))

    async def _copy(self, queue: str, lease: Lease, bury: Bury, deadline: float) -> Outcome:
        copy = dead_copy(
            lease.row.envelope,
            queue=queue,
            exchange=self._exchange,
            reason=bury.reason,
            code=bury.code,
            text=bury.text,
            attempts=bury.attempts,
            at=bury.died_at,
        )
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def settle(outcome: Outcome) -> None:
            if not answer.done():  # else the drain was cancelled: the row stays leased
                answer.set_result(outcome)

        self._broker.publish(copy, settle, deadline=deadline)
        return await answer

    def _put_off(self, task: Acceptance, bury: Bury, outcome: Outcome) -> Again:
        delay = self._confirm_timeout
        if isinstance(outcome, Unsure) and outcome.late is not None:
            delay = outcome.late.window
            outcome.late.listen(partial(self._late, task))
        return Again(delay, bury.attempts, bury.reason, bury.text, False, bury.history)

    def _late(self, task: Acceptance, outcome: Outcome) -> None:
        if _answered(outcome):
            self._sent[task] = None
            if len(self._sent) > MOST_SENT:
                self._sent.popitem(last=False)


def _answered(outcome: Outcome) -> bool:
    match outcome:
        case Confirmed() | Nacked() | Returned():
            return True
        case NotSent(cause=cause):
            return cause is NotSentCause.TOO_LARGE
        case _:
            return False
