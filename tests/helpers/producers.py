"""Producer processes for the tests of faults: started, killed with -9 or stopped, and what their callers were told.

All calls block.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

import pytest

from forking import ForkServer

PROGRAM = Path(__file__).parent / "load_child.py"
NOWHERE = "amqp://ml:ml_password@127.0.0.1:9/"
SOON = 30.0
"""Seconds within which what must happen happens, on a machine that does much else."""


class Refusal(NamedTuple):
    task_id: str
    error: str
    seconds: float
    words: str


@dataclass
class Told:
    """What callers of one producer, or of several, did and were told."""

    called: dict[str, str] = field(default_factory=dict)
    """Task id → the digest of its message, as `message.expected` gives it."""
    accepted: dict[str, str] = field(default_factory=dict)
    """Task id → state of the receipt."""
    accepted_at: dict[str, float] = field(default_factory=dict)
    """Task id → Unix seconds."""
    receipts: Counter[str] = field(default_factory=Counter)
    """State → how many."""
    refused: list[Refusal] = field(default_factory=list)
    confirmed: list[str] = field(default_factory=list)
    doubtful: set[str] = field(default_factory=set)
    """Ids that waited in the spool, or that a caller got no answer for: a kill may have met an attempt of theirs."""
    unsure: Counter[str] = field(default_factory=Counter)
    """Task id → to how many attempts the broker gave no answer."""
    causes: Counter[str] = field(default_factory=Counter)
    """Why it did not, and how often."""
    failures: list[str] = field(default_factory=list)
    """Of the connection, in words."""
    marks: set[str] = field(default_factory=set)

    def add(self, line: str) -> None:
        what, _, rest = line.partition(" ")
        match what:
            case "called":
                task_id, digest = rest.split()
                self.called[task_id] = digest
            case "accepted":
                task_id, state, at = rest.split()
                self.accepted[task_id] = state
                self.accepted_at[task_id] = float(at)
                self.receipts[state] += 1
                if state != "confirmed":
                    self.doubtful.add(task_id)
            case "refused":
                task_id, error, seconds, words = rest.split(" ", 3)
                self.refused.append(Refusal(task_id, error, float(seconds), words))
            case "confirmed":
                self.confirmed.append(rest)
            case "unsure":
                task_id, cause = rest.split()
                self.unsure[task_id] += 1
                self.causes[cause] += 1
            case "failed":
                self.failures.append(rest)
            case _:
                self.marks.add(what)

    def take_in(self, other: Told) -> None:
        self.called |= other.called
        self.accepted |= other.accepted
        self.accepted_at |= other.accepted_at
        self.receipts += other.receipts
        self.refused += other.refused
        self.confirmed += other.confirmed
        self.doubtful |= other.doubtful | other.unanswered
        self.unsure += other.unsure
        self.causes += other.causes
        self.failures += other.failures

    @property
    def unanswered(self) -> set[str]:
        """Called, and told nothing good: their callers would ask again if the ids are theirs."""
        return self.called.keys() - self.accepted.keys()


class Running:
    """One producer process."""

    def __init__(self, server: ForkServer, pid: int, told: Path) -> None:
        self.pid = pid
        self._server = server
        self._path = told
        self._status: int | None = None
        self._at = 0
        self._told = Told()

    def told(self) -> Told:
        """All by now, but for a line that is just being written: one that a kill cut off was told to nobody."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._at)
                news, end, _ = file.read().rpartition(b"\n")
            self._at += len(news + end)
            for line in news.decode().splitlines():
                self._told.add(line)
        return self._told

    def until(self, true: Callable[[Told], object], seconds: float = SOON) -> Told:
        end = time.monotonic() + seconds
        while not true(told := self.told()):
            assert self.lives, "the producer ended by itself"
            assert time.monotonic() < end, f"not so within {seconds} s: {told.marks} {told.refused[-1:]}"
            time.sleep(0.004)
        return told

    def until_accepted(self, more: int = 1, *, as_: str = "", seconds: float = SOON) -> Told:
        """Until `more` receipts than by now were given, of the state `as_` if it matters."""

        def count(told: Told) -> int:
            return told.receipts[as_] if as_ else told.receipts.total()

        wanted = count(self.told()) + more
        return self.until(lambda told: count(told) >= wanted, seconds)

    @property
    def lives(self) -> bool:
        return Path(f"/proc/{self.pid}").exists()

    def kill(self) -> Told:
        os.kill(self.pid, signal.SIGKILL)
        assert self._wait() == -signal.SIGKILL, "it was alive until then"
        return self.told()

    def stop(self) -> Told:
        """Politely. It must end well."""
        os.kill(self.pid, signal.SIGTERM)
        return self.ended()

    def ended(self) -> Told:
        """By itself, or by a polite stop."""
        assert self._wait() == 0, self._server.errors[-2_000:]
        told = self.told()
        assert "stopped" in told.marks
        return told

    def drop(self) -> None:
        """End it if a test that failed left it."""
        if self._status is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self._wait()

    def _wait(self) -> int:
        if self._status is None:
            self._status = self._server.ended(self.pid)
        return self._status


class Producers:
    """Starts producers, as forks of `server`. A context manager: none outlives it. One for each folder."""

    def __init__(self, folder: Path, server: ForkServer) -> None:
        self._folder = folder
        self._server = server
        self._started: list[Running] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._started:
            each.drop()

    @property
    def pid(self) -> int:
        """Of the server."""
        return self._server.pid

    def start(self, settings: dict[str, Any], **orders: Any) -> Running:
        told = self._folder / f"told-{len(self._started) + 1}"
        orders |= {"settings": {name: str(value) for name, value in settings.items()}, "told": str(told)}
        self._started.append(Running(self._server, self._server.start(orders), told))
        return self._started[-1]


@pytest.fixture(scope="session")
def producers_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    """One for the whole run: to import all that a producer needs costs a second of processor time."""
    with ForkServer(PROGRAM, tmp_path_factory.mktemp("producers") / "errors.log") as server:
        yield server


@pytest.fixture
def producers(producers_server: ForkServer, tmp_path: Path) -> Iterator[Producers]:
    with Producers(tmp_path, producers_server) as started:
        yield started
