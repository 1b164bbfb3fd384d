"""The engine: starts and stops the parts, and is the face that library, service and command line share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from mlproducer.delivery.drain import Drain
from mlproducer.delivery.guard import Guard
from mlproducer.delivery.health import Gauges, HealthCheck
from mlproducer.delivery.link import LinkKeeper
from mlproducer.delivery.operations import Operations
from mlproducer.delivery.pipeline import Pipeline, publish_one
from mlproducer.delivery.stream import Refusal, Stream
from mlproducer.envelope.encode import parse_task
from mlproducer.ports import DeadFilter, DeadLetter, Spool, SpoolRow
from mlproducer.status import CheckStatus, Health, Status
from mlproducer.task import Receipt, Task


@dataclass(frozen=True, slots=True)
class Parts:
    """What an engine is made of; `wiring` puts it together. Durations in seconds."""

    spool: Spool
    guard: Guard
    link: LinkKeeper
    pipeline: Pipeline
    drain: Drain
    health: HealthCheck
    gauges: Gauges
    operations: Operations
    confirm_timeout: float
    shutdown_timeout: float


class Engine:
    """Publishes tasks and loses none that it accepted. An async context manager, for one event loop."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._operations = parts.operations
        self._loops: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Open the spool and begin to connect. Does not wait for the broker: until it answers, tasks are spooled.

        Raises: SpoolUnavailable, if the spool cannot be opened: without it nothing could be promised.
        """
        parts = self._parts
        await parts.spool.open()
        await parts.gauges.measure()
        parts.pipeline.accepting = True
        parts.link.start()
        loop = asyncio.get_running_loop()
        self._loops = [loop.create_task(part.run()) for part in (parts.drain, parts.health, parts.gauges)]

    async def stop(self) -> None:
        """Accept nothing more, give what is in flight its time, spool the rest, close everything.

        In order: new calls are refused; calls under way may settle until the shutdown timeout; then the link is
        closed, which makes what is left `Unsure`, so those calls commit to the spool and return `spooled`.
        """
        parts = self._parts
        if not self._loops:
            return
        parts.pipeline.accepting = False
        parts.drain.stop()
        await self._idle(parts.shutdown_timeout)
        await parts.link.stop()
        parts.guard.stop()
        await self._idle(parts.confirm_timeout)
        loops, self._loops = self._loops, []
        await asyncio.wait(loops[:1], timeout=parts.confirm_timeout)  # the drain ends by itself after its batch
        for job in loops:
            job.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
        await parts.spool.close()

    async def connected(self, timeout: float) -> bool:  # noqa: ASYNC109  # one wait, no more
        """Wait until the first connect has succeeded or failed, at most `timeout` seconds; True if it is up."""
        try:
            async with asyncio.timeout(timeout):
                await self._parts.link.settled.wait()
        except TimeoutError:
            pass
        return self.is_healthy()

    async def publish(self, task: Task, *, timeout: float | None = None) -> Receipt:  # noqa: ASYNC109  # see publish_one
        """Accept one task and return its receipt: `confirmed` or `spooled`, and nothing else.

        `timeout`, in seconds, shortens the direct attempt (5 s by default); when it is over, the task is spooled.
        Cancelling the call leaves the task either unaccepted or, if its commit was under way, spooled whole.

        Raises:
            InvalidTask: the task is wrong; `field` says where.
            TaskTooLarge: it is over `ML_MAX_MESSAGE_BYTES`.
            SpoolFull, SpoolUnavailable: it could be neither confirmed nor spooled. If an attempt was made before,
                its outcome is unknown: publish again with the same task id.
            TaskConflict: the id was used for other content.
            NotAccepting: the producer is not started, or is stopping.
        """
        return await publish_one(self._parts.pipeline, task, timeout)

    def publish_many(
        self, tasks: Iterable[Task] | AsyncIterable[Task], *, window: int = 1_000
    ) -> AsyncGenerator[Receipt | Refusal, None]:
        """Publish a stream in bounded memory: at most `window` tasks are between `tasks` and the caller.

        Yields one `Receipt` or `Refusal` for each task, in the order in which they settle. Abandoning the iteration
        leaves the tasks whose results were not yielded unaccepted (a few may have reached the broker).
        """
        return Stream(self._parts.pipeline, window).run(tasks)

    async def publish_summarization_task(self, share_id: str, content: str, **given: object) -> Receipt:
        """Summarise `content`. `given`: `options` (a dict for the worker) and any field of `Task`."""
        return await self.publish(_task("summarize_llm", given, share_id=share_id, content=content))

    async def publish_transcription_task(self, share_id: str, media: str, **given: object) -> Receipt:
        """Transcribe what `media` refers to (a URL that the worker can fetch). See `publish_summarization_task`."""
        return await self.publish(_task("transcribe_whisper", given, share_id=share_id, content=media))

    async def publish_embedding_task(self, share_id: str, content: str, **given: object) -> Receipt:
        """Embed `content`. See `publish_summarization_task`."""
        return await self.publish(_task("embed_vectors", given, share_id=share_id, content=content))

    async def publish_batch_embedding_task(self, items: Sequence[dict[str, str]], **given: object) -> Receipt:
        """Embed many texts in one task: `items` of `{"share_id": …, "content": …}`, 1 to 1,000."""
        return await self.publish(_task("embed_vectors_batch", given, items=list(items)))

    def is_healthy(self) -> bool:
        """New tasks are confirmed directly: connected, not blocked, breaker closed, spool writable."""
        checks = {check.name: check.status for check in self.health().checks if check.name != "dead_letter_queue"}
        return self.status().accepting and all(status is CheckStatus.OK for status in checks.values())

    def status(self) -> Status:
        return self._operations.status()

    def health(self) -> Health:
        return self._operations.health()

    async def receipt(self, task_id: str) -> Receipt:
        """The latest known state of a task. Raises: NotFound."""
        return await self._operations.receipt(task_id)

    async def waiting(self, *, limit: int = 100, offset: int = 0) -> Sequence[SpoolRow]:
        """Tasks in the retry queue, by when they are due."""
        return await self._operations.waiting(limit, offset)

    async def dead_letters(
        self, where: DeadFilter | None = None, *, limit: int = 100, offset: int = 0
    ) -> Sequence[DeadLetter]:
        """The dead letter queue, newest first."""
        return await self._operations.dead_letters(where or DeadFilter(), limit, offset)

    async def dead_letter(self, task_id: str) -> DeadLetter:
        """One dead letter. Raises: NotFound."""
        return await self._operations.dead_letter(task_id)

    async def replay(self, task_ids: Sequence[str]) -> int:
        """Dead letters back into the retry queue, with no attempts spent. Returns how many were found."""
        return await self._operations.replay(task_ids)

    async def purge(self, task_ids: Sequence[str]) -> int:
        """Remove dead letters for good. Returns how many were found."""
        return await self._operations.purge(task_ids)

    def reconnect(self) -> None:
        """Close the link if there is one, and start a fresh cycle of attempts at once."""
        self._operations.reconnect()

    def reset_breaker(self) -> None:
        """Close the circuit breaker by hand."""
        self._operations.reset_breaker()

    async def _idle(self, limit: float) -> None:
        """Wait until no caller waits for a receipt. Polled: this runs once in a life, and 20 ms is no wait there."""
        loop = asyncio.get_running_loop()
        end = loop.time() + limit
        while self._parts.pipeline.under_way and loop.time() < end:  # noqa: ASYNC110  # see above
            await asyncio.sleep(0.02)


def _task(task_type: str, given: dict[str, object], **payload: object) -> Task:
    fields = dict(given)
    payload["options"] = fields.pop("options", {})
    return parse_task({"task_type": task_type, "payload": payload, **fields})
