"""Where each task is, found without the engine. What that means is for the judge to say: see `trials`.

The queues are read through independent clients, and the spool through clients of its own, none of whose code is the
spool's: SQLite's file with sqlite3, PostgreSQL with psycopg, each read-only, and Redis with plain commands.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aio_pika
import psycopg
import redis
from msgspec import msgpack

from mlproducer.reliability.judge import QUEUES
from mlproducer.reliability.message import Message
from mlproducer.reliability.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class Places:
    """Task ids; `messages` are those of the queues, where they were read whole."""

    queues: Counter[str]
    spool: frozenset[str]
    dead: frozenset[str]
    messages: Counter[Message] = field(default_factory=Counter)

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


def taken(url: str, names: Iterable[str] = QUEUES) -> Counter[str]:
    """As `in_queues`, and out of them: any number, through the judge's own AMQP client. Blocks."""
    return Counter(message.task_id for message in taken_whole(url, names).elements())


def taken_whole(url: str, names: Iterable[str] = QUEUES) -> Counter[Message]:
    """As `taken`, each with its digest."""
    with Reader(url) as reader:
        return Counter(message for name in names for message in reader.take(name))


def in_spool(spool: Path | str) -> tuple[frozenset[str], frozenset[str]]:
    """Waiting and dead task ids. `spool` is SQLite's file, or the URL of one of the others. Blocks."""
    if isinstance(spool, Path):
        with closing(sqlite3.connect(f"file:{spool}?mode=ro", uri=True)) as db:
            return _in_tables(db)
    if spool.startswith("postgresql://"):
        with psycopg.connect(spool) as database:
            database.read_only = True
            return _in_tables(database)
    return _in_redis(spool)


def _in_tables(database: sqlite3.Connection | psycopg.Connection) -> tuple[frozenset[str], frozenset[str]]:
    waiting = frozenset(row[0] for row in database.execute("select task_id from mlproducer_waiting"))
    dead = frozenset(row[0] for row in database.execute("select task_id from mlproducer_dead_letters"))
    return waiting, dead


def _in_redis(url: str) -> tuple[frozenset[str], frozenset[str]]:
    with closing(_redis(url)) as server:
        # A row without its content could not be published: it does not count as kept.
        rows, dead, bodies = (_texts(server.hkeys(f"{{mlproducer}}:{name}")) for name in ("rows", "dead", "bodies"))
    return rows & bodies, dead & bodies


def _redis(url: str) -> Any:
    """Untyped: the library's types know one answer for bytes and texts."""
    return redis.Redis.from_url(url.partition("?")[0], decode_responses=False)


def _texts(keys: Iterable[bytes]) -> frozenset[str]:
    return frozenset(key.decode() for key in keys)


def reasons(spool: Path | str) -> dict[str, str]:
    """Dead task id → why. See `in_spool`."""
    query = "select task_id, reason from mlproducer_dead_letters"
    if isinstance(spool, Path):
        with closing(sqlite3.connect(f"file:{spool}?mode=ro", uri=True)) as db:
            return dict(db.execute(query).fetchall())
    if spool.startswith("postgresql://"):
        with psycopg.connect(spool) as database:
            return dict(database.execute(query).fetchall())
    with closing(_redis(spool)) as server:
        letters = server.hgetall("{mlproducer}:dead")
    # Four bytes of length, what that many bytes say of the task, then what is told of its end.
    told = {task_id: msgpack.decode(entry[4 + int.from_bytes(entry[:4]) :]) for task_id, entry in letters.items()}
    return {task_id.decode(): end[2] for task_id, end in told.items()}


async def places(url: str, spool: Path | str, names: Iterable[str] = QUEUES) -> Places:
    queues = await in_queues(url, names)
    return Places(queues, *await asyncio.to_thread(in_spool, spool))


def final_places(url: str, spool: Path | str, names: Iterable[str] = QUEUES) -> Places:
    """As `places`, but the queues are empty after it. Blocks."""
    messages = taken_whole(url, names)
    return Places(Counter(message.task_id for message in messages.elements()), *in_spool(spool), messages)
