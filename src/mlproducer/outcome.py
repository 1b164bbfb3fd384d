"""How one attempt to publish ended: a closed union, so that `match` can end in `assert_never`.

`Unsure` is a first-class answer: the message may or may not have landed. It is never counted as failed or as sent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

EVERY_ROUTE: Final = "#"
"""In the place of a routing key: all of the exchange's. (In a binding it is the wildcard for any key.)"""


class UnsureCause(StrEnum):
    """Why nobody knows whether the broker took the message."""

    CONFIRM_TIMEOUT = "confirm_timeout"
    CONNECTION_LOST = "connection_lost"
    CHANNEL_LOST = "channel_lost"
    CHANNEL_REFUSED = "channel_refused"
    """The channel was closed by 403/404/406 with several messages in flight: one of them is at fault, we cannot
    tell which. Each is tried again alone, where the blame is certain."""
    BLOCKED = "blocked"
    """It was written, and the broker has an alarm: it reads nothing, so that nobody can say when it takes it."""


class NotSentCause(StrEnum):
    """Why the message certainly did not reach a queue."""

    NOT_CONNECTED = "not_connected"
    BREAKER_OPEN = "breaker_open"
    BLOCKED = "blocked"
    WINDOW_FULL = "window_full"
    DEADLINE = "deadline"
    """The whole publish's time was up before the message could be written."""
    CHANNEL_REFUSED = "channel_refused"
    """The broker closed the channel because of this very message (403, 404, 406): a fault of message or route."""
    TOO_LARGE = "too_large"
    ROUTE_HELD = "route_held"
    """Its route takes nothing at present: see `core.routes`."""


def blocked_text(reason: str) -> str:
    """What people are told of a broker under an alarm. `reason` is in its own words, perhaps none."""
    return f"the broker blocks publishers (memory or disk alarm): {reason or 'it does not say why'}"


@dataclass(frozen=True, slots=True)
class Confirmed:
    """basic.ack and no basic.return: routed to a durable queue, and taken."""


@dataclass(frozen=True, slots=True)
class Nacked:
    """basic.nack: the broker or the queue would not take it (such as `x-overflow: reject-publish`)."""

    held_for: float | None = None
    """Seconds. Not None: the fault is its route's and not its own; the route is held for so long. Here and below."""


@dataclass(frozen=True, slots=True)
class Returned:
    """basic.return: no queue is bound for the routing key."""

    code: int
    text: str
    held_for: float | None = None


@dataclass(frozen=True, slots=True)
class Unsure:
    cause: UnsureCause
    text: str = ""
    held_for: float | None = None
    route: str | None = None
    """Whom the broker blames for a channel that it closed: a routing key, or EVERY_ROUTE. None: one message, and it
    does not say which one. Here and below.
    """
    late: LateAnswer | None = field(default=None, compare=False, repr=False)
    """Not None: the broker may still answer, and is listened to."""


@dataclass(frozen=True, slots=True)
class NotSent:
    cause: NotSentCause
    code: int | None = None
    text: str = ""
    held_for: float | None = None
    route: str | None = None


Failure = Nacked | Returned | Unsure | NotSent
Outcome = Confirmed | Failure


class LateAnswer:
    """How an attempt ended after all whose time was over: what the broker said, or another `Unsure` if it will say
    nothing any more. Told once, to one listener, who may come after it. `window` is for how many seconds it may come.
    """

    __slots__ = ("_answer", "_listener", "window")

    def __init__(self, window: float) -> None:
        self.window = window
        self._answer: Outcome | None = None
        self._listener: Callable[[Outcome], None] | None = None

    def listen(self, listener: Callable[[Outcome], None]) -> None:
        self._listener = listener
        if self._answer is not None:
            listener(self._answer)

    def tell(self, outcome: Outcome) -> None:
        self._answer = outcome
        if self._listener is not None:
            self._listener(outcome)
