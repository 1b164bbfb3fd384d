"""What a fork does to connections: the child has a copy of each socket, and must neither use it nor keep it.

A child that goes on (`multiprocessing`, `os.fork`) could read answers that are the parent's, or say goodbye on a socket
that the parent still uses. And as long as it lives, the broker would not see the parent's sockets close. So in the
child each of them becomes a dead one, at the moment of the fork: it reads an end and takes nothing. It is replaced and
not closed, because its transport would else close the number once more, which may be another file's by then.
"""

from __future__ import annotations

import os
import socket
import weakref
from typing import Final, Protocol


class Connected(Protocol):
    """Something with a socket of its own, until it is told to `forget`."""

    def fileno(self) -> int: ...


_OPEN: Final[weakref.WeakSet[Connected]] = weakref.WeakSet()
"""Those of this process. A global, since a fork is of the whole process and its hook is never taken away."""


def cut_in_children(each: Connected) -> None:
    """From now on a fork leaves the child a dead copy of this one's socket."""
    _OPEN.add(each)


def forget(each: Connected) -> None:
    """It is about to be closed, and its number to be another file's."""
    _OPEN.discard(each)


def _cut() -> None:
    dead, other = socket.socketpair()
    other.close()
    with dead:
        for each in list(_OPEN):
            os.dup2(dead.fileno(), each.fileno(), inheritable=False)
    _OPEN.clear()


if hasattr(os, "register_at_fork"):  # not where there is no fork
    os.register_at_fork(after_in_child=_cut)
