"""The addresses of a host name, and a TCP connection to one of them.

They are tried as RFC 8305 says ("happy eyeballs"): each gets a head start before the next one is tried too, and the
first that answers wins. So an address that swallows what is sent to it costs a moment, and not the whole connect.

That an address takes connections says little of what is behind it: the kernel takes them for a broker that hangs. So
addresses at which a connect came to nothing are tried last the next time.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterable, Sequence
from typing import Any, Final

from aiohappyeyeballs import start_connection

HEAD_START: Final = 0.25
"""Seconds (RFC 8305, section 5)."""

Info = tuple[int | socket.AddressFamily, int | socket.SocketKind, int, str, tuple[Any, ...]]
"""As `getaddrinfo` has it; the last is the address."""


class Addresses:
    """Of the brokers of one producer."""

    def __init__(self) -> None:
        self._failed: dict[str, list[tuple[Any, ...]]] = {}
        """By host name, the longest ago first."""

    async def connect(self, host: str, port: int) -> socket.socket:
        """Raises: OSError."""
        infos = in_order(await resolve(host, port), self._failed.get(host, ()))
        found = await start_connection(infos, happy_eyeballs_delay=HEAD_START, interleave=0)
        with contextlib.suppress(OSError):  # no TCP after all, in a test
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return found

    def worked(self, host: str) -> None:
        """A connect to it came up."""
        self._failed.pop(host, None)

    def failed(self, host: str, address: tuple[Any, ...]) -> None:
        """A connect there came to nothing after TCP."""
        failed = self._failed.setdefault(host, [])
        if address in failed:
            failed.remove(address)
        failed.append(address)


async def resolve(host: str, port: int) -> Sequence[Info]:
    """Raises: socket.gaierror."""
    return await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)


def in_order(infos: Sequence[Info], failed: Iterable[tuple[Any, ...]]) -> list[Info]:
    """The order to try them in: as the resolver has them, the families in turn, and those that failed last, the
    longest ago first of these.
    """
    ages = {address: age for age, address in enumerate(failed, 1)}
    families: dict[int, list[Info]] = {}
    for info in infos:
        families.setdefault(info[0], []).append(info)
    rows = [list(family) for family in families.values()]
    turns = [row[at] for at in range(max(map(len, rows), default=0)) for row in rows if at < len(row)]
    return sorted(turns, key=lambda info: ages.get(info[4], 0))
