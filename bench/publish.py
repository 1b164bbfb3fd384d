"""Throughput of confirmed publishes as ratios in one run on one machine.

    .venv/bin/python bench/publish.py [--messages 20000] [--rounds 3] [--json]

A private RabbitMQ; 1 KiB of text a task; a durable quorum queue; mandatory and persistent; confirms on. The ways take
turns, so that a machine that changes its speed changes it for all of them. All send the same message, one that a Celery
worker runs: the same body, headers and properties.

- `aio-pika`: the usual asyncio client, publisher confirms, 1,000 publishes at a time, a prepared body;
- `aio-pika, bare`: the same with two headers instead of Celery's twenty, which no client of ours may leave out: what a
  program saves that sends something else than tasks;
- `publish`: this library, 1,000 concurrent `publish` calls, each from a `Task` to its `Receipt`;
- `publish_many`: this library, one stream with a window of 1,000;
- `ceiling`: prepared frames over a blocking socket, acks counted, the same window: what the broker can take.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import socket
import statistics
import struct
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import aio_pika
from pamqp import base, commands, frame, header, heartbeat
from rich.console import Console
from rich.table import Table

from mlproducer import Producer, Receipt, Settings, Task
from mlproducer.envelope.encode import Encoder, describe
from mlproducer.envelope.types import TaskTypes
from mlproducer.testing.rabbitmq import PrivateRabbit

WINDOW = 1_000
TEXT = ("The quick brown fox jumps over the lazy dog. " * 30)[:960]
QUEUE = "ml.embed"


def task(n: int) -> Task:
    return Task(task_type="embed_vectors", payload={"share_id": str(n), "content": TEXT})


@dataclass(frozen=True)
class Message:
    """What every way sends."""

    body: bytes
    headers: dict[str, Any]


def message() -> Message:
    envelope = Encoder(TaskTypes.builtin(), "mlproducer@bench", 1 << 20).encode(task(1))
    return Message(envelope.body, describe(envelope)["headers"])


async def with_aio_pika(url: str, count: int, *, bare: bool = False) -> float:
    sent = message()
    bare_headers = {"task": sent.headers["task"], "id": sent.headers["id"]}
    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel(publisher_confirms=True)
        exchange = await channel.get_exchange("ml.tasks")
        window = asyncio.Semaphore(WINDOW)

        async def one(n: int) -> None:
            message = aio_pika.Message(
                sent.body,
                content_type="application/json",
                content_encoding="utf-8",
                headers=bare_headers if bare else {**sent.headers, "id": str(n), "root_id": str(n)},
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                priority=0,
                correlation_id=str(n),
                message_id=str(n),
                timestamp=int(time.time()),
            )
            async with window:
                await exchange.publish(message, routing_key=QUEUE, mandatory=True)

        started = time.perf_counter()
        await asyncio.gather(*(one(n) for n in range(count)))
        return time.perf_counter() - started


async def with_publish(settings: Settings, count: int) -> float:
    async with Producer(settings) as producer:
        if not await producer.connected(20):
            raise SystemExit("the private broker did not answer")
        numbers = iter(range(count))

        async def caller() -> None:
            for n in numbers:
                receipt = await producer.publish(task(n))
                if not receipt.confirmed:
                    raise SystemExit(f"not confirmed but {receipt.state}: {receipt.reason}")

        started = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(WINDOW)))
        return time.perf_counter() - started


async def with_publish_many(settings: Settings, count: int) -> float:
    async with Producer(settings) as producer:
        if not await producer.connected(20):
            raise SystemExit("the private broker did not answer")
        started = time.perf_counter()
        async for result in producer.publish_many((task(n) for n in range(count)), window=WINDOW):
            if not (isinstance(result, Receipt) and result.confirmed):
                raise SystemExit(f"not confirmed: {result}")
        return time.perf_counter() - started


class RawPublisher:
    """Just enough AMQP on a blocking socket to find the broker's own limit."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname, parts.port))
        self._buffer = b""
        login = f"\0{unquote(parts.username or '')}\0{unquote(parts.password or '')}"
        self._socket.sendall(header.ProtocolHeader().marshal())
        self._read()
        self._send(0, commands.Connection.StartOk(mechanism="PLAIN", response=login, locale="en_US"))
        self._read()
        self._send(0, commands.Connection.TuneOk(2047, 131072, 0))
        self._send(0, commands.Connection.Open(unquote(parts.path[1:]) or "/"))
        self._read()
        self._send(1, commands.Channel.Open())
        self._read()
        self._send(1, commands.Confirm.Select())
        self._read()

    def run(self, count: int) -> float:
        one = self._prepared()
        sent = acked = 0
        started = time.perf_counter()
        while acked < count:
            free = min(WINDOW - (sent - acked), count - sent)
            # Half a window at least, so that writes are large, as a well-made client's are.
            if free and (free >= WINDOW // 2 or sent + free == count):
                self._socket.sendall(one * free)
                sent += free
            acked = max(acked, self._acks(acked))
        return time.perf_counter() - started

    def close(self) -> None:
        self._socket.close()

    def _prepared(self) -> bytes:
        sent = message()
        body = sent.body
        properties = commands.Basic.Properties(
            content_type="application/json",
            content_encoding="utf-8",
            headers=sent.headers,
            delivery_mode=2,
            priority=0,
            correlation_id=sent.headers["id"],
            message_id="1",
            timestamp=datetime.now(UTC),
        )
        publish = commands.Basic.Publish(exchange="ml.tasks", routing_key=QUEUE, mandatory=True)
        content = header.ContentHeader(0, len(body), properties)
        return (
            frame.marshal(publish, 1)
            + frame.marshal(content, 1)
            + struct.pack(">BHI", 3, 1, len(body))
            + body
            + b"\xce"
        )

    def _acks(self, acked: int) -> int:
        """The highest tag acked in what one read gives. Acks come in order here: nothing is nacked or returned."""
        self._buffer += self._socket.recv(1 << 20)
        while len(self._buffer) >= 7:
            kind, _, size = struct.unpack_from(">BHI", self._buffer)
            if len(self._buffer) < size + 8:
                break
            if kind == 1:
                class_id, method = struct.unpack_from(">HH", self._buffer, 7)
                if (class_id, method) != (60, 80):
                    raise SystemExit(f"unexpected method {class_id}.{method}")
                tag, multiple = struct.unpack_from(">QB", self._buffer, 11)
                acked = tag if multiple else acked + 1
            self._buffer = self._buffer[size + 8 :]
        return acked

    def _send(self, channel: int, method: base.Frame) -> None:
        self._socket.sendall(frame.marshal(method, channel))

    def _read(self) -> None:
        while True:
            if self._buffer:
                used, _, found = frame.unmarshal(self._buffer)
                if used and not isinstance(found, heartbeat.Heartbeat):
                    self._buffer = self._buffer[used:]
                    return
            self._buffer += self._socket.recv(65536)


async def ceiling(url: str, count: int) -> float:
    def run() -> float:
        publisher = RawPublisher(url)
        try:
            return publisher.run(count)
        finally:
            publisher.close()

    return await asyncio.to_thread(run)


async def purge(url: str) -> None:
    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel()
        queue = await channel.get_queue(QUEUE)
        await queue.purge()


async def measure(url: str, folder: Path, count: int, rounds: int) -> dict[str, list[float]]:
    settings = Settings.load(rabbitmq_url=url, ml_data_dir=folder, ml_log_level="error")
    ways: dict[str, Callable[[], Awaitable[float]]] = {
        "aio-pika": lambda: with_aio_pika(url, count),
        "aio-pika, bare": lambda: with_aio_pika(url, count, bare=True),
        "publish": lambda: with_publish(settings, count),
        "publish_many": lambda: with_publish_many(settings, count),
        "ceiling": lambda: ceiling(url, count),
    }
    async with Producer(settings) as producer:  # declares the exchange and the queues
        if not await producer.connected(20):
            raise SystemExit(f"no broker: {producer.status().last_error}")
    rates: dict[str, list[float]] = {name: [] for name in ways}
    console = Console(stderr=True)
    for n in range(rounds):
        for name, way in ways.items():
            seconds = await way()
            rates[name].append(count / seconds)
            console.print(f"round {n + 1} of {rounds}: {name:14} {count / seconds:8,.0f} messages/s")
            await purge(url)
    return rates


def show(rates: dict[str, list[float]]) -> None:
    table = Table(title="Confirmed publishes, 1 KiB, quorum queue (medians; ratios round by round)")
    for column in ("way", "messages/s", "of aio-pika", "of the ceiling"):
        table.add_column(column, justify="left" if column == "way" else "right")
    for name, values in rates.items():
        against = [
            statistics.median(a / b for a, b in zip(values, rates[base], strict=True))
            for base in ("aio-pika", "ceiling")
        ]
        table.add_row(name, f"{statistics.median(values):,.0f}", f"{against[0]:.2f} ×", f"{against[1]:.2f} ×")
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    # As a server does after its imports: what is loaded for good is not looked at in each full collection.
    gc.collect()
    gc.freeze()
    with tempfile.TemporaryDirectory() as name, PrivateRabbit(Path(name) / "broker") as rabbit:
        rates = asyncio.run(measure(rabbit.url, Path(name), options.messages, options.rounds))
    if options.json:
        print(json.dumps(rates))
    else:
        show(rates)


if __name__ == "__main__":
    main()
