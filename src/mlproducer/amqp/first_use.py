"""Attempts on a route that this link has not seen yet. They wait until its queue is made or looked at, and go out in
their order; other routes do not wait for them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from mlproducer.amqp.faults import ChannelClosed
from mlproducer.errors import BrokerError
from mlproducer.jobs import Jobs, heard
from mlproducer.outcome import NotSent, NotSentCause
from mlproducer.ports import Clock, Settle
from mlproducer.task import Envelope

Waiting = tuple[Envelope, Settle, float, bool]
"""What `Broker.publish` was given: envelope, settle, deadline, alone."""


class FirstUse:
    """`use` makes a queue ready; `publish` takes what waited for it; `spawn` starts a job of the connection; `alarmed`
    says what becomes of a message while the broker has an alarm; `settled` runs settle callbacks.

    Whatever `use` raises, each attempt is settled; what is neither BrokerError, ChannelClosed nor TimeoutError is a
    fault of ours, and the end of the connection.
    """

    def __init__(
        self,
        use: Callable[[str], Coroutine[Any, Any, None]],
        publish: Callable[[Envelope, Settle, float, bool], None],
        clock: Clock,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        alarmed: Callable[[], NotSent | None],
        settled: Jobs,
    ) -> None:
        self._use = use
        self._publish = publish
        self._clock = clock
        self._waiting: dict[str, deque[Waiting]] = {}
        self._spawn = spawn
        self._alarmed = alarmed
        self._settled = settled
        self.ready: set[str] = set()
        """Queues that attempts may go to at once."""

    @property
    def in_flight(self) -> int:
        return sum(map(len, self._waiting.values()))

    @property
    def bytes_in_flight(self) -> int:
        return sum(envelope.size for queue in self._waiting.values() for envelope, *_ in queue)

    def publish(self, envelope: Envelope, settle: Settle, deadline: float, alone: bool) -> None:  # noqa: FBT001  # as `Broker.publish` has it
        queue = envelope.routing_key
        waiting = self._waiting.get(queue)
        if waiting is not None:
            waiting.append((envelope, settle, deadline, alone))
            return
        self._waiting[queue] = deque([(envelope, settle, deadline, alone)])
        self._spawn(self._work(queue))

    def lost(self) -> None:
        """The link ended: what waits was never sent."""
        self.ready.clear()
        everything, self._waiting = self._waiting, {}
        for waiting in everything.values():
            self._settle(waiting, NotSentCause.NOT_CONNECTED)

    async def _work(self, queue: str) -> None:
        using = heard(asyncio.get_running_loop().create_task(self._use(queue)))
        try:
            while not using.done():
                await asyncio.wait({using}, timeout=self._next_deadline(queue))
                self._expire(queue)
        finally:
            using.cancel()
        # No await from here: what comes next on this route goes out after these.
        waiting = self._waiting.pop(queue, deque())
        error = using.exception()
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

    def _next_deadline(self, queue: str) -> float | None:
        deadlines = [deadline for _, _, deadline, _ in self._waiting.get(queue, ())]
        return max(0.0, min(deadlines) - self._clock.monotonic()) if deadlines else None

    def _expire(self, queue: str) -> None:
        now, waiting = self._clock.monotonic(), self._waiting.get(queue, deque())
        late = [each for each in waiting if each[2] <= now]
        if late:
            self._waiting[queue] = deque(each for each in waiting if each[2] > now)
            self._settle(late, NotSentCause.DEADLINE)

    def _settle(self, waiting: Iterable[Waiting], cause: NotSentCause) -> None:
        for _, settle, _, _ in waiting:
            self._settled.run(settle, self._alarmed() or NotSent(cause))
