"""Log lines on their way to a file descriptor, so that whoever reads there cannot stop us.

    any thread ──formatted line──> a queue of at most QUEUED ──> one thread ──write──> stderr

Race: a reader stalls (a terminal that is paused, a collector that hangs). The pipe fills, and the next write waits for
the reader, for ever. Were it the event loop that waits, the whole service would stand still. So a thread waits; the
queue fills; what comes then is dropped and counted. When it flows again, a line says how many were dropped.

A reader that is gone (EPIPE), a full disk or a descriptor that is closed is the same: dropped, counted, tried again.

The thread writes to the descriptor itself. A daemon thread that waits within Python's own `sys.stderr` holds its lock,
and an interpreter that ends while it is held aborts.
"""

from __future__ import annotations

import logging
import os
import queue
import select
import threading
from logging.handlers import QueueHandler, QueueListener
from typing import Final

QUEUED: Final = 10_000
"""Lines, about 300 bytes each: some seconds of a service that logs each task."""
FLUSH: Final = 2.0
"""Seconds that an ending program waits for its last lines to be written."""

DROPPED: Final = "log lines were dropped: who reads this stream is too slow, or was gone"


class QueuedLines(QueueHandler):
    """A logging handler over `descriptor`, which stays its caller's. Lines are formatted where they are logged: what a
    record refers to may change, and the trace that it belongs to is known only there.
    """

    def __init__(self, descriptor: int, formatter: logging.Formatter, *, limit: int = QUEUED) -> None:
        lines: queue.Queue[logging.LogRecord | None] = queue.Queue(limit)
        super().__init__(lines)
        self.setFormatter(formatter)
        # A copy: should somebody close the descriptor, its number may become that of a socket.
        self._writer = _Writer(os.dup(descriptor), formatter, self)
        self._listener = _Listener(lines, self._writer)
        self._overflowed = 0
        self._ended = False
        self._listener.start()

    @property
    def dropped(self) -> int:
        """Lines that nobody will read."""
        return self._overflowed + self._writer.failed

    def enqueue(self, record: logging.LogRecord) -> None:
        # Called with the handler's lock held.
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self._overflowed += 1

    def end(self, limit: float = FLUSH) -> None:
        """Write what is queued, for at most `limit` seconds. A thread that waits for its reader is left behind."""
        if self._ended:
            return
        self._ended = True
        ending = threading.Thread(target=self._listener.stop, name="mlproducer-log-end", daemon=True)
        ending.start()
        ending.join(limit)


class _Listener(QueueListener):
    def __init__(self, lines: queue.Queue[logging.LogRecord | None], writer: logging.Handler) -> None:
        super().__init__(lines, writer)
        self._lines = lines

    def enqueue_sentinel(self) -> None:
        self._lines.put(None)  # waits for room, where the library's raises


class _Writer(logging.Handler):
    """In the listener's thread."""

    def __init__(self, descriptor: int, formatter: logging.Formatter, lines: QueuedLines) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._words = formatter
        self._lines = lines
        self._told = 0
        self.failed = 0

    def createLock(self) -> None:  # noqa: N802  # the library's own name
        """None: one thread writes. Held while it waits for its reader, it would hold up the end of the program, which
        flushes every handler there is.
        """
        self.lock = None

    def handle(self, record: logging.LogRecord) -> bool:
        """Without the lock that it does not have: from Python 3.13 on the library takes it without a look."""
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._write(record.getMessage())
        except OSError:
            self.failed += 1
            return
        dropped = self._lines.dropped
        if dropped > self._told:
            told, self._told = self._told, dropped
            try:
                self._write(self._words.format(_about(dropped - told)))
            except OSError:
                self._told = told

    def _write(self, line: str) -> None:
        left = memoryview((line + "\n").encode(errors="backslashreplace"))
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:  # somebody else who shares the descriptor made it non-blocking
                select.select((), (self._descriptor,), ())


def _about(count: int) -> logging.LogRecord:
    record = logging.LogRecord("mlproducer", logging.WARNING, "", 0, DROPPED, None, None)
    record.mlproducer_facts = {"event": DROPPED, "count": count}
    return record
