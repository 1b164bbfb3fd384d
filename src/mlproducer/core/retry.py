"""What an outcome means for a task: the one place that decides (design §4).

| outcome                                    | spends an attempt | then                                     |
|--------------------------------------------|-------------------|------------------------------------------|
| Confirmed                                  | –                 | settled                                  |
| Returned (unroutable)                      | yes               | wait, a queue may be on its way; then DLQ |
| Nacked                                     | yes               | wait, then DLQ                           |
| any that is the route's (`held_for`)       | no                | after others of the route, once it opens |
| NotSent(channel_refused)                   | yes               | wait, then alone, then DLQ               |
| NotSent(too_large)                         | yes               | wait, then DLQ                           |
| Unsure(channel_refused)                    | no                | at once, alone, to find who is to blame, |
|                                            |                   | unless the broker named all or a route   |
| Unsure, and its answer may come late       | no                | as it says; else when it cannot any more |
| Unsure (timeout, alarm, link, channel)     | no                | at once, when the link is up             |
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
    """Into the spool, or back into it, for `delay` seconds."""

    delay: float
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


class _Failure(Struct, frozen=True, gc=False):
    """What is to be known of an outcome that is no confirm."""

    cause: str
    text: str
    code: int | None
    at_fault: bool
    """The message or its route caused it."""
    closed_its_channel: bool
    """It did (NotSent) or may have done (Unsure: one of several), and would do so again: no held route's."""
    held_for: float | None
    open_for: float = 0.0
    """Seconds in which its answer may still come: a copy meanwhile would be one too many."""


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
    failure = _failure(outcome)
    if failure is None:
        return Settled()
    at_fault = failure.at_fault and failure.held_for is None
    spent = attempts + at_fault
    if expires_at is not None and expires_at <= now:
        return Dead("expired", None, f"expired; its last attempt was {failure.cause}", spent)
    # The row that met the fault comes after those that did not: another is the probe, which tells whose the fault was.
    delay = 0.0 if failure.cause == NotSentCause.ROUTE_HELD else failure.held_for or 0.0
    if at_fault:
        if spent >= policy.max_attempts:
            return Dead(failure.cause, failure.code, failure.text, spent)
        delay = policy.backoff.delay(spent, rand)
    delay = max(delay, failure.open_for)
    return Wait(delay, spent, failure.cause, failure.text, failure.closed_its_channel)


def cause_of(outcome: Outcome) -> str:
    """The label of an outcome in metrics, logs and the spool: from a small closed set."""
    failure = _failure(outcome)
    return "confirmed" if failure is None else failure.cause


def words_of(outcome: Outcome) -> str:
    """What is known of it in words; empty of a confirm."""
    failure = _failure(outcome)
    return "" if failure is None else failure.text


def _failure(outcome: Outcome) -> _Failure | None:
    match outcome:
        case NotSent(cause=not_sent, code=code, text=text, held_for=held_for, route=route):
            at_fault, cause = not_sent in _AT_FAULT, str(not_sent)
            said = text or cause if at_fault else text
            closed = not_sent is NotSentCause.CHANNEL_REFUSED and (route is None or held_for is None)
            return _Failure(cause, said, code, at_fault, closed, held_for)
        case Unsure(cause=unsure, text=text, held_for=held_for, route=route, late=late):
            closed = unsure is UnsureCause.CHANNEL_REFUSED and (route is None or held_for is None)
            open_for = 0.0 if late is None else late.window
            return _Failure(str(unsure), text, None, False, closed, held_for, open_for)
        case Nacked(held_for=held_for):
            text = "the broker refused it: the queue is full or could not take it (basic.nack)"
            return _Failure("nacked", text, None, True, False, held_for)
        case Returned(code=code, text=text, held_for=held_for):
            text = f"no queue is bound for its routing key ({code} {text})"
            return _Failure("returned", text, code, True, False, held_for)
        case Confirmed():
            return None
        case _:
            assert_never(outcome)
