"""Hearing of rows that others put: LISTEN, on a connection of its own that is made again whenever it is lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from mlproducer.loggers import get_logger
from mlproducer.spool.schema import CHANNEL
from mlproducer.spool.server_address import Address

if TYPE_CHECKING:
    from psycopg import AsyncConnection

_LOGGER: Final = get_logger("mlproducer")
_LOOK: Final = 3.0
"""Seconds between two looks whether the server still takes writes: one that was demoted stays silent for ever."""
_FIRST: Final = 0.2
_LONGEST: Final = 5.0
"""Seconds between two tries to connect again. Meanwhile the drain's poll finds what is put."""


class Listening:
    """Calls `added` on the event loop when another than `who` says that it committed rows."""

    def __init__(self, address: Address, who: str, added: Callable[[], None]) -> None:
        self._address = address
        self._who = who
        self._added = added
        self._task = asyncio.create_task(self._listen(), name="mlproducer-spool-listening")

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _listen(self) -> None:
        import psycopg  # noqa: PLC0415  # only who names a PostgreSQL needs its driver

        wait = _FIRST
        while True:
            try:
                async with asyncio.timeout(self._address.timeout * 2):
                    connection = await psycopg.AsyncConnection.connect(**self._address.libpq, autocommit=True)
                async with connection:
                    async with asyncio.timeout(self._address.timeout):
                        if await _is_pooled(connection):
                            return
                        await connection.execute(f"LISTEN {CHANNEL}".encode())
                    # Who committed while nobody listened was not heard.
                    self._added()
                    wait = _FIRST
                    while await self._takes_writes(connection):
                        async for notify in connection.notifies(timeout=_LOOK):
                            if notify.payload != self._who:
                                self._added()
            except (psycopg.Error, OSError):  # a timeout is an OSError
                pass  # the spool's own calls tell of a lost server, with its cause
            except Exception:
                _LOGGER.exception("not told of rows that others put, looking for them at intervals")
            await asyncio.sleep(wait * (1.0 + random.random()))
            wait = min(wait * 2, _LONGEST)

    async def _takes_writes(self, connection: AsyncConnection[Any]) -> bool:
        async with asyncio.timeout(self._address.timeout):
            found = await (await connection.execute(b"SHOW transaction_read_only")).fetchone()
        return found == ("off",)


async def _is_pooled(connection: AsyncConnection[Any]) -> bool:
    """A pooler tells its clients an id of its own making. What it hears for them, nobody gets."""
    found = await (await connection.execute(b"SELECT pg_backend_pid()")).fetchone()
    return found != (connection.info.backend_pid,)
