"""Who is signed in at the console: random tokens that browsers keep in a cookie, and what we know of each.

In memory: a restart signs everybody out, and a session never outlives the keys that it was opened with. Kept by the
token's hash, so that neither a look into our memory nor the time of a look-up gives a token away.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from msgspec import Struct

LIFETIME: Final = 12 * 3600.0
"""Seconds: a working day. Using a session does not prolong it."""
MOST: Final = 100
"""Sessions at once. Only who has a key can open one, so the oldest is let go rather than the newest refused."""


class Session(Struct, frozen=True):
    """`name` is the key's, for audits; `csrf` is what each changing call repeats; `ends` is on the store's clock."""

    name: str
    csrf: str
    ends: float


class Sessions:
    """`clock` gives seconds that never go back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._held: OrderedDict[bytes, Session] = OrderedDict()

    def open(self, name: str) -> tuple[str, Session]:
        """A new session and the token that it goes by."""
        self._forget()
        token = secrets.token_urlsafe(32)
        session = Session(name, secrets.token_urlsafe(32), self._clock() + LIFETIME)
        self._held[_digest(token)] = session
        while len(self._held) > MOST:
            self._held.popitem(last=False)
        return token, session

    def find(self, token: str) -> Session | None:
        """The session, unless it is over or closed."""
        session = self._held.get(_digest(token))
        return session if session is not None and self._clock() < session.ends else None

    def close(self, token: str) -> None:
        self._held.pop(_digest(token), None)

    def _forget(self) -> None:
        now = self._clock()
        for digest, session in list(self._held.items()):
            if session.ends <= now:
                del self._held[digest]


def same(given: str, expected: str) -> bool:
    """Compared in constant time."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode())


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
