"""Keeping the connection: performs what the pure supervisor decides."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import assert_never

from mlproducer.core.supervisor import (
    CloseLink,
    Connected,
    ConnectFailed,
    Effect,
    Exhausted,
    LinkClosed,
    LinkLost,
    OpenLink,
    ProbeDue,
    ReconnectAsked,
    Started,
    StartTimer,
    StopAsked,
    StopTimer,
    Supervisor,
    SupervisorState,
    TimerFired,
)
from mlproducer.core.supervisor import Event as Trigger
from mlproducer.delivery.guard import Guard
from mlproducer.errors import BrokerError, ConnectionLost, unexpected
from mlproducer.events import (
    ConnectionChanged,
    ConnectionFailed,
    ConnectionState,
    PartFailed,
    ReconnectScheduled,
    ReconnectsExhausted,
)
from mlproducer.jobs import Jobs
from mlproducer.ports import Broker, Clock, Listener


class Opening:
    """The first connect of a producer's life. `under_way` is at hand, because each publish asks."""

    def __init__(self) -> None:
        self.under_way = False
        self._over = asyncio.Event()

    def follow(self, *, under_way: bool) -> None:
        self.under_way = under_way
        if not under_way:
            self._over.set()

    async def wait(self, limit: float) -> None:
        """Until it has succeeded or failed, at most `limit` seconds."""
        try:
            async with asyncio.timeout(limit):
                await self._over.wait()
        except TimeoutError:
            pass


class LinkKeeper:
    """Owns the supervisor and is the only one that opens or closes the broker's link."""

    def __init__(
        self,
        broker: Broker,
        supervisor: Supervisor,
        guard: Guard,
        clock: Clock,
        tell: Listener,
        connected: Callable[[], None],
    ) -> None:
        self._broker = broker
        self._supervisor = supervisor
        self._guard = guard
        self._clock = clock
        self._tell = tell
        self._connected = connected
        self._jobs = Jobs(self._broken)
        self._opening: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due: float | None = None
        self._told = ConnectionState.DISCONNECTED
        self._closed = asyncio.Event()
        self.last_error = ""
        self.opening = Opening()

    @property
    def state(self) -> SupervisorState:
        return self._supervisor.state

    @property
    def attempts(self) -> int:
        """Failed attempts in this reconnect cycle."""
        return self._supervisor.attempts

    @property
    def promising(self) -> bool:
        """See `Supervisor.promising`."""
        return self._supervisor.promising

    @property
    def next_attempt(self) -> float | None:
        """Seconds until the timer begins the next connect; None while none is set."""
        return None if self._due is None else max(0.0, self._due - self._clock.monotonic())

    def start(self) -> None:
        self._on(Started())

    def lost(self, error: BrokerError) -> None:
        """The broker's shell reports that an established link ended."""
        # A lost link may be reported while we are closing it ourselves: the supervisor knows, and ignores it.
        self._failed(error)
        self._on(LinkLost())

    async def abandon(self, error: BrokerError) -> None:
        """The health check found the link dead though TCP did not notice: close it and reconnect."""
        if self._supervisor.state is not SupervisorState.CONNECTED:
            return  # it was noticed meanwhile
        self._failed(error)
        # The old link is gone before the supervisor hears of it: else its timer could fire, and a new link be made,
        # while a hung broker still keeps us waiting for its goodbye, and the old close would tear down the new link.
        await self._broker.close()
        self._on(LinkLost())

    def probe(self) -> None:
        """A health check is due, or the breaker half-opened: one attempt if the cycle is exhausted."""
        self._on(ProbeDue())

    def reconnect(self) -> None:
        """An operator asks: a fresh cycle at once."""
        self._on(ReconnectAsked())

    async def stop(self) -> None:
        """Close the link and end every job. Returns when the link is closed."""
        self._on(StopAsked())
        await self._closed.wait()
        self._jobs.cancel()
        await self._jobs.ended()

    def _on(self, trigger: Trigger) -> None:
        effects = self._supervisor.on(trigger, self._clock.random())
        # Race: a listener that hears of the lost link asks for a reconnect at once. Were our timer not set by then,
        # it could not be stopped, and would be set after the reconnect.
        for effect in effects:
            self._perform(effect)
        self.opening.follow(under_way=self._supervisor.opening)
        if self._supervisor.state is SupervisorState.CLOSED:
            self._closed.set()
        self._tell_state()
        for effect in effects:
            self._tell_effect(effect)

    def _perform(self, effect: Effect) -> None:
        # Jobs have an empty context: the callbacks of a connection run in the one that it was made in, as long as it
        # lasts. Else they would all belong to the trace of the request that asked for a reconnect.
        match effect:
            case OpenLink():
                self._due = None
                self._opening = self._jobs.spawn(self._open(), Context())
                self._opening.add_done_callback(self._opened)
            case CloseLink():
                self._jobs.spawn(self._close(), Context())
            case StartTimer(delay=delay):
                self._timer = self._jobs.later(delay, self._on, TimerFired())
                self._due = self._clock.monotonic() + delay
            case StopTimer():
                self._due = None
                if self._timer is not None:
                    self._timer.cancel()
                    self._timer = None
            case Exhausted():
                pass  # nothing to do but to say it
            case _:
                assert_never(effect)

    def _tell_effect(self, effect: Effect) -> None:
        match effect:
            case StartTimer(delay=delay, attempt=attempt):
                self._tell(ReconnectScheduled(attempt, delay))
            case Exhausted(attempts=attempts):
                self._tell(ReconnectsExhausted(attempts))
            case _:
                pass

    async def _open(self) -> None:
        try:
            await self._broker.connect()
        except Exception as error:  # noqa: BLE001  # whatever it is, this connect came to nothing
            self._failed(self.in_words(error))
            self._on(ConnectFailed())
            return
        self.last_error = ""
        self._guard.connected()
        self._on(Connected())
        if self._supervisor.state is SupervisorState.CONNECTED:
            self._connected()

    def _opened(self, job: asyncio.Task[None]) -> None:
        """A connect must not end without a word: the supervisor waits for it. One whose words did not come was
        cancelled by the application's code within it (its credentials).
        """
        if job is not self._opening or self._supervisor.state is not SupervisorState.CONNECTING:
            return
        node = self._broker.view().node
        self._failed(ConnectionLost(f"{node}: the connect ended without an answer: it was cancelled from within"))
        self._on(ConnectFailed())

    async def _close(self) -> None:
        # Race: asked to stop while connecting. Closing first would find no link, and the connect would then make one
        # that nobody closes. So the connect ends before the close begins.
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        try:
            await self._broker.close()
        except Exception as error:  # noqa: BLE001  # whatever it is, there is no link any more that we know of
            self._failed(self.in_words(error))
        finally:
            self._on(LinkClosed())

    async def _give_up(self) -> None:
        """What came of a connect that was not taken to its end."""
        await self._broker.close()
        if self._supervisor.state is SupervisorState.CONNECTING:
            self._on(ConnectFailed())

    def in_words(self, error: Exception) -> BrokerError:
        """Also of what nobody thought of: then the link is as good as lost, and the log has where it was raised."""
        if isinstance(error, BrokerError):
            return error
        self._tell(PartFailed("link", error))
        return unexpected(self._broker.view().node, error)

    def _broken(self, error: Exception) -> None:
        """A job or a timer of ours failed between two states."""
        self._failed(self.in_words(error))
        if self._supervisor.state is SupervisorState.CONNECTING:
            self._jobs.spawn(self._give_up(), Context())

    def _failed(self, error: BrokerError) -> None:
        self.last_error = str(error)
        self._guard.failure()
        self._tell(ConnectionFailed(error.error_type, self._broker.view().node, str(error)))

    def _tell_state(self) -> None:
        state = self._supervisor.connection_state
        if state is not self._told:
            self._told = state
            self._tell(ConnectionChanged(state, self._broker.view().node, self.last_error))
