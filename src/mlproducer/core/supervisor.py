"""Who keeps the connection: a cycle of attempts with back-off, then slow probing, never dead for good.

A cycle starts with a lost link or with the first connect. Each failure is followed by a longer wait; after
`max_attempts` failures the cycle is exhausted. From then on each trigger from outside (a health check that is due, a
breaker that half-opens) gives one attempt. An operator's `ReconnectAsked` starts a fresh cycle at once.

The table below is the whole machine. Its cells name the next state and the handler that makes the effects. A pair
that is missing is illegal: it raises and changes nothing. These are legal and do nothing, because they race:

- `TimerFired` outside WAITING: the timer fires while `ReconnectAsked` cancels it;
- `LinkLost` outside CONNECTED: the link breaks while we close it, or both its reader and the health check report it;
- `ProbeDue` while anything is under way already;
- `ReconnectAsked` while connecting or closing: what it asks for is under way;
- `Connected` and `ConnectFailed` in CLOSING: the connect ends just as it is being cancelled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

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
    pass


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
    pass


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
    attempts: int


Effect = OpenLink | CloseLink | StartTimer | StopTimer | Exhausted


class IllegalEvent(Exception):
    """A bug in the shell: this event cannot happen in this state. Nothing was changed."""


_CONNECTION_STATE: Final = {
    SupervisorState.IDLE: ConnectionState.DISCONNECTED,
    SupervisorState.CONNECTING: ConnectionState.CONNECTING,
    SupervisorState.CONNECTED: ConnectionState.CONNECTED,
    SupervisorState.WAITING: ConnectionState.DISCONNECTED,
    SupervisorState.EXHAUSTED: ConnectionState.DISCONNECTED,
    SupervisorState.RECONNECTING: ConnectionState.CLOSING,
    SupervisorState.CLOSING: ConnectionState.CLOSING,
    SupervisorState.CLOSED: ConnectionState.CLOSED,
}


@dataclass(frozen=True, slots=True)
class _Cycle:
    """One cycle of attempts: failed ones, and waits begun."""

    failures: int = 0
    waits: int = 0


class Supervisor:
    """Feed it events, perform the effects it answers with, in order."""

    def __init__(self, backoff: Backoff, max_attempts: int) -> None:
        self._backoff = backoff
        self._max_attempts = max_attempts
        self._state = SupervisorState.IDLE
        self._cycle = _Cycle()

    @property
    def state(self) -> SupervisorState:
        return self._state

    @property
    def connection_state(self) -> ConnectionState:
        return _CONNECTION_STATE[self._state]

    @property
    def attempts(self) -> int:
        """Failed attempts in this cycle."""
        return self._cycle.failures

    def on(self, event: Event, rand: float) -> tuple[Effect, ...]:
        """Take one event; `rand` in [0, 1) is the jitter of a wait that may begin. Raises: IllegalEvent."""
        try:
            step = TABLE[self._state, type(event)]
        except KeyError:
            raise IllegalEvent(f"{type(event).__name__} cannot happen while {self._state}") from None
        self._state, self._cycle, effects = step(self, rand)
        return effects

    def _begin_wait(self, cycle: _Cycle, rand: float) -> _Next:
        waits = cycle.waits + 1
        timer = StartTimer(self._backoff.delay(waits, rand), cycle.failures + 1)
        return SupervisorState.WAITING, _Cycle(cycle.failures, waits), (timer,)

    def _ignore(self, _rand: float) -> _Next:
        return self._state, self._cycle, ()

    def _open(self, _rand: float) -> _Next:
        return SupervisorState.CONNECTING, self._cycle, (OpenLink(),)

    def _open_fresh(self, _rand: float) -> _Next:
        return SupervisorState.CONNECTING, _Cycle(), (OpenLink(),)

    def _cancel_wait_and_open(self, _rand: float) -> _Next:
        return SupervisorState.CONNECTING, _Cycle(), (StopTimer(), OpenLink())

    def _up(self, _rand: float) -> _Next:
        return SupervisorState.CONNECTED, _Cycle(), ()

    def _failed(self, rand: float) -> _Next:
        cycle = _Cycle(self._cycle.failures + 1, self._cycle.waits)
        if cycle.failures == self._max_attempts:
            return SupervisorState.EXHAUSTED, cycle, (Exhausted(cycle.failures),)
        if cycle.failures > self._max_attempts:  # a slow probe: said once, not every 30 s
            return SupervisorState.EXHAUSTED, cycle, ()
        return self._begin_wait(cycle, rand)

    def _lost(self, rand: float) -> _Next:
        return self._begin_wait(_Cycle(), rand)

    def _reconnect(self, _rand: float) -> _Next:
        return SupervisorState.RECONNECTING, self._cycle, (CloseLink(),)

    def _end(self, _rand: float) -> _Next:
        return SupervisorState.CLOSED, self._cycle, ()

    def _end_wait(self, _rand: float) -> _Next:
        return SupervisorState.CLOSED, self._cycle, (StopTimer(),)

    def _close(self, _rand: float) -> _Next:
        return SupervisorState.CLOSING, self._cycle, (CloseLink(),)

    def _closing_already(self, _rand: float) -> _Next:
        return SupervisorState.CLOSING, self._cycle, ()


_Next = tuple[SupervisorState, _Cycle, tuple[Effect, ...]]
_S = SupervisorState
_Step = Callable[[Supervisor, float], _Next]

TABLE: Final[dict[tuple[SupervisorState, type[Event]], _Step]] = {
    (_S.IDLE, Started): Supervisor._open,
    (_S.IDLE, StopAsked): Supervisor._end,
    (_S.CONNECTING, Connected): Supervisor._up,
    (_S.CONNECTING, ConnectFailed): Supervisor._failed,
    (_S.CONNECTING, LinkLost): Supervisor._ignore,
    (_S.CONNECTING, TimerFired): Supervisor._ignore,
    (_S.CONNECTING, ProbeDue): Supervisor._ignore,
    (_S.CONNECTING, ReconnectAsked): Supervisor._ignore,
    (_S.CONNECTING, StopAsked): Supervisor._close,
    (_S.CONNECTED, LinkLost): Supervisor._lost,
    (_S.CONNECTED, TimerFired): Supervisor._ignore,
    (_S.CONNECTED, ProbeDue): Supervisor._ignore,
    (_S.CONNECTED, ReconnectAsked): Supervisor._reconnect,
    (_S.CONNECTED, StopAsked): Supervisor._close,
    (_S.WAITING, TimerFired): Supervisor._open,
    (_S.WAITING, LinkLost): Supervisor._ignore,
    (_S.WAITING, ProbeDue): Supervisor._ignore,
    (_S.WAITING, ReconnectAsked): Supervisor._cancel_wait_and_open,
    (_S.WAITING, StopAsked): Supervisor._end_wait,
    (_S.EXHAUSTED, ProbeDue): Supervisor._open,
    (_S.EXHAUSTED, ReconnectAsked): Supervisor._open_fresh,
    (_S.EXHAUSTED, LinkLost): Supervisor._ignore,
    (_S.EXHAUSTED, TimerFired): Supervisor._ignore,
    (_S.EXHAUSTED, StopAsked): Supervisor._end,
    (_S.RECONNECTING, LinkClosed): Supervisor._open_fresh,
    (_S.RECONNECTING, LinkLost): Supervisor._ignore,
    (_S.RECONNECTING, TimerFired): Supervisor._ignore,
    (_S.RECONNECTING, ProbeDue): Supervisor._ignore,
    (_S.RECONNECTING, ReconnectAsked): Supervisor._ignore,
    (_S.RECONNECTING, StopAsked): Supervisor._closing_already,
    (_S.CLOSING, LinkClosed): Supervisor._end,
    (_S.CLOSING, Connected): Supervisor._ignore,
    (_S.CLOSING, ConnectFailed): Supervisor._ignore,
    (_S.CLOSING, LinkLost): Supervisor._ignore,
    (_S.CLOSING, TimerFired): Supervisor._ignore,
    (_S.CLOSING, ProbeDue): Supervisor._ignore,
    (_S.CLOSING, ReconnectAsked): Supervisor._ignore,
    (_S.CLOSING, StopAsked): Supervisor._ignore,
    (_S.CLOSED, LinkLost): Supervisor._ignore,
    (_S.CLOSED, TimerFired): Supervisor._ignore,
    (_S.CLOSED, ProbeDue): Supervisor._ignore,
    (_S.CLOSED, ReconnectAsked): Supervisor._ignore,
    (_S.CLOSED, StopAsked): Supervisor._ignore,
}
