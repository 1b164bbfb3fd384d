"""A folder in which the processes of one application count together (docs/adr/0008).

Each producer has a file of its own there, which is mapped into its memory: to count is to write a float, and what was
written is in the kernel's hands, whatever becomes of the process. A lock on the file, which the kernel takes away from
the dead, says that its owner lives. Who starts gathers the counts of the dead into one file, so that there are never
many. `lock` is held by readers together, and by a starter alone.

A file: 24 bytes (`_HEAD`), facts as JSON, the layout as JSON, and the floats in the machine's own order.
"""

from __future__ import annotations

import mmap
import os
import secrets
import struct
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from mlproducer.errors import SettingsError
from mlproducer.posix import fcntl
from mlproducer.telemetry.cells import Board, Cells, Exemplar, Family, Histogram
from mlproducer.telemetry.exposition import Scrape, Shown
from mlproducer.telemetry.merging import Layout, Merged, Part, merge

MAGIC: Final = b"mlproducer-cells"
_HEAD: Final = struct.Struct("<16sII")
_FLOAT: Final = 8
_SUFFIX: Final = ".cells"
_PAST: Final = f"past{_SUFFIX}"

_Families = list[tuple[Family, list[tuple[str, ...]]]]


class Facts(msgspec.Struct, frozen=True):
    """`pid` is the label's value: unique among those who live. `absorbed` are names of files whose counts are here."""

    pid: str = ""
    absorbed: tuple[str, ...] = ()


class _File(msgspec.Struct):
    name: str
    facts: Facts
    part: Part
    """Its `pid` is None if nobody holds the file."""


class Shared:
    """`join` before anything else, `leave` at the end. For one producer, started in one process: not to be forked."""

    def __init__(self, folder: Path, board: Board) -> None:
        self._folder = folder
        self._board = board
        self._layouts: dict[bytes, Layout] = {}
        self._own_layout = _encoded((family, list(series)) for family, series in board.series.items())
        self._layout = self._decoded(self._own_layout)
        self._file = -1
        self._cells: Cells = ()  # type: ignore[assignment]  # replaced by `join`, read after it
        self._name = ""
        self.pid = ""

    def join(self) -> None:
        """Raises: SettingsError, if the folder cannot be used."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._locked(fcntl.LOCK_EX):
                self._absorb()
                self._create()
        except OSError as error:
            raise SettingsError(
                f"ML_METRICS_DIR: {self._folder} cannot be used ({error.strerror}): it must be a folder on a local "
                "disk that this user may write, with room for some 100 KB a process"
            ) from error

    def leave(self) -> None:
        self._board.move(None)
        fcntl.flock(self._file, fcntl.LOCK_UN)
        os.close(self._file)

    def scrape(self) -> Scrape:
        """Of all processes. Raises: OSError."""
        with self._locked(fcntl.LOCK_SH):
            files = [file for file in self._files() if file.name != self._name]
        gone = {name for file in files for name in file.facts.absorbed}
        parts = [Part(self._layout, list(self._cells), self.pid)]
        parts += [file.part for file in files if file.name not in gone]
        return self._shown(merge(parts))

    def _shown(self, merged: Merged) -> Iterator[tuple[Family, Iterable[Shown]]]:
        """With the exemplars of this process: the others' are in their own memory."""
        exemplars = {
            (family.name, labels): dict(one.exemplars)
            for family, series in self._board.series.items()
            for labels, one in series.items()
            if isinstance(one, Histogram) and one.exemplars
        }
        nothing: Mapping[int, Exemplar] = {}
        for family, series in merged.items():
            yield (
                family,
                [
                    Shown(labels, cells, exemplars.get((family.name, labels), nothing))
                    for labels, cells in series.items()
                ],
            )

    def _create(self) -> None:
        pid, taken = str(os.getpid()), {file.facts.pid for file in self._files()}
        number = 1
        while pid in taken:  # a second producer of this process, or a process of another container
            number += 1
            pid = f"{os.getpid()}-{number}"
        name = f"{pid}.{secrets.token_hex(4)}{_SUFFIX}"
        content = _content(Facts(pid), self._own_layout, [0.0] * self._board.width)
        unfinished = self._folder / f"{name}.new"
        file = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            # Blocks are taken now: to write into a hole of a mapped file on a full disk would kill the process.
            os.posix_fallocate(file, 0, len(content))
            mapped = mmap.mmap(file, len(content))
            mapped[:] = content
            unfinished.rename(self._folder / name)
        except BaseException:
            os.close(file)
            raise
        self._file, self._name, self.pid = file, name, pid
        view = memoryview(mapped)[len(content) - _FLOAT * self._board.width :].cast("d")
        self._board.move(view)
        self._cells = view

    def _absorb(self) -> None:
        """The counts of the dead into one file, then their files away.

        A crash between the two leaves files whose names the one file has: their counts are not added twice.
        """
        for leftover in self._folder.glob(f"*{_SUFFIX}.new"):
            leftover.unlink()
        files = {file.name: file for file in self._files() if file.part.pid is None}
        past = files.pop(_PAST, None)
        absorbed = () if past is None else past.facts.absorbed
        fresh = [file for name, file in files.items() if name not in absorbed]
        if fresh:
            parts = [] if past is None else [past.part]
            self._write_past(merge([*parts, *(file.part for file in fresh)]), tuple(file.name for file in fresh))
        for name in files:
            (self._folder / name).unlink(missing_ok=True)

    def _write_past(self, merged: Merged, absorbed: tuple[str, ...]) -> None:
        counts = {family: series for family, series in merged.items() if family.kind != "gauge"}
        layout = _encoded((family, list(series)) for family, series in counts.items())
        values = [value for series in counts.values() for cells in series.values() for value in cells]
        unfinished = self._folder / f"{_PAST}.new"
        with unfinished.open("wb") as file:
            file.write(_content(Facts(absorbed=absorbed), layout, values))
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(self._folder / _PAST)

    def _files(self) -> list[_File]:
        found = (self._read(path) for path in sorted(self._folder.glob(f"*{_SUFFIX}")))
        return [file for file in found if file is not None]

    def _read(self, path: Path) -> _File | None:
        """None if it is none of ours, or was damaged by a power cut."""
        with path.open("rb") as file:
            content = file.read()
            lives = not _lockable(file.fileno())
        try:
            magic, facts_size, layout_size = _HEAD.unpack_from(content)
            if magic != MAGIC:
                return None
            middle = _HEAD.size + facts_size
            facts = msgspec.json.decode(content[_HEAD.size : middle], type=Facts)
            layout = self._decoded(content[middle : middle + layout_size])
            values = array("d", content[len(content) - _FLOAT * layout.width :])
        except (struct.error, msgspec.DecodeError, ValueError):
            return None
        return _File(path.name, facts, Part(layout, values, facts.pid if lives else None))

    def _decoded(self, layout: bytes) -> Layout:
        """Decoded once: all processes of a program have the same."""
        found = self._layouts.get(layout)
        if found is None:
            families = msgspec.json.decode(layout, type=_Families)
            found = Layout(tuple((family, tuple(keys)) for family, keys in families))
            self._layouts[layout] = found
        return found

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        file = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, how)
            yield
        finally:
            os.close(file)


def _lockable(file: int) -> bool:
    """Nobody holds it. The lock that this takes goes with the file."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _encoded(families: Iterable[tuple[Family, Sequence[tuple[str, ...]]]]) -> bytes:
    return msgspec.json.encode(list(families))


def _content(facts: Facts, layout: bytes, values: Sequence[float]) -> bytes:
    told = msgspec.json.encode(facts)
    told += b" " * (-(_HEAD.size + len(told) + len(layout)) % _FLOAT)  # so that each float is written as one
    return _HEAD.pack(MAGIC, len(told), len(layout)) + told + layout + array("d", values).tobytes()
