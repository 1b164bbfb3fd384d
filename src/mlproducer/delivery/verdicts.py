"""What becomes of a row: the shell around `core.retry`, which has the rules."""

from __future__ import annotations

from typing import Final, assert_never

from mlproducer.core.history import attempted, with_attempt
from mlproducer.core.retry import Dead, RetryPolicy, Settled, Wait, decide
from mlproducer.outcome import Confirmed, NotSent, NotSentCause, Outcome
from mlproducer.ports import Clock
from mlproducer.rows import Again, Bury, Done, History, NewRow, SpoolRow, Verdict
from mlproducer.task import Envelope

NO_ATTEMPT: Final = frozenset(
    {
        NotSentCause.NOT_CONNECTED,
        NotSentCause.BREAKER_OPEN,
        NotSentCause.BLOCKED,
        NotSentCause.WINDOW_FULL,
        NotSentCause.DEADLINE,
        NotSentCause.ROUTE_HELD,
    }
)
"""Nothing was written to the broker, so there is nothing for the history: an outage of an hour would fill it."""


def history_after(history: History, outcome: Outcome, label: str, text: str, *, at: float) -> History:
    """The history with this attempt, if it was one."""
    if isinstance(outcome, NotSent) and outcome.cause in NO_ATTEMPT:
        return history
    return with_attempt(history, attempted(outcome, label, text, at=at))


class Verdicts:
    """`retention` is how long a confirmed task is remembered, in seconds."""

    def __init__(self, policy: RetryPolicy, clock: Clock, retention: float) -> None:
        self._policy = policy
        self._clock = clock
        self._retention = retention

    def before(self, row: SpoolRow) -> Bury | None:
        """What needs no attempt: expired tasks, and those whose attempts were all spent before they came here."""
        now = self._clock.now()
        expires_at = row.envelope.expires_at
        if expires_at is not None and expires_at <= now:
            return self.expired(row)
        if row.attempts >= self._policy.max_attempts:
            code = row.history[-1].code if row.history else None
            return Bury(now, row.attempts, row.cause, code, row.text, row.history)
        return None

    def expired(self, row: SpoolRow) -> Bury:
        text = "the task expired before it could be published"
        return Bury(self._clock.now(), row.attempts, "expired", None, text, row.history)

    def after(self, row: SpoolRow, outcome: Outcome) -> Verdict:
        """What the outcome of an attempt from the spool means for the row."""
        now = self._clock.now()
        if type(outcome) is Confirmed:
            return Done(now, self._retention)
        decision = self.decide(outcome, row.envelope, row.attempts)
        match decision:
            case Settled():
                return Done(now, self._retention)
            case Wait(delay=delay, attempts=attempts, cause=cause, text=text, alone=alone):
                # Once alone, always alone: one refusal in company was enough to suspect the row.
                history = history_after(row.history, outcome, cause, text, at=now)
                return Again(delay, attempts, cause, text, alone or row.alone, history)
            case Dead(reason=reason, code=code, text=text, attempts=attempts):
                history = history_after(row.history, outcome, reason, text, at=now)
                return Bury(now, attempts, reason, code, text, history)
            case _:
                assert_never(decision)

    def decide(self, outcome: Outcome, envelope: Envelope, attempts: int) -> Settled | Wait | Dead:
        return decide(
            outcome,
            attempts=attempts,
            policy=self._policy,
            now=self._clock.now(),
            rand=self._clock.random(),
            expires_at=envelope.expires_at,
        )

    def first(self, envelope: Envelope, accepted_at: float, outcome: Outcome) -> NewRow | None:
        """The row of a new task after its direct attempt; None if that confirmed it.

        A task that is dead already is kept like any other: its row goes through the spool, and the drain buries it.
        """
        now = self._clock.now()
        decision = self.decide(outcome, envelope, 0)
        match decision:
            case Settled():
                return None
            case Wait(delay=delay, attempts=attempts, cause=cause, text=text, alone=alone):
                history = history_after((), outcome, cause, text, at=now)
                return NewRow(envelope, accepted_at, delay, attempts, cause, text, alone, history)
            case Dead(reason=reason, text=text, attempts=attempts):
                history = history_after((), outcome, reason, text, at=now)
                return NewRow(envelope, accepted_at, 0.0, attempts, reason, text, False, history)
            case _:
                assert_never(decision)
