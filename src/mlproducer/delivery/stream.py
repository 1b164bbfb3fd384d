"""Publishing a stream of tasks: one feeder, no coroutine a task, bounded by a window."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable
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
    """A task on its way through a stream; it is its own settle callback, so that a task costs one object here.

    `outcome` is None for a task that goes the slow way, or (without `accepting`) one whose id is known already.
    """

    task: Task
    accepting: Accepting | None
    arrive: Callable[[_Item], None]
    outcome: Outcome | None = None

    def __call__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.arrive(self)


class Stream:
    """One run of `publish_many`.

    The feeder reads the source and starts attempts while fewer than `window` tasks are between the source and the
    caller; outcomes arrive by callback; the caller's own pull turns them into receipts, and sends those that need the
    spool on their way. So a slow caller slows the source, and a source that pauses does not hold back receipts that
    are there.
    """

    def __init__(self, pipeline: Pipeline, window: int) -> None:
        self._pipeline = pipeline
        self._window = window
        self._open = 0
        self._arrived: list[_Item | Refusal] = []
        self._results: list[Receipt | Refusal] = []
        self._jobs: set[asyncio.Task[None]] = set()
        self._bell = asyncio.Event()
        self._room = asyncio.Event()
        self._closed = False

    async def run(self, tasks: Iterable[Task] | AsyncIterable[Task]) -> AsyncGenerator[Receipt | Refusal, None]:
        """Results in the order in which they settle. An error of the source is raised after all that it gave."""
        feeder = asyncio.get_running_loop().create_task(self._feed(tasks))
        feeder.add_done_callback(lambda _: self._bell.set())
        try:
            while self._open or not feeder.done():
                if not self._arrived and not self._results:
                    await self._bell.wait()
                self._bell.clear()
                self._conclude()
                results, self._results = self._results, []
                for result in results:
                    self._open -= 1
                    self._room.set()
                    yield result
            await feeder
        finally:
            self._close()
            for job in (feeder, *self._jobs):
                job.cancel()
            await asyncio.gather(feeder, *self._jobs, return_exceptions=True)

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
            self._arrive(Refusal(task, error))
            return
        if accepting is None or accepting.slow:
            self._arrive(_Item(task, accepting, self._arrive))
        elif pipeline.paused() and not await pipeline.writable(accepting):
            accepting.move(Move.PUBLISH)
            _Item(task, accepting, self._arrive)(NotSent(NotSentCause.DEADLINE))
        else:
            pipeline.attempt(accepting, _Item(task, accepting, self._arrive))

    def _arrive(self, item: _Item | Refusal) -> None:
        # Race: the caller abandons the iteration with tasks in flight; their outcomes come here after `_close`.
        # Nobody holds a receipt for them, so they are let go.
        if self._closed:
            self._let_go(item)
            return
        self._arrived.append(item)
        self._bell.set()

    def _conclude(self) -> None:
        """Confirmed tasks have their receipts at once; each other one goes its own way, and is told by the bell.

        None may be waited for here: a repeated id waits for the receipt of the first, which only this loop gives.
        They run together, so that the spool commits them in one group.
        """
        arrived, self._arrived = self._arrived, []
        for item in arrived:
            if isinstance(item, Refusal):
                self._results.append(item)
            elif item.accepting is not None and type(item.outcome) is Confirmed:
                self._results.append(self._pipeline.confirmed(item.accepting))
            else:
                job = asyncio.get_running_loop().create_task(self._finish(item))
                self._jobs.add(job)
                job.add_done_callback(self._jobs.discard)

    async def _finish(self, item: _Item) -> None:
        result = await self._slow(item)
        self._results.append(result)  # not in one line: the list is another one after the wait
        self._bell.set()

    async def _slow(self, item: _Item) -> Receipt | Refusal:
        pipeline, accepting = self._pipeline, item.accepting
        try:
            if accepting is None:
                return await publish_one(pipeline, item.task, None)
            return await pipeline.conclude(accepting, item.outcome)
        except RefusedTask as error:
            if accepting is not None:  # else publish_one has told it
                pipeline.refused(item.task, error, accepting.trace)
            return Refusal(item.task, error)
        finally:
            if accepting is not None:
                pipeline.abandon(accepting)

    def _close(self) -> None:
        self._closed = True
        for item in self._arrived:
            self._let_go(item)
        self._arrived = []

    def _let_go(self, item: _Item | Refusal) -> None:
        if isinstance(item, _Item) and item.accepting is not None:
            self._pipeline.abandon(item.accepting)
