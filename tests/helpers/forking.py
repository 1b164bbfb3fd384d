"""Child processes to be killed, from one process that has everything imported: each is its fork, and starts at once.

A program of children calls `serve(run)`. The test's side is `ForkServer`: it runs any number of children at a time.
Each line of JSON on the server's stdin is a child's orders; it answers `started PID` at once, and `ended PID STATUS`
when that child has ended, however it did. Its own `started` is its first word.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import selectors
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
        self._statuses: dict[int, int] = {}
        """Process id → exit status, of children that ended and were not asked for yet."""
        self._process = subprocess.Popen(
            [*wrap, sys.executable, str(program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
            text=True,
        )
        try:
            self._started()
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # Its children die with it (PR_SET_PDEATHSIG).
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
        return self._started()

    def ended(self, pid: int) -> int:
        """The exit status of a child, negative for a signal; to be asked for once. Blocks until it has ended."""
        while pid not in self._statuses:
            assert self._answer()[0] == "ended"
        return self._statuses.pop(pid)

    def _started(self) -> int:
        while (answer := self._answer())[0] != "started":
            pass  # others end meanwhile
        return int(answer[1])

    def _answer(self) -> list[str]:
        """The next line. Blocks."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the process that starts children ended: {self.errors[-2_000:]}"
        words = line.split()
        if words[0] == "ended":
            self._statuses[int(words[1])] = int(words[2])
        return words


def serve(run: Callable[[dict[str, Any]], Coroutine[Any, Any, None]]) -> None:
    """In the program: fork a child for each line of orders, until stdin ends."""
    _die_with_parent()
    _say("started", os.getpid())
    with selectors.DefaultSelector() as selector:
        selector.register(sys.stdin, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.data is not None:
                    _reap(selector, key.fd, key.data)
                # One line at a time: the other side waits for the answer before it writes the next.
                elif line := sys.stdin.readline():
                    _fork(selector, run, json.loads(line))
                else:
                    return


def _fork(
    selector: selectors.BaseSelector, run: Callable[[dict[str, Any]], Coroutine[Any, Any, None]], orders: dict[str, Any]
) -> None:
    pid = os.fork()
    if not pid:
        _be_child(run(orders))
    selector.register(os.pidfd_open(pid), selectors.EVENT_READ, pid)  # readable when it has ended
    _say("started", pid)


def _reap(selector: selectors.BaseSelector, descriptor: int, pid: int) -> None:
    selector.unregister(descriptor)
    os.close(descriptor)
    _, status = os.waitpid(pid, 0)
    _say("ended", pid, os.waitstatus_to_exitcode(status))


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


def _say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()
