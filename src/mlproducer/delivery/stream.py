"""Publishing a stream of tasks: one feeder, no coroutine a task, bounded by a window."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Iterable
from contextvars import copy_context
from dataclasses import dataclass
from typing import Final

from msgspec import Struct

from mlproducer.core.lifecycle import Move
from mlproducer.delivery.pipeline import Pipeline, publish_one
from mlproducer.delivery.receipts import Accepting
from mlproducer.errors import RefusedTask
from mlproducer.outcome import Confirmed, NotSent, NotSentCause, Outcome
from mlproducer.task import Receipt, Task

BURST: Final = 100
"""Tasks of a plain iterable that are started before the event loop gets a turn: a few ms of it, so that confirms are
read and the application's other work goes on."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A task of a stream that was not accepted, and why. It is nowhere."""

    task: Task
    error: RefusedTask


class _Item(Struct, eq=False):
    """A task on its way through a stream; it is its own settle callback, so that a task costs one object here."""

    task: Task
    accepting: Accepting
    arrive: Callable[[_Item, Outcome], None]

    def __call__(self, outcome: Outcome) -> None:
        self.arrive(self, outcome)


class Stream:
    """One run of `publish_many`.

    The feeder reads the source and starts attempts while fewer than `window` tasks are between the source and the
    caller. An outcome comes by callback and becomes a receipt there, or sends its task on the way to the spool: whether
    or not the caller pulls, what was begun comes to its end. So a slow caller slows the source, a source that pauses
    does not hold back receipts that are there, and a caller who forgot the stream leaves no task under way.

    What is under way is owned by the stream and not by a coroutine: a job that is cancelled before its first step runs
    no `finally`.
    """

    def __init__(self, pipeline: Pipeline, window: int) -> None:
        self._pipeline = pipeline
        self._window = window
        self._open = 0
        self._under_way: set[Accepting] = set()
        self._results: list[Receipt | Refusal] = []
        self._jobs: set[asyncio.Task[None]] = set()
        self._bell = asyncio.Event()
        self._room = asyncio.Event()
        self._closed = False
        self._failure: BaseException | None = None
        # Of the call: what the broker's answer leads to belongs to its trace all the same.
        self._context = copy_context()

    async def run(self, tasks: Iterable[Task] | AsyncIterable[Task]) -> AsyncGenerator[Receipt | Refusal, None]:
        """Results in the order in which they settle. An error of the source is raised after all that it gave."""
        feeder = asyncio.get_running_loop().create_task(self._feed(tasks))
        feeder.add_done_callback(lambda _: self._bell.set())
        try:
            while self._open or not feeder.done():
                if not self._results:
                    await self._bell.wait()
                self._bell.clear()
                if self._failure is not None:
                    raise self._failure
                results, self._results = self._results, []
                for result in results:
                    self._open -= 1
                    self._room.set()
                    yield result
            await feeder
        finally:
            await self._close(feeder)

    async def _feed(self, tasks: Iterable[Task] | AsyncIterable[Task]) -> None:
        if isinstance(tasks, AsyncIterable):
            async for task in tasks:
                await self._start(task)
        else:
            for number, task in enumerate(tasks, start=1):
                await self._start(task)
                if number % BURST == 0:
                    await asyncio.sleep(0)

    async def _start(self, task: Task) -> None:
        while self._open >= self._window:
            self._room.clear()
            await self._room.wait()
        self._open += 1
        pipeline = self._pipeline
        try:
            accepting = pipeline.begin(task)
        except RefusedTask as error:
            self._give(Refusal(task, error))
            return
        if accepting is None:
            # Its id is known, or another task of this stream has it: not waited for here, since that may be a later
            # turn's.
            self._spawn(self._known(task))
            return
        self._under_way.add(accepting)
        item = _Item(task, accepting, self._arrive)
        if accepting.slow or accepting.hurried or pipeline.opening:
            self._spawn(self._slow(item, None))
        elif pipeline.paused() and not await pipeline.writable(accepting):
            accepting.move(Move.PUBLISH)
            item(NotSent(NotSentCause.DEADLINE))
        else:
            pipeline.attempt(accepting, item)

    def _arrive(self, item: _Item, outcome: Outcome) -> None:
        """The outcome of a direct attempt. Those that were not confirmed run together from here, so that the spool
        commits them in one group.
        """
        # Race: the caller abandons the iteration with tasks in flight; their outcomes come here after `_close`, which
        # has let them go.
        if self._closed:
            return
        if type(outcome) is Confirmed:
            self._under_way.discard(item.accepting)
            self._give(self._pipeline.confirmed(item.accepting))
        else:
            self._spawn(self._slow(item, outcome))

    async def _known(self, task: Task) -> None:
        try:
            self._give(await publish_one(self._pipeline, task, None))
        except RefusedTask as error:  # publish_one has told it
            self._give(Refusal(task, error))

    async def _slow(self, item: _Item, outcome: Outcome | None) -> None:
        pipeline, accepting = self._pipeline, item.accepting
        try:
            receipt = await pipeline.conclude(accepting, outcome)
        except RefusedTask as error:
            pipeline.refused(item.task, error, accepting.trace)
            self._let_go(accepting)
            self._give(Refusal(item.task, error))
        else:
            self._under_way.discard(accepting)
            self._give(receipt)

    def _give(self, result: Receipt | Refusal) -> None:
        self._results.append(result)
        self._bell.set()

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        job = asyncio.get_running_loop().create_task(work, context=self._context)
        self._jobs.add(job)
        job.add_done_callback(self._ended)

    def _ended(self, job: asyncio.Task[None]) -> None:
        self._jobs.discard(job)
        if not self._closed and (job.cancelled() or job.exception() is not None):
            # Nobody thought of it. Its task has no result, so the stream could only wait for it for ever.
            self._failure = asyncio.CancelledError() if job.cancelled() else job.exception()
            self._bell.set()

    def _let_go(self, accepting: Accepting) -> None:
        self._under_way.discard(accepting)
        self._pipeline.abandon(accepting)

    async def _close(self, feeder: asyncio.Task[None]) -> None:
        self._closed = True
        jobs = (feeder, *self._jobs)
        for job in jobs:
            job.cancel()
        try:
            await asyncio.gather(*jobs, return_exceptions=True)
        finally:
            # Also when this is cancelled in its turn.
            for accepting in tuple(self._under_way):
                self._let_go(accepting)
