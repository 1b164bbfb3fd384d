"""Task ids, made without asking the system for each."""

from __future__ import annotations

import itertools
import struct
from hashlib import blake2b
from os import getpid, urandom
from time import time_ns
from typing import Final

_SECRET: Final = urandom(32)
_COUNT: Final = itertools.count()
_MOMENT: Final = struct.Struct(">QIQ").pack
_VARIANT: Final = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))
"""The digit of RFC 9562's variant: the bits 10, then the two lowest bits of a random digit."""


def new_task_id() -> str:
    """A task id that nobody else makes: a UUID of version 7 (RFC 9562 §5.7), so that ids rise with time.

    A spool's index by task id then grows at its end. With random ids each row touches another page of it, and a spool
    of a million rows took new ones half as fast as an empty one (bench/README.md).

    After its 48 bits of milliseconds, 74 bits are a keyed hash (BLAKE2b) of the time in nanoseconds, the process and a
    counter. `os.urandom` for each id would do, but it lets go of the interpreter's lock: while the spool's thread
    works, each call then waits up to 5 ms to get the lock back, and 1,000 callers wait one after the other (measured:
    211 µs an id, here 1). Random bytes kept for later would be given out twice by a fork that runs none of Python's
    hooks, or by a cloned virtual machine, and the second task would be taken for a repeat; those differ in the process
    or in the time.
    """
    now = time_ns()
    moment = _MOMENT(now, getpid(), next(_COUNT))
    return _as_uuid(now // 1_000_000, blake2b(moment, digest_size=10, key=_SECRET).hexdigest())


def _as_uuid(milliseconds: int, digits: str) -> str:
    """Of the 20 hexadecimal digits 74 bits are taken. `uuid.UUID` would take three times as long to say it."""
    time = f"{milliseconds & 0xFFFFFFFFFFFF:012x}"
    return f"{time[:8]}-{time[8:]}-7{digits[1:4]}-{_VARIANT[digits[4]]}{digits[5:8]}-{digits[8:]}"
