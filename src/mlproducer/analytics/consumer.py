"""Celery's task events from the broker into the counters, on a connection of its own.

aio-pika, and not Celery's own receiver: that one is a blocking loop in a thread, and its queue lives and dies with it,
so that what workers finish while nobody listens is never heard of. Our queue is durable and bounded, and stays for a
week without a reader.

Instances share that queue, and RabbitMQ lets one of them read it (single active consumer): the name of a task and its
end are two events, and whoever reads one needs the other. If that instance goes, another takes over.

Messages are acked when their results are committed. What is delivered again then is known by its id, and adds nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

from mlproducer.analytics.celery_events import EventReader
from mlproducer.analytics.results import Results
from mlproducer.core.backoff import Backoff
from mlproducer.errors import SpoolUnavailable
from mlproducer.ports import Clock

QUEUE: Final = "mlproducer.celery_events"
ROUTING_KEY: Final = "task.#"
"""Also `task.multi`: a worker sends many events of tasks as one message."""
ARGUMENTS: Final = {
    "x-queue-type": "quorum",
    "x-single-active-consumer": True,
    "x-max-length": 100_000,
    "x-expires": 7 * 86_400_000,  # milliseconds
}
PREFETCH: Final = 2_000
BATCH: Final = 1_000
"""Messages in one commit at most."""
GATHER: Final = 0.5
"""Seconds that the first message of a batch waits for others: a commit costs the same for all."""
AGAIN: Final = Backoff(0.5, 32.0, 0.3)
"""Between two tries to connect, or to store."""
SETTLED: Final = 60.0
"""Seconds; a connection that held so long was a good one: the back-off begins anew."""


class Message(Protocol):
    """As aio-pika's."""

    @property
    def body(self) -> bytes: ...

    async def ack(self, multiple: bool = False) -> None: ...  # noqa: FBT001, FBT002  # aio-pika's own signature


Connect = Callable[[int], Awaitable[Any]]
"""An aio-pika connection, on the n-th try."""


class CeleryEvents:
    """One loop. `exchange` is the one that workers send to; `failed` is told in words why it does not read now."""

    def __init__(
        self,
        connect: Connect,
        exchange: str,
        results: Results,
        clock: Clock,
        failed: Callable[[str], None],
    ) -> None:
        self._connect = connect
        self._exchange = exchange
        self._results = results
        self._clock = clock
        self._failed = failed
        self._reader = EventReader(lambda name: results.task_type(name) if results.is_ours(name) else None)

    async def run(self) -> None:
        tries = failures = 0
        while True:
            began = self._clock.monotonic()
            try:
                await self._read(tries)
            except Exception as error:  # noqa: BLE001  # aio-pika, its driver and the system have no common root
                self._failed(
                    f"Celery's events cannot be read from exchange {self._exchange} ({type(error).__name__}: {error}): "
                    "see RABBITMQ_URL, ML_CELERY_EVENTS, and whether the user may declare, bind and read "
                    f"the queue {QUEUE}"
                )
            tries += 1
            failures = 0 if self._clock.monotonic() - began > SETTLED else failures + 1
            await asyncio.sleep(AGAIN.delay(max(1, failures), self._clock.random()))

    async def _read(self, tries: int) -> None:
        """Until the connection ends; then it raises."""
        connection = await self._connect(tries)
        async with connection:
            channel = await connection.channel()
            await channel.set_qos(prefetch_count=PREFETCH)
            # As Celery declares it; whoever comes first makes it.
            exchange = await channel.declare_exchange(self._exchange, "topic", durable=True)
            queue = await channel.declare_queue(QUEUE, durable=True, arguments=ARGUMENTS)
            await queue.bind(exchange, ROUTING_KEY)
            inbox: asyncio.Queue[Message] = asyncio.Queue()
            await queue.consume(inbox.put)
            work = asyncio.create_task(self._work(inbox))
            closed = asyncio.ensure_future(channel.closed())
            try:
                await asyncio.wait((work, closed), return_when=asyncio.FIRST_COMPLETED)
            finally:
                for each in (work, closed):
                    each.cancel()
                ends = await asyncio.gather(work, closed, return_exceptions=True)
        error = next((end for end in ends if isinstance(end, Exception)), None)
        raise ConnectionError(f"the connection ended: {error or 'it was closed'}") from error

    async def _work(self, inbox: asyncio.Queue[Message]) -> None:
        while True:
            batch = await _batch(inbox)
            results = [result for message in batch for result in self._reader.read(message.body)]
            if results:
                await self._store(results)
            await batch[-1].ack(multiple=True)

    async def _store(self, results: list[Any]) -> None:
        """Until the store takes them. Meanwhile the broker holds back the rest: no more than `PREFETCH` are here."""
        failures = 0
        while True:
            try:
                await self._results.report(results)
            except SpoolUnavailable:
                failures += 1
                await asyncio.sleep(AGAIN.delay(failures, self._clock.random()))
            else:
                return


async def _batch(inbox: asyncio.Queue[Message]) -> list[Message]:
    batch = [await inbox.get()]
    try:
        async with asyncio.timeout(GATHER):
            while len(batch) < BATCH:
                batch.append(await inbox.get())
    except TimeoutError:
        pass
    return batch
