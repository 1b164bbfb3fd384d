"""Producer processes for the tests of faults: started, killed with -9 or stopped, and what their callers were told.

All calls block.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, Self

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

    called: set[str] = field(default_factory=set)
    accepted: dict[str, str] = field(default_factory=dict)
    """Task id → state of the receipt."""
    accepted_at: dict[str, float] = field(default_factory=dict)
    """Task id → Unix seconds."""
    receipts: Counter[str] = field(default_factory=Counter)
    """State → how many."""
    refused: list[Refusal] = field(default_factory=list)
    confirmed: list[str] = field(default_factory=list)
    unsure: dict[str, str] = field(default_factory=dict)
    """Task id → why the broker gave no answer to an attempt."""
    failures: list[str] = field(default_factory=list)
    """Of the connection, in words."""
    marks: set[str] = field(default_factory=set)

    def add(self, line: str) -> None:
        what, _, rest = line.partition(" ")
        match what:
            case "called":
                self.called.add(rest)
            case "accepted":
                task_id, state, at = rest.split()
                self.accepted[task_id] = state
                self.accepted_at[task_id] = float(at)
                self.receipts[state] += 1
            case "refused":
                task_id, error, seconds, words = rest.split(" ", 3)
                self.refused.append(Refusal(task_id, error, float(seconds), words))
            case "confirmed":
                self.confirmed.append(rest)
            case "unsure":
                task_id, cause = rest.split()
                self.unsure[task_id] = cause
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
        self.unsure |= other.unsure
        self.failures += other.failures

    @property
    def unanswered(self) -> set[str]:
        """Called, and told nothing good: their callers would ask again if the ids are theirs."""
        return self.called - self.accepted.keys()


class Running:
    """One producer process."""

    def __init__(self, pid: int, told: Path, ended: Callable[[], int]) -> None:
        self.pid = pid
        self._path = told
        self._ended = ended
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
        assert self._ended() == -signal.SIGKILL, "it was alive until then"
        return self.told()

    def stop(self) -> Told:
        """Politely. It must end well."""
        os.kill(self.pid, signal.SIGTERM)
        return self.ended()

    def ended(self) -> Told:
        """By itself, or by a polite stop."""
        assert self._ended() == 0, "see errors.log"
        told = self.told()
        assert "stopped" in told.marks
        return told


class Producers:
    """Starts one producer after the other. A context manager; `wrap` is a command to run it under."""

    def __init__(self, folder: Path, wrap: Sequence[str] = ()) -> None:
        self._folder = folder
        self._numbers = count(1)
        self._server = ForkServer(PROGRAM, folder / "errors.log", wrap)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.__exit__()

    @property
    def pid(self) -> int:
        return self._server.pid

    @property
    def errors(self) -> str:
        return self._server.errors

    def start(self, settings: dict[str, Any], **orders: Any) -> Running:
        told = self._folder / f"told-{self.pid}-{next(self._numbers)}"
        orders |= {"settings": {name: str(value) for name, value in settings.items()}, "told": str(told)}
        return Running(self._server.start(orders), told, self._server.answer)
