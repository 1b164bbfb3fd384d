"""A memory or disk alarm of the broker, as it told the connection of it: until its end it reads nothing from us."""

from __future__ import annotations

import asyncio

from mlproducer.events import BlockedChanged
from mlproducer.ports import Listener


class Alarm:
    def __init__(self, tell: Listener) -> None:
        self._tell = tell
        self.reason = ""
        """In the broker's words; empty while it is off."""
        self._over = asyncio.Event()
        self._over.set()

    def is_on(self) -> bool:
        return not self._over.is_set()

    async def over(self) -> None:
        """Wait for its end."""
        await self._over.wait()

    def changed(self, on: bool, reason: str) -> None:  # noqa: FBT001  # the fact itself
        self.reason = reason if on else ""
        if on:
            self._over.clear()
        else:
            self._over.set()
        self._tell(BlockedChanged(on, reason))
