"""A spool that is closed while somebody still reads."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
from sqlalchemy import Connection

from mlproducer.spool.sql import PostgresSpool


async def test_a_read_whose_caller_is_gone_leaves_no_connection_behind(postgres_url: str) -> None:
    spool = PostgresSpool(postgres_url)
    await spool.open()
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(connection: Connection) -> None:
        loop.call_soon_threadsafe(begun.set)
        connection.exec_driver_sql("SELECT pg_sleep(0.4)")

    reading = asyncio.create_task(spool._read(slow))
    await begun.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await spool.close()
    with psycopg.connect(postgres_url) as connection:
        others = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert others.fetchone() == (0,)
