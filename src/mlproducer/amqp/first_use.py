"""Attempts on a route that this link has not seen yet. They wait until its queue is made or looked at, and go out in
their order; other routes do not wait for them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from mlproducer.amqp.faults import ChannelClosed
from mlproducer.amqp.publishing import answer
from mlproducer.errors import BrokerError
from mlproducer.outcome import NotSent, NotSentCause
from mlproducer.ports import Clock, Settle
from mlproducer.task import Envelope

Waiting = tuple[Envelope, Settle, float, bool]
"""What `Broker.publish` was given: envelope, settle, deadline, alone."""


class FirstUse:
    """`use` makes a queue ready; `publish` takes what waited for it.

    Whatever `use` raises, each attempt is settled; what is neither BrokerError, ChannelClosed nor TimeoutError is a
    fault of ours, and reported as one.
    """

    def __init__(
        self,
        use: Callable[[str], Coroutine[Any, Any, None]],
        publish: Callable[[Envelope, Settle, float, bool], None],
        clock: Clock,
    ) -> None:
        self._use = use
        self._publish = publish
        self._clock = clock
        self._waiting: dict[str, deque[Waiting]] = {}
        self._jobs: set[asyncio.Task[None]] = set()
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
        job = asyncio.get_running_loop().create_task(self._work(queue))
        self._jobs.add(job)
        job.add_done_callback(self._ended)

    def lost(self) -> None:
        """The link ended: what waits was never sent."""
        self.ready.clear()
        for job in list(self._jobs):
            job.cancel()
        everything, self._waiting = self._waiting, {}
        for waiting in everything.values():
            _settle(waiting, NotSentCause.NOT_CONNECTED)

    async def _work(self, queue: str) -> None:
        using = asyncio.get_running_loop().create_task(self._use(queue))
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
        _settle(waiting, NotSentCause.DEADLINE if late else NotSentCause.NOT_CONNECTED)
        if not isinstance(error, TimeoutError | BrokerError | ChannelClosed):
            raise error

    def _ended(self, job: asyncio.Task[None]) -> None:
        self._jobs.discard(job)
        if not job.cancelled() and (error := job.exception()) is not None:
            told = {"message": "the first use of a queue failed", "exception": error}
            asyncio.get_running_loop().call_exception_handler(told)

    def _next_deadline(self, queue: str) -> float | None:
        deadlines = [deadline for _, _, deadline, _ in self._waiting.get(queue, ())]
        return max(0.0, min(deadlines) - self._clock.monotonic()) if deadlines else None

    def _expire(self, queue: str) -> None:
        now, waiting = self._clock.monotonic(), self._waiting.get(queue, deque())
        late = [each for each in waiting if each[2] <= now]
        if late:
            self._waiting[queue] = deque(each for each in waiting if each[2] > now)
            _settle(late, NotSentCause.DEADLINE)


def _settle(waiting: deque[Waiting] | list[Waiting], cause: NotSentCause) -> None:
    for _, settle, _, _ in waiting:
        answer(settle, NotSent(cause))
