"""Hear of rows that others put: one connection that listens to one channel, and makes itself anew."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from mlproducer.loggers import get_logger
from mlproducer.spool.redis.address import Address
from mlproducer.spool.redis.faults import explain
from mlproducer.spool.redis.link import FAULTS, close_client, plain_client

_FIRST_WAIT: Final = 0.5
_LONGEST_WAIT: Final = 15.0
"""Seconds between attempts to listen again: the drain's poll finds everything meanwhile."""

_LOGGER: Final = get_logger("mlproducer")


class Watch:
    """Calls `added` when another than `origin` says that it put rows, and when it may have missed that.

    A cluster passes messages on to all of its nodes, so any of them will do.
    """

    def __init__(self, address: Address, channel: str, origin: str, added: Callable[[], None]) -> None:
        self._address = address
        self._channel = channel
        self._origin = origin.encode()
        self._added = added
        self._listens = asyncio.Event()
        self._work: asyncio.Task[None] | None = None
        self._listening = False
        self._heard_before = False

    async def start(self) -> None:
        """Returns when it listens, or fails to for the first time: it goes on trying."""
        if self._work is None:
            self._work = asyncio.create_task(self._run(), name="mlproducer-spool-watch")
            await self._listens.wait()

    async def end(self) -> None:
        work, self._work = self._work, None
        while work is not None and not work.done():
            work.cancel()  # once is not always heard: see `link`
            await asyncio.wait([work], timeout=0.5)

    async def _run(self) -> None:
        wait = _FIRST_WAIT
        while True:
            self._listening = False
            try:
                await self._listen()
            except FAULTS as error:
                words = explain(self._address.node, error, self._address.timeout)
                _LOGGER.info("not told of rows that others put, looking for them at intervals: %s", words)
            except Exception:
                _LOGGER.exception("not told of rows that others put, looking for them at intervals")
            finally:
                self._listens.set()
            wait = _FIRST_WAIT if self._listening else min(2 * wait, _LONGEST_WAIT)
            await asyncio.sleep(wait)

    async def _listen(self) -> None:
        """Ends only by an error."""
        client = plain_client(self._address)
        try:
            channel = client.pubsub()
            try:
                await channel.subscribe(self._channel)
                while True:
                    message = await channel.get_message(timeout=None)
                    if message is not None:
                        self._take(message["type"], message["data"])
            finally:
                await channel.aclose()  # type: ignore[no-untyped-call]  # the library's own
        finally:
            await close_client(client)

    def _take(self, kind: str, data: object) -> None:
        if kind == "subscribe":
            self._listening = True
            self._listens.set()
            if self._heard_before:
                self._added()  # what was said while we did not listen
            self._heard_before = True
        elif data != self._origin:
            self._added()
