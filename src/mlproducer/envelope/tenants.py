"""Whose a task is, for the shares of the window and the drain: what one of its headers says, as a short key.

A header, and not a field of the payload: each kind of task may have it, whatever its fields are, and nobody looks into
content for it, which may be large or lie in a blob store. Headers are no part of a task's identity (`core.digest`).

A key, and not the name: whoever sends tasks may make up names without end, and each one is a place that the drain looks
at and each process remembers. So names are hashed into `BUCKETS` of them, as stochastic fairness queueing has it
(McKenney, INFOCOM 1990). Two names in one bucket share what one would get, and wait for each other: 1 in 256 of all
others has the bucket of a name that floods. A name that has a weight, which is the operator's choice, has a key of its
own. Keys are stored with rows, and all producers on a spool must mean the same by them: the hash is part of the format.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Final

from mlproducer.envelope.reserved import why_reserved

MAX_NAME: Final = 128
"""As `task.Identifier`."""
NOBODY: Final = "-"
BUCKETS: Final = 256
"""A drain looks at each that has rows, at each turn. Five routes that have them all, which is a flood made for it, take
10 ms on SQLite, and some tens of them on a server; without tenants it is well under one."""

_DIGITS: Final = len(f"{BUCKETS - 1:x}")


def checked_header(name: str) -> str:
    """The name, if a task may have such a header. Raises: ValueError."""
    if not name:
        return name
    if len(name) > MAX_NAME or not all("!" <= each <= "~" for each in name):
        raise ValueError(f"a header's name is 1 to {MAX_NAME} printable ASCII characters without blanks")
    taken = why_reserved(name)
    if taken is not None:
        raise ValueError(f"no task may have the header {name}: {taken}")
    return name


class Tenants:
    """`header` names the header; `weights` are of its values."""

    def __init__(self, header: str, weights: Mapping[str, int]) -> None:
        self._header = header
        self._own = {name: "=" + _digest(name) for name in weights}
        self.weights: Mapping[str, int] = {self._own[name]: weight for name, weight in weights.items()}
        """By key."""

    def of(self, headers: Mapping[str, str]) -> str:
        """The key, which is not empty; tasks whose header is missing or empty are one tenant."""
        name = headers.get(self._header)
        if not name:
            return NOBODY
        return self._own.get(name) or _digest(name)[:_DIGITS]


def _digest(name: str) -> str:
    return blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
