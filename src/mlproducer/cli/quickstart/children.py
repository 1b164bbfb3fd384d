"""The programs that quickstart starts, and stops again by their own process ids."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mlproducer.errors import MLProducerError

_POLL: Final = 0.1
_TAIL: Final = 12
"""Lines of a log that are shown when its program failed."""


class ChildFailed(MLProducerError):
    """A program that quickstart needs ended, or did not become ready in time."""


@dataclass(frozen=True, slots=True)
class Child:
    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def check(self) -> None:
        """Raises: ChildFailed, with the end of its log, if it ended."""
        if not self.running:
            raise ChildFailed(f"the {self.name} ended with code {self.process.returncode}\n{self.tail()}")

    def wait_until(self, ready: Callable[[], bool], seconds: float) -> None:
        """Raises: ChildFailed, if it ends before it is ready, or is not ready in time."""
        end = time.monotonic() + seconds
        while not ready():
            self.check()
            if time.monotonic() > end:
                raise ChildFailed(f"the {self.name} was not ready within {seconds:.0f} s\n{self.tail()}")
            time.sleep(_POLL)

    def stop(self, seconds: float) -> None:
        """SIGTERM, and after `seconds` SIGKILL to it and its own children. It leads a process group of its own."""
        if self.running:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(seconds)
        if self.running:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def tail(self) -> str:
        """The end of its log, and where the rest is."""
        with suppress(OSError), self.log.open(errors="replace") as file:
            lines = "".join(f"    {line}" for line in deque(file, _TAIL))
            return f"{lines}  ({self.log})"
        return f"  (no log at {self.log})"


@dataclass(frozen=True, slots=True)
class Program:
    """What to start. It logs to a fresh file, and runs in a session of its own: Ctrl-C on the terminal reaches only
    us, who stop our children in order.
    """

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    cwd: Path
    log: Path

    def start(self) -> Child:
        """Raises: ChildFailed."""
        try:
            with self.log.open("wb") as file:
                process = subprocess.Popen(  # noqa: S603  # our own programs, with arguments of our own
                    self.command,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env=dict(self.env),
                    cwd=self.cwd,
                    start_new_session=True,
                )
        except OSError as exc:
            raise ChildFailed(f"cannot start the {self.name}: {exc}") from exc
        return Child(self.name, process, self.log)
