"""The engine: starts and stops the parts, and is the face that library, service and command line share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from contextvars import Context
from dataclasses import dataclass
from typing import Final, Protocol, Self, TypeVar

from mlproducer.analytics.counting import Counting
from mlproducer.analytics.reading import Analytics
from mlproducer.analytics.results import Counted, Results
from mlproducer.core.replay import Chosen
from mlproducer.core.results import TaskResult
from mlproducer.delivery.callbacks import Callbacks
from mlproducer.delivery.drain import Drain
from mlproducer.delivery.gauges import Gauges
from mlproducer.delivery.guard import Guard
from mlproducer.delivery.home import Home
from mlproducer.delivery.leaving import Leaving
from mlproducer.delivery.link import LinkKeeper
from mlproducer.delivery.operations import Operations
from mlproducer.delivery.pipeline import Pipeline, publish_one
from mlproducer.delivery.replay import Step
from mlproducer.delivery.spool_watch import SpoolWatch
from mlproducer.delivery.stream import Refusal, Stream
from mlproducer.envelope.encode import parse_task
from mlproducer.events import Part, PartFailed
from mlproducer.jobs import shielded
from mlproducer.ports import Listener, Spool
from mlproducer.rows import Audit, DeadEntry, DeadFilter, DeadLetter, SpoolRow, WaitingEntry
from mlproducer.status import Health, Status
from mlproducer.task import Receipt, Task

T = TypeVar("T")


class Loop(Protocol):
    async def run(self) -> None: ...


BEGIN_AGAIN: Final = 1.0
"""Seconds before a loop that failed begins again."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What an engine is made of; `wiring` puts it together. Durations in seconds."""

    spool: Spool
    watch: SpoolWatch
    guard: Guard
    link: LinkKeeper
    pipeline: Pipeline
    drain: Drain
    gauges: Gauges
    operations: Operations
    leaving: Leaving
    counting: Counting
    analytics: Analytics
    results: Results
    callbacks: Callbacks
    tell: Listener
    confirm_timeout: float
    shutdown_timeout: float
    loops: Sequence[tuple[Part, Loop]]
    """What runs as long as the engine, beside the drain; errors are told as of that part."""


class Engine:
    """Publishes tasks and loses none that it accepted. An async context manager, for one event loop.

    In another process, thread or event loop than `start` ran in, everything here raises `WrongLoop` first.
    """

    def __init__(self, parts: Parts) -> None:
        self._all_parts = parts
        self._home = Home()
        self._loops: list[asyncio.Task[None]] = []
        self._started = False
        self._stopping: asyncio.Task[None] | None = None

    @property
    def _parts(self) -> Parts:
        """Whoever needs a part looks first where it is used from. Raises: WrongLoop."""
        self._home.look()
        return self._all_parts

    @property
    def _operations(self) -> Operations:
        return self._parts.operations

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if not self._home.forked:  # a child that leaves the block has nothing here to stop
            await self.stop()

    async def start(self) -> None:
        """Open the spool and begin to connect. Does not wait for the broker: until it answers, tasks are spooled.

        Raises: SpoolUnavailable, if the spool cannot be opened: without it nothing could be promised; RuntimeError, if
        it was started before.
        """
        parts = self._parts
        if self._started:
            raise RuntimeError("a producer is started once: make another one")
        await parts.spool.open()
        try:
            await parts.gauges.measure()
        except BaseException:
            await parts.spool.close()  # cancelled: nobody will stop what did not start
            raise
        self._home.enter()
        self._started = parts.pipeline.accepting = True
        parts.link.start()
        loop = asyncio.get_running_loop()
        looping: list[tuple[Part, Loop]] = [("drain", parts.drain), *parts.loops]
        # In contexts of their own: what runs as long as the producer belongs to no trace that happens to start it.
        self._loops = [loop.create_task(_kept(part.run, name, parts.tell), context=Context()) for name, part in looping]

    async def stop(self) -> None:
        """Accept nothing more, give what is in flight its time, publish what was spooled, close everything.

        In order: new calls are refused; calls under way may settle, and what this producer spooled and is due is
        published, until the shutdown timeout and as far as the link allows; then the link is closed, which makes what
        is left `Unsure`, so those calls commit to the spool and return `spooled`. What stays in the spool is said.

        Called twice, both wait for the same stop; who is cancelled leaves it going on.
        """
        parts = self._parts
        if not self._started:
            return
        if self._stopping is None:
            self._stopping = asyncio.get_running_loop().create_task(self._stop(parts), context=Context())
        await shielded(self._stopping)

    async def _stop(self, parts: Parts) -> None:
        now = asyncio.get_running_loop().time
        end = now() + parts.shutdown_timeout
        parts.pipeline.close()
        await self._idle(parts.shutdown_timeout)
        await parts.leaving.drain(end - now(), ours=True)
        parts.drain.stop()
        obstacle = parts.leaving.obstacle()
        await parts.link.stop()
        parts.guard.stop()
        await self._idle(parts.confirm_timeout)
        loops, self._loops = self._loops, []
        await asyncio.wait(loops[:1], timeout=parts.confirm_timeout)  # the drain ends by itself after its batch
        for job in loops:
            job.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
        await parts.pipeline.stop()
        await parts.counting.stop(parts.confirm_timeout)
        await parts.leaving.say(obstacle)
        await parts.spool.close()
        self._home.leave()

    async def connected(self, timeout: float) -> bool:  # noqa: ASYNC109  # one wait, no more
        """Wait until the first connect has succeeded or failed, at most `timeout` seconds; True if it is up."""
        await self._parts.link.opening.wait(timeout)
        return self.is_healthy()

    async def drained(self, timeout: float) -> bool:  # noqa: ASYNC109  # a deadline over many short waits
        """Wait until nothing that is due waits in the spool, whoever put it there, nor a retry of this process's tasks
        that comes within `timeout`; at most `timeout` seconds.

        True if it came to that; False as soon as it cannot, because there is no link or the broker takes nothing.
        """
        return await self._parts.leaving.drain(timeout, ours=False)

    async def publish(self, task: Task, *, timeout: float | None = None) -> Receipt:  # noqa: ASYNC109  # see publish_one
        """Accept one task and return its receipt: `confirmed` or `spooled`, and nothing else.

        `timeout`, in seconds (ML_ACCEPT_TIMEOUT by default), bounds everything: the direct attempt, which ends after
        ML_CONFIRM_TIMEOUT in any case, and the commit to the spool if there was no confirm. Cancelling the call leaves
        the task either unaccepted or, if its commit was under way, spooled whole.

        A task id that the caller chose is remembered by the spool, across restarts and instances: the same id with the
        same content gives the first receipt again (docs/adr/0007).

        Raises:
            InvalidTask: the task is wrong; `field` says where.
            TaskTooLarge: it is over `ML_MAX_MESSAGE_BYTES`.
            SpoolFull, SpoolUnavailable: it could be neither confirmed nor spooled. If an attempt was made before,
                its outcome is unknown: publish again with the same task id.
            TaskConflict: the id was used for other content.
            NotInTime: the deadline came first; publish again with the same task id.
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
        return self._read_here(Stream(self._all_parts.pipeline, window).run(tasks))

    async def publish_summarization_task(
        self, share_id: str, content: str | Mapping[str, object], **given: object
    ) -> Receipt:
        """Summarise `content`: a text, or the worker's object (`text`; `title`, `url`, `contentType`).

        `given`: `options` (a dict for the worker) and any field of `Task`. Raises: as `publish`.
        """
        return await self._publish_of_type("summarize_llm", given, share_id=share_id, content=content)

    async def publish_transcription_task(
        self, share_id: str, media: str | Mapping[str, object], **given: object
    ) -> Receipt:
        """Transcribe `media`: a URL that the worker can fetch, or the worker's object (`mediaUrl`).

        See `publish_summarization_task`.
        """
        return await self._publish_of_type("transcribe_whisper", given, share_id=share_id, content=media)

    async def publish_embedding_task(
        self, share_id: str, content: str | Mapping[str, object], **given: object
    ) -> Receipt:
        """Embed `content`: a text, or the worker's object (`text`; `type`, `metadata`).

        See `publish_summarization_task`.
        """
        return await self._publish_of_type("embed_vectors", given, share_id=share_id, content=content)

    async def publish_batch_embedding_task(self, tasks: Sequence[Mapping[str, object]], **given: object) -> Receipt:
        """Embed many texts in one task: `tasks` of `{"share_id": …, "content": …, "options": …}`, 1 to 1,000.

        `options` may be left out, there and beside `tasks`; beside them they hold for all. Else as
        `publish_embedding_task`.
        """
        return await self._publish_of_type("embed_vectors_batch", given, tasks=list(tasks))

    async def publish_video_summary_task(
        self, share_id: str, content: str | Mapping[str, object], **given: object
    ) -> Receipt:
        """Summarise a video by what was said in it and written about it. `content`: the transcript, or an object of
        `transcript`, `caption`, `hashtags`, `platform`, `title` and `url`. See `publish_summarization_task`.
        """
        return await self._publish_of_type("summarize_video_combined", given, share_id=share_id, content=content)

    def is_healthy(self) -> bool:
        """New tasks are confirmed directly: connected, not blocked, breaker closed, spool writable."""
        return self.health().direct

    def now(self) -> float:
        """Unix seconds, by the clock that the spool's times are of: its server's, or this host's (docs/adr/0015)."""
        return self._operations.now()

    def status(self) -> Status:
        return self._operations.status()

    def health(self) -> Health:
        return self._operations.health()

    async def receipt(self, task_id: str) -> Receipt:
        """The latest known state of a task. Raises: NotFound, SpoolUnavailable."""
        return await self._operations.receipt(task_id)

    async def waiting(self, *, limit: int = 100, offset: int = 0) -> Sequence[WaitingEntry]:
        """Tasks in the retry queue, by when they are due, without content."""
        return await self._operations.waiting(limit, offset)

    async def waiting_task(self, task_id: str) -> SpoolRow:
        """One task of the retry queue, with its content and its history. Raises: NotFound."""
        return await self._operations.waiting_task(task_id)

    async def dead_letters(
        self, where: DeadFilter | None = None, *, limit: int = 100, offset: int = 0
    ) -> Sequence[DeadEntry]:
        """The dead letter queue, newest first, without content."""
        return await self._operations.dead_letters(where or DeadFilter(), limit, offset)

    async def dead_letter(self, task_id: str) -> DeadLetter:
        """One dead letter, with its content and its history. Raises: NotFound."""
        return await self._operations.dead_letter(task_id)

    async def plan(self, chosen: Chosen) -> int:
        """How many dead letters a replay or purge of `chosen` would take now. Changes nothing."""
        return await self._operations.plan(chosen)

    async def replay(
        self,
        chosen: Chosen,
        *,
        by: str = "library",
        rate: float | None = None,
        limit: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> int:
        """Dead letters back into the retry queue, with no attempts spent. Returns how many were found.

        `chosen` are task ids, or a `DeadFilter`: all that it lets through and that died before this call. `by` goes
        into the audit. `rate` is in tasks per second; `limit` bounds how many are taken, newest first. `progress` is
        called after each chunk with how many were looked at, and of how many; an error of it is logged and ends
        nothing. Cancelled, or ended by an error, it leaves what was replayed replayed and the rest dead; `audits` tells
        which.

        Raises: SpoolUnavailable; ValueError, for a wrong `by`, `rate` or `limit`.
        """
        done = 0
        told = None if progress is None else self._parts.callbacks.guarded("progress", progress)
        async with aclosing(self.replay_steps(chosen, by=by, rate=rate, limit=limit)) as steps:
            async for step in steps:
                done = step.done
                if told is not None:
                    told(step.taken, step.total)
        return done

    def replay_steps(
        self, chosen: Chosen, *, by: str = "library", rate: float | None = None, limit: int | None = None
    ) -> AsyncGenerator[Step, None]:
        """`replay`, as it goes: one step before the first chunk, and one after each."""
        return self._read_here(self._operations.replay(chosen, by, rate, limit))

    async def purge(self, chosen: Chosen, *, by: str = "library", limit: int | None = None) -> int:
        """Remove dead letters for good; else as `replay`. Returns how many were found."""
        return await self._operations.purge(chosen, by, limit)

    async def audits(self, *, limit: int = 100, offset: int = 0) -> Sequence[Audit]:
        """Who replayed or purged what, newest first."""
        return await self._operations.audits(limit, offset)

    @property
    def analytics(self) -> Analytics:
        """What was accepted, delivered, worked and spent, by hour; of all instances on this spool."""
        return self._parts.analytics

    def task_type_of(self, celery_task: str) -> str:
        """The task type that is published as this Celery task; `unknown` if none is."""
        return self._parts.results.task_type(celery_task)

    async def report(self, results: Sequence[TaskResult]) -> Sequence[Counted]:
        """Count what workers say of tasks: how they ended, how long it took, what it cost. Each once.

        Raises: SpoolUnavailable; ValueError, for a cost that is none.
        """
        return await self._parts.results.report(results)

    def reconnect(self) -> None:
        """Close the link if there is one, and start a fresh cycle of attempts at once."""
        self._operations.reconnect()

    def reset_breaker(self) -> None:
        """Close the circuit breaker by hand."""
        self._operations.reset_breaker()

    async def _read_here(self, steps: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
        """Nothing of it has begun before it is first read; it may have been made elsewhere."""
        self._home.look()
        async with aclosing(steps):
            async for step in steps:
                yield step

    async def _publish_of_type(self, task_type: str, given: dict[str, object], **payload: object) -> Receipt:
        self._home.look()  # before the task is looked at
        fields = dict(given)
        if "options" in fields:
            payload["options"] = fields.pop("options")
        return await self.publish(parse_task({"task_type": task_type, "payload": payload, **fields}))

    async def _idle(self, limit: float) -> None:
        """Wait until no caller waits for a receipt. Polled: this runs once in a life, and 20 ms is no wait there."""
        loop = asyncio.get_running_loop()
        end = loop.time() + limit
        while self._parts.pipeline.under_way and loop.time() < end:  # noqa: ASYNC110  # see above
            await asyncio.sleep(0.02)


async def _kept(run: Callable[[], Awaitable[None]], part: Part, tell: Listener) -> None:
    """A loop that goes on after an error nobody thought of, and says so: a drain that ended without a word would leave
    tasks in the spool for as long as the process lives.
    """
    while True:
        try:
            await run()
        except Exception as error:  # noqa: BLE001  # see above
            tell(PartFailed(part, error))
            await asyncio.sleep(BEGIN_AGAIN)
        else:
            return
