"""NDJSON in: numbered lines from a file or a pipe, in bounded memory, and interruptible while a pipe is silent."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from typing import Final, NamedTuple

_CHUNK: Final = 256 * 1024
_AHEAD: Final = 4
"""Chunks read before somebody wants them."""
_BOM: Final = b"\xef\xbb\xbf"


class Line(NamedTuple):
    number: int
    """From 1, blank lines counted."""
    data: bytes
    """Without its line end; at most `limit` bytes of it."""
    too_long: bool = False


class LineSplitter:
    """Chunks in, whole lines out. A line over `limit` bytes is cut and flagged, so that memory stays bounded."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rest = b""
        self._over = False
        self._number = 0

    def feed(self, chunk: bytes) -> list[Line]:
        *whole, rest = (self._rest + chunk).split(b"\n")
        lines = [line for data in whole if (line := self._line(data))]
        if len(rest) > self._limit:
            self._over, rest = True, rest[: self._limit]
        self._rest = rest
        return lines

    def end(self) -> list[Line]:
        rest, self._rest = self._rest, b""
        line = self._line(rest) if rest or self._over else None
        return [line] if line else []

    def _line(self, data: bytes) -> Line | None:
        self._number += 1
        over, self._over = self._over or len(data) > self._limit, False
        if self._number == 1:
            data = data.removeprefix(_BOM)
        data = data.strip()
        return Line(self._number, data[: self._limit], over) if data or over else None


async def read_lines(descriptor: int, *, limit: int, stop: asyncio.Event) -> AsyncIterator[Line]:
    """The non-blank lines of a file descriptor until its end, or until `stop` is set.

    A thread reads, since a file cannot be polled. It is a daemon that uses the bare descriptor: if we stop while
    it waits for a silent pipe, nothing waits for it, and it holds no lock that the interpreter needs to end.
    Raises: OSError.
    """
    reader = _Reader(descriptor)
    splitter = LineSplitter(limit)
    stopped = asyncio.get_running_loop().create_task(stop.wait())
    try:
        while chunk := await reader.chunk(stopped):
            for line in splitter.feed(chunk):
                if stop.is_set():
                    return
                yield line
        if not stop.is_set():
            for line in splitter.end():
                yield line
    finally:
        stopped.cancel()


class _Reader:
    """Reads chunks in a thread, at most `_AHEAD` of them before somebody wants them."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._loop = asyncio.get_running_loop()
        self._chunks: asyncio.Queue[bytes | OSError] = asyncio.Queue()
        self._room = threading.Semaphore(_AHEAD)
        threading.Thread(target=self._pump, name="read-lines", daemon=True).start()

    async def chunk(self, stopped: asyncio.Task[bool]) -> bytes:
        """The next chunk; empty at the end, or when stopped. Raises: OSError."""
        getting = asyncio.ensure_future(self._chunks.get())
        await asyncio.wait((getting, stopped), return_when=asyncio.FIRST_COMPLETED)
        if not getting.done():
            getting.cancel()
            return b""
        self._room.release()
        chunk = getting.result()
        if isinstance(chunk, OSError):
            raise chunk
        return chunk

    def _pump(self) -> None:
        chunk: bytes | OSError = b"-"
        while chunk and not isinstance(chunk, OSError):
            self._room.acquire()
            try:
                chunk = os.read(self._descriptor, _CHUNK)
            except OSError as exc:
                chunk = exc
            try:
                self._loop.call_soon_threadsafe(self._chunks.put_nowait, chunk)
            except RuntimeError:  # the loop is closed: nobody is left to read for
                return
