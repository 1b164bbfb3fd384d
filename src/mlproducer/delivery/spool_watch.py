"""Whether the spool works, seen by everybody's calls: each part is given the spool through here.

Whatever call of whomever meets a store that is gone, it is known here at once: for health, readiness, the metric and
the log. There is no list of calls that somebody has to keep: what `ports.CountingSpool` has is watched.

When it works again is known from a call, too. Reads are made each second in any case (`gauges`). A write may not come
by itself: who is not ready is sent no tasks. So while a write is in doubt, an id that nobody has is claimed and let go
again.
"""

from __future__ import annotations

import asyncio
import inspect
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

from mlproducer.errors import SpoolUnavailable
from mlproducer.events import SpoolChanged, SpoolFailed
from mlproducer.ports import Clock, CountingSpool, Listener, Spool
from mlproducer.rows import Claim

LOOK: Final = 1.0
"""Seconds between two looks whether it works again. So it is in doubt for a second at least: a disk that is nearly full
takes a claim, and the next task not."""
SILENT: Final = 5.0
"""Seconds without an answer to a call after which the store is taken for one that hangs."""

READS: Final = frozenset({"measure", "find", "flows", "waiting", "dead", "count_dead", "audits", "counts"})
CLEARS: Final = READS - {"flows"}
"""The reads that show that reading works. The drain asks for flows at each turn: that would hide that others fail."""
PROVES: Final = frozenset({"put", "claim"})
"""What goes through only where a new task would. The other writes take out, and a full store does that still."""
_NOT_CALLS: Final = frozenset({"open", "close", "watch"})
CALLS: Final = tuple(name for name in dir(CountingSpool) if not name.startswith("_") and name not in _NOT_CALLS)


class SpoolWatch:
    """Has the spool that is to be used, and what its calls met."""

    def __init__(self, spool: Spool, clock: Clock, tell: Listener) -> None:
        self._clock = clock
        self._tell = tell
        self._read_error = self._write_error = ""
        self._under_way: dict[int, float] = {}
        """When calls that are no futures began, the first one first."""
        self._number = 0
        self._told_at: float | None = None
        self._available = True
        self._since = 0.0
        self._over = False
        self.spool = cast("CountingSpool", _Watched(spool, self))  # its methods are made from those of the port

    @property
    def error(self) -> str:
        """Why it cannot be used now; empty if it can."""
        return self._write_error or self._read_error or self._silence()

    async def run(self) -> None:
        try:
            while True:
                await asyncio.sleep(LOOK)
                if self._write_error:
                    await self._try_to_write()
                self._look()
        finally:
            self._over = True  # what still fails in a producer that ends is told by who loses something by it

    def began(self) -> int:
        self._number += 1
        self._under_way[self._number] = self._clock.monotonic()
        return self._number

    def ended(self, number: int) -> None:
        del self._under_way[number]

    def failed(self, call: str, error: SpoolUnavailable) -> None:
        if call in READS:
            self._read_error = str(error)
        else:
            self._write_error = str(error)
        self._look()
        self._say(call, str(error))

    def worked(self, call: str) -> None:
        if call in CLEARS:
            self._read_error = ""
        elif call in PROVES:
            self._write_error = ""
        if not self._available:
            self._look()

    def _look(self) -> None:
        """Tell it if that changed."""
        error, now = self.error, self._clock.monotonic()
        if self._over or bool(error) is not self._available:
            return
        self._available = not error
        lasted, self._since = (0.0 if error else now - self._since), now
        self._tell(SpoolChanged(self._available, error, lasted))

    def _say(self, call: str, text: str) -> None:
        # Callers may come by the thousand: a second's worth of them is told once.
        now = self._clock.monotonic()
        if self._over or (call in PROVES and self._told_at is not None and now - self._told_at < LOOK):
            return
        if call in PROVES:
            self._told_at = now
        self._tell(SpoolFailed(text))

    def _silence(self) -> str:
        first = next(iter(self._under_way.values()), None)
        seconds = 0.0 if first is None else self._clock.monotonic() - first
        if seconds < SILENT:
            return ""
        return (
            f"the spool has not answered for {seconds:.0f} s: is its server or disk overloaded, or gone? (ML_SPOOL_URL)"
        )

    async def _try_to_write(self) -> None:
        token = secrets.token_hex(8)
        task_id = f"mlproducer-probe-{token}"
        probe = Claim(task_id, "probe", b"", self._clock.now(), token)
        try:
            async with asyncio.timeout(SILENT):
                await self.spool.claim(probe, hold=SILENT)
                await self.spool.release(task_id, token)
        except (SpoolUnavailable, TimeoutError):
            pass  # it is known here already


class _Watched:
    """`spool`, and `watch` hears of what comes of each call."""

    def __init__(self, spool: Spool, watch: SpoolWatch) -> None:
        for name in CALLS:
            if hasattr(spool, name):  # a spool of somebody else's may keep no counters
                setattr(self, name, _watched(spool, name, watch))


def _watched(spool: Spool, name: str, watch: SpoolWatch) -> Callable[..., Awaitable[Any]]:
    def ended(answer: asyncio.Future[Any]) -> None:
        if answer.cancelled():
            return
        error = answer.exception()
        if error is None:
            watch.worked(name)
        elif isinstance(error, SpoolUnavailable):
            watch.failed(name, error)

    async def answered(method: Callable[..., Awaitable[Any]], args: Any, kwargs: Any) -> Any:  # noqa: ANN401  # as below
        number = watch.began()
        try:
            found = await method(*args, **kwargs)
        except SpoolUnavailable as error:
            watch.failed(name, error)
            raise
        finally:
            watch.ended(number)
        watch.worked(name)
        return found

    def call(*args: Any, **kwargs: Any) -> Awaitable[Any]:  # noqa: ANN401  # the port has the types
        method = getattr(spool, name)
        if inspect.iscoroutinefunction(method):
            # Called when it is awaited: a caller that is cancelled before that leaves nothing behind.
            return answered(method, args, kwargs)
        try:
            answer: asyncio.Future[Any] = method(*args, **kwargs)
        except SpoolUnavailable as error:
            watch.failed(name, error)
            raise
        # A future stays one: to make a task for each put would cost more than the put.
        answer.add_done_callback(ended)
        return answer

    return call
