"""The shell around `core.late`: it listens to late answers, settles their rows and tells what came of them.

A row waits in the spool, put off for as long as its attempt may be answered. Nobody holds it, so it is settled by a
lease without a token; the store says no if somebody has leased it meanwhile, and then that one settles it, or if the id
is another task's by now.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Sequence
from contextvars import Context
from functools import partial
from typing import Protocol

from mlproducer.core.late import Confirm, LateBook, Settle
from mlproducer.delivery.told import Told
from mlproducer.delivery.verdicts import Verdicts
from mlproducer.errors import SpoolUnavailable
from mlproducer.events import PartFailed
from mlproducer.jobs import Jobs
from mlproducer.outcome import Outcome, Unsure, UnsureCause
from mlproducer.ports import Listener, Spool
from mlproducer.rows import Acceptance, Again, Bury, Lease, Settlement, SpoolRow, Verdict

AT_ONCE = 500
"""Rows that are settled in one transaction."""


class Flight(Protocol):
    """An attempt of the drain that is under way."""

    def confirmed_before(self) -> None:
        """An earlier attempt of its task was confirmed."""
        ...


class LateAnswers:
    """Said by the pipeline and the drain: when an attempt is unsure and may be answered, and where its row is."""

    def __init__(self, spool: Spool, verdicts: Verdicts, told: Told, tell: Listener) -> None:
        self._spool = spool
        self._verdicts = verdicts
        self._told = told
        self._book: LateBook[SpoolRow, Flight] = LateBook()
        self._due: deque[Settle[SpoolRow]] = deque()
        self._jobs = Jobs(lambda error: tell(PartFailed("late", error)))
        self._settling = False

    def __bool__(self) -> bool:
        """Something is known of some task: else there is nothing to say or to ask."""
        return bool(len(self._book))

    @property
    def open(self) -> bool:
        """An answer may still come, or is being settled."""
        return self._settling or self._book.open

    def opened(self, task: Acceptance, outcome: Outcome) -> bool:
        """The task's row is about to be written; say `written` then. False if the outcome leaves nothing open."""
        if not isinstance(outcome, Unsure) or outcome.late is None:
            return False
        self._book.opened(task)
        outcome.late.listen(partial(self._answered, task))
        return True

    def written(self, row: SpoolRow) -> None:
        """The row waits."""
        self._act(self._book.written(row.acceptance, row))

    def noted(self, task: Acceptance) -> bool:
        """It was confirmed, and its row is not settled yet."""
        return self._book.noted(task)

    def taken(self, task: Acceptance, flight: Flight) -> bool:
        """The drain would write it now. False: it was confirmed."""
        return self._book.taken(task, flight)

    def ended(self, row: SpoolRow, outcome: Outcome) -> None:
        """An attempt of the drain ended; a row that is not done is about to be written."""
        if not self.opened(row.acceptance, outcome):
            self._book.ended(row.acceptance)

    def done(self, task: Acceptance) -> None:
        """It is confirmed: what else is said of it is nothing new."""
        self._book.settled(task)

    async def stop(self) -> None:
        """After the link is closed, so that no answer comes any more: settle what came."""
        await self._jobs.ended()

    def _answered(self, task: Acceptance, outcome: Outcome) -> None:
        self._act(self._book.answered(task, outcome))

    def _act(self, step: Settle[SpoolRow] | Confirm[Flight] | None) -> None:
        match step:
            case Settle():
                self._due.append(step)
                if not self._settling:
                    self._settling = True
                    self._jobs.spawn(self._work(), Context())
            case Confirm(flight=flight):
                flight.confirmed_before()
            case None:
                pass

    async def _work(self) -> None:
        try:
            while self._due:
                await self._settle([self._due.popleft() for _ in range(min(AT_ONCE, len(self._due)))])
        finally:
            self._settling = False

    async def _settle(self, steps: Sequence[Settle[SpoolRow]]) -> None:
        settlements = [self._settlement(step) for step in steps]
        settled: Sequence[bool] = [False] * len(steps)
        # A store that is away: what stays noted spares the copy when the drain has the row.
        with contextlib.suppress(SpoolUnavailable):
            settled = await self._spool.settle(settlements)
        for step, (lease, verdict), free in zip(steps, settlements, settled, strict=True):
            task = step.row.acceptance
            if free:
                self._book.settled(task)
                self._told(lease.row, verdict)
            else:
                self._book.elsewhere(task, step.outcome)

    def _settlement(self, step: Settle[SpoolRow]) -> Settlement:
        row, outcome = step.row, step.outcome
        if isinstance(outcome, Unsure) and outcome.cause is not UnsureCause.CHANNEL_REFUSED:
            # Nobody will know what became of the attempt, which is in the row's history.
            return Lease(row, ""), Again(0.0, row.attempts, row.cause, row.text, row.alone, row.history)
        return Lease(row, ""), _unburied(self._verdicts.after(row, outcome))


def _unburied(verdict: Verdict) -> Verdict:
    """The drain buries, which may have to send a copy first: a row whose attempts are spent is due at once."""
    if isinstance(verdict, Bury):
        return Again(0.0, verdict.attempts, verdict.reason, verdict.text, False, verdict.history)
    return verdict
