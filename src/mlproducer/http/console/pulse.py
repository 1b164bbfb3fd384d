"""What all consoles are told, made once however many there are.

    producer ──once a second──> Pulse ──the same bytes──> each browser (server-sent events)

A client that reads slowly misses samples and is not waited for: each gets the newest of each channel, so the memory
that a client takes does not grow. Dead letters are read only while somebody looks.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Final

from msgspec import Struct
from msgspec.structs import astuple
from pydantic_core import to_json, to_jsonable_python

from mlproducer.core.verdict import Cause, Level
from mlproducer.delivery.views import dead_view, waiting_view
from mlproducer.errors import NotAccepting, SpoolUnavailable
from mlproducer.loggers import get_logger
from mlproducer.redact import masked
from mlproducer.status import Status
from mlproducer.wiring import Producer

BEAT: Final = 1.0
"""Seconds between two samples: an operator sees a lost broker within two."""
KEPT: Final = 600
"""Samples: ten minutes, so that who opens the console after the alarm sees how it began."""
SPAN: Final = 10
"""Samples over which latency is taken: with one task a second a single sample would say nothing."""
CHANGES_KEPT: Final = 50
ROWS: Final = 10
"""Of each queue, on the overview."""
MOST: Final = 200
"""Consoles at once."""

_log = get_logger(__name__)


class Sample(Struct, frozen=True):
    """A point of the curves. `at` is Unix seconds, rates are per second, latencies seconds or None."""

    at: float
    level: str
    accepted: float
    confirmed: float
    p50: float | None
    p95: float | None
    p99: float | None
    waiting: int
    dead: int
    in_flight: int


_FIELDS: Final = Sample.__struct_fields__
_SHOWN: Final = {Level.GREEN: "ok", Level.AMBER: "warn", Level.RED: "bad"}
"""The page's names of levels: classes of its style sheet."""


class Change(Struct, frozen=True):
    """The verdict from a moment on."""

    at: float
    level: str
    title: str
    detail: str


class _Channel:
    """The newest event of a kind, encoded, and how many there were."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._content: object = None
        self.version = 0
        self.event = b""

    def tell(self, content: object) -> bool:
        """False if this is what was told last."""
        if content == self._content:
            return False
        self._content = content
        self.version += 1
        self.event = _event(self._name, content)
        return True

    def clear(self) -> None:
        """Nothing to tell, until the next `tell`."""
        self._content, self.event = None, b""


class Pulse:
    """One a producer, on its event loop."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self._totals = deque([(time.monotonic(), producer.metrics.totals())], maxlen=SPAN + 1)
        self._history: deque[Sample] = deque(maxlen=KEPT)
        self._changes: deque[Change] = deque(maxlen=CHANGES_KEPT)
        self._sample, self._waiting, self._dead, self._told = (
            _Channel(name) for name in ("sample", "waiting", "dead", "changes")
        )
        self._watchers = 0
        self._news = asyncio.Event()
        self._jobs: list[asyncio.Task[None]] = []
        self._stopped = False

    def start(self) -> None:
        """Begin to sample, if that was not begun. It ends with `stop` or with the event loop."""
        if self._jobs or self._stopped:
            return
        loop = asyncio.get_running_loop()
        self._totals[-1] = (time.monotonic(), self._producer.metrics.totals())
        self._jobs = [loop.create_task(_every(BEAT, self._take)), loop.create_task(_every(BEAT, self._read))]

    def stop(self) -> None:
        """End the sampling and every stream."""
        self._stopped = True
        for job in self._jobs:
            job.cancel()
        self._wake()

    async def frames(self, stands: Callable[[], bool]) -> AsyncGenerator[bytes, None]:
        """The history, then what is new, as server-sent events, until `stop` or until the caller's right is over.

        Raises: NotAccepting, if there are too many already.
        """
        if self._watchers >= MOST:
            raise NotAccepting(f"{MOST} consoles are open on this service; close some")
        self.start()
        self._watchers += 1
        seen: dict[_Channel, int] = {}
        try:
            yield b"retry: 1000\n\n" + self._past()
            while not self._stopped and stands():
                news = self._news
                fresh = [each for each in self._channels() if each.event and seen.get(each) != each.version]
                if fresh:
                    seen |= {each: each.version for each in fresh}
                    yield b"".join(each.event for each in fresh)
                else:
                    await news.wait()
        finally:
            self._watchers -= 1

    def _channels(self) -> tuple[_Channel, ...]:
        return self._sample, self._told, self._waiting, self._dead

    def _past(self) -> bytes:
        """Every sample kept, column by column."""
        return _event("history", {name: [getattr(each, name) for each in self._history] for name in _FIELDS})

    async def _take(self) -> None:
        """One sample. Costs about half a millisecond, whoever looks."""
        producer, moment = self._producer, time.monotonic()
        status, totals = producer.status(), producer.metrics.totals()
        before, last = self._totals[-1]
        seconds = max(moment - before, 1e-3)
        p50, p95, p99 = totals.quantiles(self._totals[0][1], 0.5, 0.95, 0.99)
        level = _SHOWN[status.level]
        at = time.time()
        sample = Sample(
            at,
            level,
            (totals.accepted - last.accepted) / seconds,
            (totals.confirmed - last.confirmed) / seconds,
            p50,
            p95,
            p99,
            status.spool_tasks,
            status.dead,
            status.in_flight,
        )
        self._totals.append((moment, totals))
        self._history.append(sample)
        detail = detail_of(status)
        self._note(Change(at, level, status.title, detail))
        verdict = {"level": level, "title": status.title, "detail": detail}
        self._sample.tell({"sample": sample, "verdict": verdict, "status": status})
        self._wake()

    def _note(self, change: Change) -> None:
        last = self._changes[-1] if self._changes else None
        if last is None or (last.level, last.title) != (change.level, change.title):
            self._changes.append(change)
            self._told.tell(list(self._changes)[::-1])

    async def _read(self) -> None:
        """The first rows of both queues. A task of its own: a store that is gone may take long to say so."""
        producer, watched = self._producer, self._watchers > 0
        status = producer.status()
        try:
            waiting = await producer.waiting(limit=ROWS) if status.spool_tasks and watched else ()
            dead = await producer.dead_letters(limit=ROWS) if status.dead and watched else ()
        except SpoolUnavailable:
            return  # the verdict tells
        if not watched:
            for each in (self._waiting, self._dead):
                each.clear()  # rather nothing for a second than what was true an hour ago
            return
        news = (self._waiting.tell([*map(waiting_view, waiting)]), self._dead.tell([*map(dead_view, dead)]))
        if any(news):
            self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


async def _every(seconds: float, act: Callable[[], Awaitable[None]]) -> None:
    """A loop that an error does not end: it is logged, and the console shows that its data are old."""
    while True:
        try:
            await act()
        except Exception:  # noqa: BLE001  # see above
            _log.exception("the console could not be told what is new")
        await asyncio.sleep(seconds)


def detail_of(status: Status) -> str:
    """The worst cause; what becomes of new tasks; how many wait; and the other causes by name, so that none hides."""
    worst = f"{_sentence(status.causes[0])} " if status.causes else f"Connected to {status.node}. "
    waiting = f" {status.spool_tasks:,} task{'s wait' if status.spool_tasks != 1 else ' waits'} in the spool."
    others = dict.fromkeys(cause.title for cause in status.causes if cause.title != status.title)
    also = f" Also: {'; '.join(others).lower()}." if others else ""
    return f"{worst}{status.promise}{waiting if status.spool_tasks else ''}{also}"


def _sentence(cause: Cause) -> str:
    """A queue's or a route's name is left as it is."""
    text = cause.text.rstrip(".")
    return f"{text}." if cause.about else f"{text[:1].upper()}{text[1:]}."


def _event(name: str, content: object) -> bytes:
    """JSON has no raw line ends, so one line of data is the whole."""
    data = to_json(masked(to_jsonable_python(content, fallback=_plain)))
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"


def _plain(value: object) -> object:
    """Our structs, which pydantic does not know."""
    if isinstance(value, Struct):
        return dict(zip(value.__struct_fields__, astuple(value), strict=True))
    raise TypeError(type(value).__name__)
