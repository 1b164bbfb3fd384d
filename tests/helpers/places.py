"""The judge: where each task is, found without the engine.

It reads the queues through an independent client and the spool's file through sqlite3, read-only, and compares with
what the callers were told.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aio_pika

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

QUEUES = ("ml.embed", "ml.summarize", "ml.transcribe", "ml.summarize_local", "ml.transcribe_local")


@dataclass(frozen=True)
class Places:
    queues: Counter[str]
    spool: frozenset[str]
    dead: frozenset[str]

    def lost(self, accepted: Iterable[str]) -> set[str]:
        return set(accepted) - set(self.queues) - self.spool - self.dead

    @property
    def duplicates(self) -> int:
        return sum(count - 1 for count in self.queues.values())


async def in_queues(url: str, names: Iterable[str] = QUEUES) -> Counter[str]:
    """Task ids of all messages, left in their queues: consumed without ack, and requeued as the channel closes."""
    found: Counter[str] = Counter()
    connection = await aio_pika.connect(url)
    async with connection:
        for name in names:
            channel = await connection.channel()
            await channel.set_qos(prefetch_count=60_000)  # without it a quorum queue gives 2,000 and waits for acks
            try:
                queue = await channel.get_queue(name)
            except aio_pika.exceptions.ChannelNotFoundEntity:
                continue
            expected = queue.declaration_result.message_count or 0
            arrived = asyncio.Event()
            seen: list[str] = []

            async def take(
                message: aio_pika.abc.AbstractIncomingMessage,
                seen: list[str] = seen,
                expected: int = expected,
                arrived: asyncio.Event = arrived,
            ) -> None:
                seen.append(message.correlation_id or "?")
                if len(seen) >= expected:
                    arrived.set()

            if expected:
                await queue.consume(take)
                async with asyncio.timeout(60):
                    await arrived.wait()
                    await asyncio.sleep(0.2)  # a message more than announced would come now
            found.update(seen)
            await channel.close()
    return found


def in_spool(database: Path) -> tuple[frozenset[str], frozenset[str]]:
    """Waiting and dead task ids."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
        waiting = frozenset(row[0] for row in db.execute("select task_id from waiting"))
        dead = frozenset(row[0] for row in db.execute("select task_id from dead_letters"))
    return waiting, dead


async def places(url: str, database: Path, names: Iterable[str] = QUEUES) -> Places:
    queues = await in_queues(url, names)
    waiting, dead = in_spool(database)
    return Places(queues, waiting, dead)
