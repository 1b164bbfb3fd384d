"""Many callers, one call: what is asked in one turn of the loop, or while a call is under way, goes into the next one.

A durable commit costs the server one sync of its file, and each call a way there and back, however many rows are in
it. Under load the groups grow by themselves while the server is busy.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

from mlproducer.errors import SpoolUnavailable

Answer = TypeVar("Answer")

Args = tuple[str | bytes, ...]

LARGEST: Final = 500
"""Requests in one call: the server does nothing else meanwhile, and beyond it a call is hardly cheaper by the row."""
LARGEST_BYTES: Final = 8 * 1024 * 1024


class Group(Generic[Answer]):
    """Requests of one kind. `send` makes the call: for the arguments of each request, one answer of the same order."""

    def __init__(
        self, send: Callable[[Sequence[Args]], Awaitable[Sequence[Answer]]], *, largest: int = LARGEST
    ) -> None:
        self._send = send
        self._largest = largest
        self._queue: deque[tuple[Args, asyncio.Future[Answer]]] = deque()
        self._work: asyncio.Task[None] | None = None

    def ask(self, *args: str | bytes) -> asyncio.Future[Answer]:
        """It raises SpoolUnavailable."""
        waiter: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._queue.append((args, waiter))
        if self._work is None:
            # It starts with the next turn of the loop: until then, others may join.
            self._work = asyncio.create_task(self._run(), name="mlproducer-spool")
        return waiter

    async def end(self) -> None:
        """Finish what was asked. Cancelled, it leaves the work to end by itself."""
        while self._work is not None:
            await asyncio.wait([self._work])

    async def _run(self) -> None:
        try:
            while self._queue:
                await self._call(self._take())
        finally:
            self._work = None  # no wait since the queue was found empty, so nobody joined meanwhile
            self._fail_all(SpoolUnavailable("the spool was closed"))  # nobody, unless this task itself was cancelled

    def _take(self) -> list[tuple[Args, asyncio.Future[Answer]]]:
        """Race: a caller is cancelled while its request waits here. Then it is left out; cancelled after this look, it
        is done whole, and nobody hears of it. Never half.
        """
        group: list[tuple[Args, asyncio.Future[Answer]]] = []
        size = 0
        while self._queue and len(group) < self._largest and size < LARGEST_BYTES:
            args, waiter = self._queue.popleft()
            if not waiter.done():
                group.append((args, waiter))
                size += sum(map(len, args))
        return group

    async def _call(self, group: Sequence[tuple[Args, asyncio.Future[Answer]]]) -> None:
        if not group:
            return
        try:
            answers = list(zip(group, await self._send([args for args, _ in group]), strict=True))
        except SpoolUnavailable as error:
            # Those behind would wait as long for the same server, one group after the other: they hear of it now.
            # Nothing of theirs was sent.
            self._queue.extendleft(reversed(group))
            self._fail_all(error)
        except Exception as error:  # noqa: BLE001  # whatever it was, the waiters must hear of it
            failed = SpoolUnavailable(f"the spool cannot do this ({type(error).__name__})")
            failed.__cause__ = error
            self._queue.extendleft(reversed(group))
            self._fail_all(failed)
        except asyncio.CancelledError:  # the loop ends
            self._queue.extendleft(reversed(group))
            raise
        else:
            for (_, waiter), answer in answers:
                if not waiter.done():
                    waiter.set_result(answer)

    def _fail_all(self, error: SpoolUnavailable) -> None:
        while self._queue:
            _, waiter = self._queue.popleft()
            if not waiter.done():
                own = SpoolUnavailable(str(error), retry_after=error.retry_after)
                own.__cause__ = error.__cause__
                waiter.set_exception(own)
