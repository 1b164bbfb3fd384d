"""Background work, and who hears of its errors.

asyncio keeps the error of a task for whoever asks for its result, and nobody asks a background job. Its error comes to
light when the garbage collector finds the task, as "exception was never retrieved"; until then everybody waits for what
will not come. A callback of the loop is no better: its error ends nothing at all. So whoever starts a job or a timer
here has said what its error ends (docs/adr/0013).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVar

T = TypeVar("T")
F = TypeVar("F", bound=asyncio.Future[Any])


class Jobs:
    """The jobs, timers and callbacks of one owner. `failed` is told at once what one of them raises."""

    def __init__(self, failed: Callable[[Exception], None]) -> None:
        self._failed = failed
        self._running: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._running)

    def spawn(self, work: Coroutine[Any, Any, None], context: Context | None = None) -> asyncio.Task[None]:
        """Start a job. It belongs to the trace of whoever starts it, unless it has a `context` of its own."""
        job = asyncio.get_running_loop().create_task(work, context=context)
        self._running.add(job)
        job.add_done_callback(self._ended)
        return job

    def later(self, delay: float, call: Callable[..., None], *args: object) -> asyncio.TimerHandle:
        """Call it in `delay` seconds."""
        return asyncio.get_running_loop().call_later(delay, self.run, call, *args)

    def run(self, call: Callable[..., None], *args: object) -> None:
        """Call it now. For what the loop calls: an error goes to the owner, and no further."""
        try:
            call(*args)
        except Exception as error:  # noqa: BLE001  # whatever it is, its owner must hear of it
            self._failed(error)

    def cancel(self) -> None:
        for job in list(self._running):
            job.cancel()

    async def ended(self) -> None:
        """Wait until none runs."""
        await asyncio.gather(*self._running, return_exceptions=True)

    async def any_ended(self) -> None:
        """Wait until one of them has ended."""
        await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)

    def _ended(self, job: asyncio.Task[None]) -> None:
        self._running.discard(job)
        if not job.cancelled() and isinstance(error := job.exception(), Exception):
            self._failed(error)


async def shielded(future: asyncio.Future[T]) -> T:
    """Its result. Who waits here may be cancelled: the future goes on.

    Not so `asyncio.shield`: from Python 3.14 on it tells the loop's handler of an error that comes after that, though
    somebody else waits for the future and hears it.
    """
    if not future.done():
        await asyncio.wait([future])
    return future.result()


def heard(future: F) -> F:
    """The same future, whose error may go to nobody: its reason is told in another way, and who waits may be gone."""
    future.add_done_callback(_hear)
    return future


def _hear(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()
