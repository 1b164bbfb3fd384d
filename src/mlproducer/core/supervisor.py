"""Who keeps the connection: a cycle of attempts with back-off, then slow probing, never dead for good.

A cycle starts with a lost link or with the first connect. Each failure is followed by a longer wait; after
`max_attempts` failures the cycle is exhausted. From then on each trigger from outside (a health check that is due, a
breaker that half-opens) gives one attempt. An operator's `ReconnectAsked` starts a fresh cycle at once; an attempt that
is under way is the first of it.

`TABLE` is the whole machine: each cell names the next state, the count and the effects. `RACES` lists the events that
may come too late, each with its reason; they change nothing. Every other pair is a bug in the shell: it raises
`IllegalEvent` and changes nothing either.

Two things are asked of it besides. `opening`: the first connect of its life is under way, so that a publish may wait
for it. `promising`: it is worth a moment's wait, because the link is up, or because the attempt that is under way or
comes next is the first of its cycle. With several hosts, both go on until each had its attempt.

Between a StopAsked and the end a connect may still come up. It is closed once more: closing twice is harmless, a link
that nobody closes is not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, StrEnum, auto
from typing import Final, assert_never

from mlproducer.core.backoff import Backoff
from mlproducer.events import ConnectionState


class SupervisorState(StrEnum):
    IDLE = "idle"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    WAITING = "waiting"
    EXHAUSTED = "exhausted"
    RECONNECTING = "reconnecting"
    """Closing a working link because an operator asked; connects again once it is closed."""
    CLOSING = "closing"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Started:
    pass


@dataclass(frozen=True, slots=True)
class Connected:
    pass


@dataclass(frozen=True, slots=True)
class ConnectFailed:
    pass


@dataclass(frozen=True, slots=True)
class LinkLost:
    """An established link ended without CloseLink."""


@dataclass(frozen=True, slots=True)
class TimerFired:
    pass


@dataclass(frozen=True, slots=True)
class ProbeDue:
    """A health check is due, or the breaker half-opened."""


@dataclass(frozen=True, slots=True)
class ReconnectAsked:
    """By an operator."""


@dataclass(frozen=True, slots=True)
class StopAsked:
    pass


@dataclass(frozen=True, slots=True)
class LinkClosed:
    """CloseLink is done."""


Event = Started | Connected | ConnectFailed | LinkLost | TimerFired | ProbeDue | ReconnectAsked | StopAsked | LinkClosed


@dataclass(frozen=True, slots=True)
class OpenLink:
    pass


@dataclass(frozen=True, slots=True)
class CloseLink:
    pass


@dataclass(frozen=True, slots=True)
class StartTimer:
    """`delay` in seconds before attempt number `attempt`."""

    delay: float
    attempt: int


@dataclass(frozen=True, slots=True)
class StopTimer:
    pass


@dataclass(frozen=True, slots=True)
class Exhausted:
    """The cycle's attempts are spent. Said once a cycle, not after each slow probe."""

    attempts: int


Effect = OpenLink | CloseLink | StartTimer | StopTimer | Exhausted


class IllegalEvent(Exception):
    """A bug in the shell: this event cannot happen in this state. Nothing was changed."""


@dataclass(frozen=True, slots=True)
class AttemptsSpent:
    """What the table calls a ConnectFailed that was the cycle's last attempt, or a slow probe's."""


class Count(Enum):
    """What a cell of the table does to the cycle's counts."""

    KEEP = auto()
    RESET = auto()
    FAILED = auto()


_S = SupervisorState
_OPEN: Final = (OpenLink(),)
_CLOSE: Final = (CloseLink(),)
_STOP_TIMER: Final = (StopTimer(),)

Cell = tuple[SupervisorState, Count, tuple[Effect, ...]]

# To come to WAITING also starts the timer, and to come to EXHAUSTED for the first time says so: see `_on_entry`.
TABLE: Final[dict[tuple[SupervisorState, type[Event | AttemptsSpent]], Cell]] = {
    (_S.IDLE, Started): (_S.CONNECTING, Count.KEEP, _OPEN),
    (_S.IDLE, StopAsked): (_S.CLOSED, Count.KEEP, ()),
    (_S.CONNECTING, Connected): (_S.CONNECTED, Count.RESET, ()),
    (_S.CONNECTING, ConnectFailed): (_S.WAITING, Count.FAILED, ()),
    (_S.CONNECTING, AttemptsSpent): (_S.EXHAUSTED, Count.FAILED, ()),
    (_S.CONNECTING, ReconnectAsked): (_S.CONNECTING, Count.RESET, ()),
    (_S.CONNECTING, StopAsked): (_S.CLOSING, Count.KEEP, _CLOSE),
    (_S.CONNECTED, LinkLost): (_S.WAITING, Count.RESET, ()),
    (_S.CONNECTED, ReconnectAsked): (_S.RECONNECTING, Count.KEEP, _CLOSE),
    (_S.CONNECTED, StopAsked): (_S.CLOSING, Count.KEEP, _CLOSE),
    (_S.WAITING, TimerFired): (_S.CONNECTING, Count.KEEP, _OPEN),
    (_S.WAITING, ReconnectAsked): (_S.CONNECTING, Count.RESET, _STOP_TIMER + _OPEN),
    (_S.WAITING, StopAsked): (_S.CLOSED, Count.KEEP, _STOP_TIMER),
    (_S.EXHAUSTED, ProbeDue): (_S.CONNECTING, Count.KEEP, _OPEN),
    (_S.EXHAUSTED, ReconnectAsked): (_S.CONNECTING, Count.RESET, _OPEN),
    (_S.EXHAUSTED, StopAsked): (_S.CLOSED, Count.KEEP, ()),
    (_S.RECONNECTING, LinkClosed): (_S.CONNECTING, Count.RESET, _OPEN),
    (_S.RECONNECTING, StopAsked): (_S.CLOSING, Count.KEEP, ()),  # the close is under way
    (_S.CLOSING, LinkClosed): (_S.CLOSED, Count.KEEP, ()),
    (_S.CLOSING, Connected): (_S.CLOSING, Count.KEEP, _CLOSE),
    (_S.CLOSED, Connected): (_S.CLOSED, Count.KEEP, _CLOSE),
}

RACES: Final[tuple[tuple[type[Event], frozenset[SupervisorState], str], ...]] = (
    (
        TimerFired,
        frozenset({_S.CONNECTING, _S.CONNECTED, _S.EXHAUSTED, _S.RECONNECTING, _S.CLOSING, _S.CLOSED}),
        "The loop has queued the timer's call; ReconnectAsked or StopAsked cancels the timer; the call comes.",
    ),
    (
        LinkLost,
        frozenset({_S.CONNECTING, _S.WAITING, _S.EXHAUSTED, _S.RECONNECTING, _S.CLOSING, _S.CLOSED}),
        (
            "The health check finds the link dead; its reader finds the same. Or the link breaks while we close it. A "
            "link that breaks before its connect is done is that connect's failure, reported as ConnectFailed."
        ),
    ),
    (
        ProbeDue,
        frozenset({_S.CONNECTING, _S.CONNECTED, _S.WAITING, _S.RECONNECTING, _S.CLOSING, _S.CLOSED}),
        "The health check ticks, or the breaker half-opens, while the link is up or on its way by itself.",
    ),
    (
        ReconnectAsked,
        frozenset({_S.RECONNECTING, _S.CLOSING, _S.CLOSED}),
        "An operator asks for what is under way already, or asks a producer that stops.",
    ),
    (
        StopAsked,
        frozenset({_S.CLOSING, _S.CLOSED}),
        "Two callers stop the producer.",
    ),
    (
        ConnectFailed,
        frozenset({_S.CLOSING, _S.CLOSED}),
        "A connect is under way when StopAsked comes, and fails before or after the close is done.",
    ),
    (
        LinkClosed,
        frozenset({_S.CLOSED}),
        "A connect came up while we were closing and was closed once more.",
    ),
)

_TOO_LATE: Final = frozenset((state, event) for event, states, _ in RACES for state in states)

_CONNECTION_STATE: Final = {
    _S.IDLE: ConnectionState.DISCONNECTED,
    _S.CONNECTING: ConnectionState.CONNECTING,
    _S.CONNECTED: ConnectionState.CONNECTED,
    _S.WAITING: ConnectionState.DISCONNECTED,
    _S.EXHAUSTED: ConnectionState.DISCONNECTED,
    _S.RECONNECTING: ConnectionState.CLOSING,
    _S.CLOSING: ConnectionState.CLOSING,
    _S.CLOSED: ConnectionState.CLOSED,
}

_UP: Final = frozenset({_S.CONNECTED, _S.RECONNECTING})
_ON_ITS_WAY: Final = frozenset({_S.CONNECTING, _S.WAITING})


@dataclass(frozen=True, slots=True)
class _Cycle:
    """After a lost link the first wait comes before any failure, so the two counts differ by one."""

    failures: int = 0
    waits: int = 0


class Supervisor:
    """Feed it events, perform the effects it answers with, in order."""

    def __init__(self, backoff: Backoff, max_attempts: int, hosts: int = 1) -> None:
        self._backoff = backoff
        self._max_attempts = max_attempts
        self._hosts = hosts
        self._was_opening = True
        self._state = SupervisorState.IDLE
        self._cycle = _Cycle()

    def __repr__(self) -> str:
        return f"<Supervisor {self._state} failures={self._cycle.failures}>"

    @property
    def state(self) -> SupervisorState:
        return self._state

    @property
    def connection_state(self) -> ConnectionState:
        return _CONNECTION_STATE[self._state]

    @property
    def attempts(self) -> int:
        """Failed attempts in this cycle, slow probes included."""
        return self._cycle.failures

    @property
    def opening(self) -> bool:
        """The first connect is under way: no host has answered yet, and not all were tried."""
        return self._was_opening and self._trying

    @property
    def promising(self) -> bool:
        """The link is up or may be in a moment; False once each host had its attempt in this cycle."""
        return self._state in _UP or self._trying

    @property
    def _trying(self) -> bool:
        return self._state in _ON_ITS_WAY and self._cycle.failures < self._hosts

    def on(self, event: Event, rand: float) -> tuple[Effect, ...]:
        """Take one event; `rand` in [0, 1) is the jitter of a wait that may begin. Raises: IllegalEvent."""
        if (self._state, type(event)) in _TOO_LATE:
            return ()
        last = type(event) is ConnectFailed and self._cycle.failures + 1 >= self._max_attempts
        try:
            after, count, effects = TABLE[self._state, AttemptsSpent if last else type(event)]
        except KeyError:
            raise IllegalEvent(f"{type(event).__name__} cannot happen while {self._state}") from None
        cycle = self._counted(count)
        if after is SupervisorState.WAITING:
            cycle = replace(cycle, waits=cycle.waits + 1)
        effects += self._on_entry(after, cycle, rand)
        self._state, self._cycle = after, cycle
        self._was_opening = self._was_opening and (self._trying or after is SupervisorState.IDLE)
        return effects

    def _counted(self, count: Count) -> _Cycle:
        match count:
            case Count.KEEP:
                return self._cycle
            case Count.RESET:
                return _Cycle()
            case Count.FAILED:
                return replace(self._cycle, failures=self._cycle.failures + 1)
            case _:
                assert_never(count)

    def _on_entry(self, state: SupervisorState, cycle: _Cycle, rand: float) -> tuple[Effect, ...]:
        if state is SupervisorState.WAITING:
            return (StartTimer(self._backoff.delay(cycle.waits, rand), cycle.failures + 1),)
        # A slow probe that fails comes to EXHAUSTED as well, with more failures: that is no news.
        if state is SupervisorState.EXHAUSTED and cycle.failures == self._max_attempts:
            return (Exhausted(cycle.failures),)
        return ()
