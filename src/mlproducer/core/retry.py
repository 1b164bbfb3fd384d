"""What an outcome means for a task: the one place that decides (design §4).

| outcome                                    | spends an attempt | then                                     |
|--------------------------------------------|-------------------|------------------------------------------|
| Confirmed                                  | –                 | settled                                  |
| Returned (unroutable)                      | yes               | wait, a queue may be on its way; then DLQ |
| Nacked                                     | yes               | wait, then DLQ                           |
| NotSent(channel_refused)                   | yes               | wait, then alone, then DLQ               |
| NotSent(too_large)                         | yes               | wait, then DLQ                           |
| Unsure(channel_refused)                    | no                | at once, alone, to find who is to blame  |
| Unsure (timeout, connection, channel lost) | no                | at once, when the link is up             |
| NotSent (any other)                        | no                | at once, when the link is up             |

*Alone* is on a channel that carries nothing else. A message that closed its channel once is tried again only there:
in company it would take its neighbours' channel down with it, and each of them would have to go alone as well.

A task past its expiry that is not confirmed is dead as `expired`, whatever else happened to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from msgspec import Struct

from mlproducer.core.backoff import Backoff
from mlproducer.outcome import Confirmed, Nacked, NotSent, NotSentCause, Outcome, Returned, Unsure, UnsureCause

_AT_FAULT = frozenset({NotSentCause.CHANNEL_REFUSED, NotSentCause.TOO_LARGE})


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    max_attempts: int
    backoff: Backoff


class Settled(Struct, frozen=True, gc=False):
    """Confirmed: nothing is left to do."""


class Wait(Struct, frozen=True, gc=False):
    """Into the spool, or back into it, until `due_at` (Unix seconds)."""

    due_at: float
    attempts: int
    cause: str
    text: str
    alone: bool


class Dead(Struct, frozen=True, gc=False):
    """To the dead letter queue."""

    reason: str
    code: int | None
    text: str
    attempts: int


@dataclass(frozen=True, slots=True)
class _Fault:
    """A failure caused by the message or its route."""

    reason: str
    code: int | None
    text: str


def decide(
    outcome: Outcome,
    *,
    attempts: int,
    policy: RetryPolicy,
    now: float,
    rand: float,
    expires_at: float | None,
) -> Settled | Wait | Dead:
    """`attempts` counts the message faults before this attempt; `now` and `expires_at` are Unix seconds."""
    if isinstance(outcome, Confirmed):
        return Settled()
    fault = _fault(outcome)
    spent = attempts + (fault is not None)
    if expires_at is not None and expires_at <= now:
        return Dead("expired", None, f"expired; its last attempt was {cause_of(outcome)}", spent)
    if fault is None:
        return Wait(now, attempts, cause_of(outcome), _text(outcome), _closed_its_channel(outcome))
    if spent >= policy.max_attempts:
        return Dead(fault.reason, fault.code, fault.text, spent)
    return Wait(now + policy.backoff.delay(spent, rand), spent, fault.reason, fault.text, _closed_its_channel(outcome))


def cause_of(outcome: Outcome) -> str:
    """The label of an outcome in metrics, logs and the spool: from a small closed set."""
    match outcome:
        case Confirmed():
            return "confirmed"
        case Nacked():
            return "nacked"
        case Returned():
            return "returned"
        case Unsure(cause=unsure):
            return unsure.value
        case NotSent(cause=not_sent):
            return not_sent.value
        case _:
            assert_never(outcome)


def _fault(outcome: Outcome) -> _Fault | None:
    match outcome:
        case Nacked():
            return _Fault("nacked", None, "the broker refused it: the queue is full or could not take it (basic.nack)")
        case Returned(code=code, text=text):
            return _Fault("returned", code, f"no queue is bound for its routing key ({code} {text})")
        case NotSent(cause=cause, code=code, text=text) if cause in _AT_FAULT:
            return _Fault(cause.value, code, text or cause.value)
        case Confirmed() | Unsure() | NotSent():
            return None
        case _:
            assert_never(outcome)


def _closed_its_channel(outcome: Outcome) -> bool:
    """It did (NotSent) or may have done (Unsure: one of several)."""
    match outcome:
        case NotSent(cause=NotSentCause.CHANNEL_REFUSED) | Unsure(cause=UnsureCause.CHANNEL_REFUSED):
            return True
        case _:
            return False


def _text(outcome: Outcome) -> str:
    return outcome.text if isinstance(outcome, Unsure | NotSent) else ""
