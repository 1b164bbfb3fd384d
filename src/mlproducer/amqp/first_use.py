"""Attempts on a route that this link has not seen yet. They wait until its queue is made or looked at, and go out in
their order; other routes do not wait for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any

from mlproducer.amqp.faults import NOT_FOUND, ChannelClosed
from mlproducer.errors import BrokerError
from mlproducer.jobs import Jobs
from mlproducer.outcome import NotSent, NotSentCause, Returned
from mlproducer.ports import Clock, Settle
from mlproducer.task import Envelope

Waiting = tuple[Envelope, Settle, float, bool]
"""What `Broker.publish` was given: envelope, settle, deadline, alone."""


@dataclass(slots=True)
class _Route:
    """What waits for its queue, and the timer for the earliest deadline."""

    waiting: list[Waiting] = field(default_factory=list)
    timer: asyncio.TimerHandle | None = None
    timer_at: float = 0.0

    def stop(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class FirstUse:
    """`use` makes a queue ready, or says why no task may go there, which then is as one that came back; `publish` takes
    what waited for it; `spawn` starts a job of the connection; `alarmed` says what becomes of a message while the
    broker has an alarm; `settled` runs settle callbacks.

    Whatever `use` raises, each attempt is settled; what is neither BrokerError, ChannelClosed nor TimeoutError is a
    fault of ours, and the end of the connection.
    """

    def __init__(
        self,
        use: Callable[[str], Coroutine[Any, Any, str]],
        publish: Callable[[Envelope, Settle, float, bool], None],
        clock: Clock,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        alarmed: Callable[[], NotSent | None],
        settled: Jobs,
    ) -> None:
        self._use = use
        self._publish = publish
        self._clock = clock
        self._routes: dict[str, _Route] = {}
        self._spawn = spawn
        self._alarmed = alarmed
        self._settled = settled
        self.ready: set[str] = set()
        """Queues that attempts may go to at once."""

    @property
    def in_flight(self) -> int:
        return sum(len(route.waiting) for route in self._routes.values())

    @property
    def bytes_in_flight(self) -> int:
        return sum(envelope.size for route in self._routes.values() for envelope, *_ in route.waiting)

    def publish(self, envelope: Envelope, settle: Settle, deadline: float, alone: bool) -> None:  # noqa: FBT001  # as `Broker.publish` has it
        queue = envelope.routing_key
        route = self._routes.get(queue)
        if route is None:
            route = self._routes[queue] = _Route()
            self._spawn(self._work(queue, route))
        route.waiting.append((envelope, settle, deadline, alone))
        if route.timer is None or deadline < route.timer_at:
            self._set_timer(route, deadline)

    def lost(self) -> None:
        """The link ended: what waits was never sent."""
        self.ready.clear()
        routes, self._routes = self._routes, {}
        for route in routes.values():
            self._settle(self._taken(route), NotSentCause.NOT_CONNECTED)

    async def _work(self, queue: str, route: _Route) -> None:
        error: Exception | None = None
        lost = ""
        try:
            lost = await self._use(queue)
        except Exception as raised:  # noqa: BLE001  # whatever it is, nobody may wait for ever
            error = raised
        # No await from here: what comes next on this route goes out after these.
        if self._routes.get(queue) is route:
            del self._routes[queue]
        waiting = self._taken(route)
        if lost:
            for _, settle, _, _ in waiting:
                self._settled.run(settle, Returned(NOT_FOUND, lost))
            return
        if error is None:
            self.ready.add(queue)
            for each in waiting:
                self._publish(*each)
            return
        # A queue whose leader is lost answers nothing, and the connection may be well.
        late = isinstance(error, TimeoutError)
        self._settle(waiting, NotSentCause.DEADLINE if late else NotSentCause.NOT_CONNECTED)
        if not isinstance(error, TimeoutError | BrokerError | ChannelClosed):
            raise error

    def _taken(self, route: _Route) -> list[Waiting]:
        route.stop()
        waiting, route.waiting = route.waiting, []
        return waiting

    def _set_timer(self, route: _Route, at: float) -> None:
        route.stop()
        route.timer_at = at
        route.timer = self._settled.later(max(0.0, at - self._clock.monotonic()), self._ring, route)

    def _ring(self, route: _Route) -> None:
        now, waiting = self._clock.monotonic(), self._taken(route)
        route.waiting = [each for each in waiting if each[2] > now]
        if route.waiting:
            self._set_timer(route, min(each[2] for each in route.waiting))
        self._settle([each for each in waiting if each[2] <= now], NotSentCause.DEADLINE)

    def _settle(self, waiting: Iterable[Waiting], cause: NotSentCause) -> None:
        for _, settle, _, _ in waiting:
            self._settled.run(settle, self._alarmed() or NotSent(cause))
