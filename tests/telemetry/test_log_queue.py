"""Log lines through a queue: nobody waits for who reads them, and what is dropped is counted and said."""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from mlproducer.telemetry.log_queue import DROPPED, QueuedLines

LINE = "x" * 1_000


class Pipe:
    """A small pipe, and a logger that writes into it through a queue of ten lines."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, 4096)
        self.lines = QueuedLines(self.writer, logging.Formatter("%(message)s"), limit=10)
        self.log = logging.getLogger(f"of this test.{id(self)}")
        self.log.propagate = False
        self.log.addHandler(self.lines)

    def fill(self) -> None:
        """No room for a line, until somebody reads."""
        os.set_blocking(self.writer, False)
        with suppress(BlockingIOError):
            while True:
                os.write(self.writer, b"." * 512)
        os.set_blocking(self.writer, True)

    def read(self) -> str:
        return os.read(self.reader, 1 << 16).decode()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    found = Pipe()
    yield found
    for descriptor in (found.reader, found.writer):
        with suppress(OSError):
            os.close(descriptor)
    found.lines.end(10)


def _until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_lines_come_in_order_and_whole(pipe: Pipe) -> None:
    for n in range(5):
        pipe.log.warning("line %d %s", n, "é")
    text = ""
    while text.count("\n") < 5:
        text += pipe.read()
    assert text == "".join(f"line {n} é\n" for n in range(5))
    assert pipe.lines.dropped == 0


def test_a_reader_that_stalls_costs_lines_and_no_time_and_is_told_how_many(pipe: Pipe) -> None:
    pipe.fill()
    for n in range(100):
        pipe.log.warning("%d %s", n, LINE)
    dropped = pipe.lines.dropped
    assert dropped >= 80
    text = ""
    # All of them, so that the next line finds room in the queue.
    while DROPPED not in text or text.count(LINE) + dropped < 100:
        text += pipe.read()
    pipe.log.warning("after")
    while "after" not in text:
        text += pipe.read()
    assert text.count(LINE) + dropped == 100
    assert text.count(DROPPED) == 1


def test_a_reader_that_is_gone_is_survived_and_counted(pipe: Pipe) -> None:
    os.close(pipe.reader)
    for _ in range(5):
        pipe.log.warning(LINE)
    _until(lambda: pipe.lines.dropped == 5)


def test_the_end_waits_for_the_last_lines_and_not_for_a_reader_that_stalls(pipe: Pipe) -> None:
    pipe.log.warning("last")
    pipe.lines.end(20)
    assert pipe.read() == "last\n"


def test_the_end_leaves_a_stalled_reader_behind() -> None:
    pipe = Pipe()
    for _ in range(30):
        pipe.log.warning(LINE)
    pipe.lines.end(0.05)
    assert pipe.lines.dropped > 0
    os.close(pipe.reader)  # frees the thread
    os.close(pipe.writer)


def test_a_descriptor_that_others_closed_is_not_written_into(pipe: Pipe) -> None:
    """Its number may be a socket's by now."""
    os.close(pipe.writer)
    other, end = os.pipe()
    try:
        assert pipe.writer in {other, end}
        pipe.log.warning("ours")
        assert pipe.read() == "ours\n"
    finally:
        os.close(other)
        os.close(end)
    pipe.writer = os.dup(pipe.reader)
