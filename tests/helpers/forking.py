"""Child processes to be killed, from one process that has everything imported: each is its fork, and starts at once.

A program of children calls `serve(run)`. The test's side is `ForkServer`: it runs one child of the program at a time.
The server says its own process id first. Each line of JSON on its stdin is a child's orders; the answers are the
child's process id at once, and its exit status when it has ended, however it did.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, NoReturn, Self


class ForkServer:
    """A context manager. `errors` takes what the processes write on stderr; `wrap` is a command to run it under."""

    def __init__(self, program: Path, errors: Path, wrap: Sequence[str] = ()) -> None:
        self._path = errors
        self._errors = errors.open("ab")
        self._process = subprocess.Popen(
            [*wrap, sys.executable, str(program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
            text=True,
        )
        try:
            self.answer()
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # Its child dies with it (PR_SET_PDEATHSIG).
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def errors(self) -> str:
        return self._path.read_text(errors="replace")

    def start(self, orders: dict[str, Any]) -> int:
        """The process id of a child. Blocks for a moment."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(orders) + "\n")
        self._process.stdin.flush()
        return self.answer()

    def answer(self) -> int:
        """The next answer; after `start`, the exit status of the child, negative for a signal. Blocks."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the process that starts children ended: {self.errors[-2_000:]}"
        return int(line)


def serve(run: Callable[[dict[str, Any]], Coroutine[Any, Any, None]]) -> None:
    """In the program: fork a child for each line of orders, until stdin ends."""
    _die_with_parent()
    _answer(os.getpid())
    for line in sys.stdin:
        orders = json.loads(line)
        pid = os.fork()
        if not pid:
            _be_child(run(orders))
        _answer(pid)
        _, status = os.waitpid(pid, 0)
        _answer(os.waitstatus_to_exitcode(status))


def _be_child(work: Coroutine[Any, Any, None]) -> NoReturn:
    _die_with_parent()
    try:
        asyncio.run(work)
    except BaseException as error:  # noqa: BLE001  # whatever it was, this process must not go on as its parent
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def _die_with_parent() -> None:
    """The kernel kills us if the one who started us dies: nobody else would."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _answer(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()
