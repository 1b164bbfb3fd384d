"""What a fork does to the event loop: the child shares the kernel's poll set (epoll) with its parent.

A child that leaves within a coroutine (`sys.exit`, an error, the end of the function) has asyncio close its copy of the
loop, which takes every socket out of that set, and the parent hears of none of them any more. So each loop on which a
producer lives has a mark in its set, and in a child the set with the mark is replaced, under its number, by one of the
child's own, at the moment of the fork. In there is what the loop talks to itself with, and none of the parent's
connections: what the child read from them would be missing there.

On Linux; elsewhere nothing is done here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import select
import socket
from pathlib import Path
from typing import Final

_MEMBER: Final = re.compile(r"^tfd: +(\d+) events: +([0-9a-f]+)", re.MULTILINE)
_DESCRIPTORS: Final = Path("/proc/self/fd")


class Mark:
    """In the poll set of `loop`, until it is taken away."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._fileno = os.eventfd(0) if hasattr(os, "eventfd") else None
        if self._fileno is not None:
            loop.add_reader(self._fileno, _nothing)
            _MARKS.add(self._fileno)

    def take_away(self) -> None:
        fileno, self._fileno = self._fileno, None
        if fileno is not None:
            self._loop.remove_reader(fileno)
            _MARKS.discard(fileno)
            os.close(fileno)


_MARKS: Final[set[int]] = set()
"""Those of this process. A global, since a fork is of the whole process and its hook is never taken away."""


def _nothing() -> None:
    """Nobody ever writes there."""


def _separate() -> None:
    """In a child."""
    if not _MARKS or not _DESCRIPTORS.is_dir():
        return
    for each in list(_DESCRIPTORS.iterdir()):
        with contextlib.suppress(OSError):  # the list's own is closed by now
            if str(each.readlink()) == "anon_inode:[eventpoll]":
                _replace(int(each.name))
    _MARKS.clear()


def _replace(poll_set: int) -> None:
    members = _MEMBER.findall(Path(f"/proc/self/fdinfo/{poll_set}").read_text())
    if _MARKS.isdisjoint(int(fileno) for fileno, _ in members):
        return
    with select.epoll() as own:
        for fileno, events in members:
            if not _is_of_the_parent(int(fileno)):
                with contextlib.suppress(OSError):  # closed, here or there
                    own.register(int(fileno), int(events, 16))
        os.dup2(own.fileno(), poll_set, inheritable=False)


def _is_of_the_parent(fileno: int) -> bool:
    """A connection, where connections come in, or the dead end that `amqp.forks` made of one."""
    try:
        with socket.socket(fileno=os.dup(fileno)) as found:
            known = found.family in {socket.AF_INET, socket.AF_INET6}
            return known or not found.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except OSError:
        return False  # no socket, or one with nothing to say


if hasattr(os, "register_at_fork"):  # not where there is no fork
    os.register_at_fork(after_in_child=_separate)
