import asyncio
import os
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlproducer.cli.lines import Line, LineSplitter, read_lines


def _split(chunks: list[bytes], limit: int = 1000) -> list[Line]:
    splitter = LineSplitter(limit)
    found = [line for chunk in chunks for line in splitter.feed(chunk)]
    return found + splitter.end()


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=6))
def test_how_the_input_is_cut_into_chunks_changes_nothing(data: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(cut for cut in cuts if cut <= len(data)), len(data)]
    assert _split([data[a:b] for a, b in pairwise(edges)]) == _split([data])


def test_blank_lines_are_skipped_but_counted() -> None:
    assert _split([b"one\n\n  \r\nfour\r\nfive"]) == [Line(1, b"one"), Line(4, b"four"), Line(5, b"five")]


def test_a_byte_order_mark_is_no_part_of_the_first_line() -> None:
    assert _split([b"\xef\xbb\xbf{}\n"]) == [Line(1, b"{}")]


@pytest.mark.parametrize(
    "chunks", [[b"x" * 25 + b"\nok\n"], [b"x" * 12, b"x" * 13, b"\nok\n"], [b"x"] * 25 + [b"\nok"]]
)
def test_a_line_over_the_limit_is_flagged_and_the_next_one_is_whole(chunks: list[bytes]) -> None:
    assert _split(chunks, limit=10) == [Line(1, b"x" * 10, too_long=True), Line(2, b"ok")]


def test_a_line_over_the_limit_takes_no_more_memory_than_the_limit() -> None:
    splitter = LineSplitter(10)
    for _ in range(100):
        splitter.feed(b"y" * 1000)
    assert len(splitter._rest) <= 10


async def _collect(descriptor: int, stop: asyncio.Event) -> list[Line]:
    return [line async for line in read_lines(descriptor, limit=1000, stop=stop)]


async def test_a_file_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "many"
    path.write_bytes(b"".join(b"%d\n" % n for n in range(200_000)))
    with path.open("rb") as file:
        lines = await _collect(file.fileno(), asyncio.Event())
    assert [line.data for line in lines] == [b"%d" % n for n in range(200_000)]
    assert lines[-1].number == 200_000


async def test_a_line_of_a_pipe_comes_before_the_pipe_ends() -> None:
    reading, writing = os.pipe()
    lines = read_lines(reading, limit=1000, stop=asyncio.Event())
    os.write(writing, b"first\nsec")
    assert await asyncio.wait_for(anext(lines), 5) == Line(1, b"first")
    os.write(writing, b"ond")
    os.close(writing)
    assert await asyncio.wait_for(anext(lines), 5) == Line(2, b"second")
    os.close(reading)


async def test_reading_a_silent_pipe_stops_when_asked() -> None:
    reading, writing = os.pipe()
    stop = asyncio.Event()
    job = asyncio.create_task(_collect(reading, stop))
    await asyncio.sleep(0.05)
    stop.set()
    assert await asyncio.wait_for(job, 5) == []
    os.close(writing)  # lets the reading thread end


async def test_a_descriptor_that_cannot_be_read_raises() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    os.close(writing)
    with pytest.raises(OSError, match="Bad file descriptor"):
        await _collect(reading, asyncio.Event())
