"""A PostgreSQL spool, and what it heard of others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mlproducer.spool.sql import PostgresSpool


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[tuple[PostgresSpool, list[None]]]:
    """It, and one entry for each time that it heard of rows of others."""
    heard: list[None] = []
    spool = PostgresSpool(url)
    spool.watch(lambda: heard.append(None))
    await spool.open()
    try:
        yield spool, heard
    finally:
        await spool.close()
