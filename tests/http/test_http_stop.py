"""A service that stops: what was accepted is safe, who waits gets an answer, and nobody holds the stop."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from http_bench import FAST, embed, embed_line
from mlproducer import Producer, Settings, SettingsError
from mlproducer.http import batch
from mlproducer.http.server import Service
from mlproducer.rows import Bury, DeadFilter, NewRow, Record, SpoolRow
from mlproducer.spool.memory import MemorySpool
from mlproducer.task import Envelope
from mlproducer.testing.broker import FakeBroker
from mlproducer.wiring import Overrides

NDJSON = {"Content-Type": "application/x-ndjson"}


@dataclass
class Served:
    """A service on a port of its own, over a fake broker."""

    service: Service
    broker: FakeBroker
    spool: MemorySpool
    stopping: asyncio.Event
    running: asyncio.Task[None]

    async def stop(self) -> float:
        """Seconds that it took."""
        start = time.monotonic()
        self.stopping.set()
        await self.running
        return time.monotonic() - start

    async def open(self, *lines: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)  # answers must not all fit into the kernel
        client.setblocking(False)  # the socket's own way
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", self.service.port))
        reader, writer = await asyncio.open_connection(sock=client)
        writer.write("\r\n".join(["POST " + lines[0] + " HTTP/1.1", "Host: localhost", *lines[1:], "", ""]).encode())
        await writer.drain()
        return reader, writer


@asynccontextmanager
async def served(**given: object) -> AsyncIterator[Served]:
    made: list[FakeBroker] = []

    def broker(lost: Callable[[Any], None], _tell: object) -> FakeBroker:
        made.append(FakeBroker(lost))
        return made[0]

    settings = Settings.load(**{**FAST, "ml_port": 0, **given})
    spool = MemorySpool()
    producer = Producer(settings, overrides=Overrides(broker=broker, spool=spool))
    service = Service(settings, producer)
    ready, stopping = asyncio.Event(), asyncio.Event()
    running = asyncio.create_task(service.run(ready=ready, stop=stopping))
    try:
        async with asyncio.timeout(5):
            await ready.wait()
            await producer.connected(2)
        yield Served(service, made[0], spool, stopping, running)
    finally:
        stopping.set()
        await asyncio.wait((running,), timeout=5)
        assert running.done()


async def test_a_call_that_waits_for_its_confirm_is_answered_202_and_its_task_is_in_the_spool() -> None:
    async with served() as s, httpx.AsyncClient(base_url=s.service.url) as client:
        s.broker.hold()
        call = asyncio.create_task(client.post("/api/ml/tasks", json=embed(id="held")))
        while not s.broker.view().in_flight:  # noqa: ASYNC110  # a broker tells no event
            await asyncio.sleep(0.01)
        await s.stop()
        answer = await call
        assert (answer.status_code, answer.json()["state"]) == (202, "spooled")
        assert isinstance(await s.spool.find("held"), SpoolRow)


async def test_a_call_that_is_confirmed_while_the_service_stops_is_answered_201() -> None:
    async with served(ml_shutdown_timeout=5) as s, httpx.AsyncClient(base_url=s.service.url) as client:
        s.broker.hold()
        call = asyncio.create_task(client.post("/api/ml/tasks", json=embed(id="held")))
        while not s.broker.view().in_flight:  # noqa: ASYNC110  # a broker tells no event
            await asyncio.sleep(0.01)
        s.stopping.set()
        await asyncio.sleep(0.3)
        s.broker.release()
        answer = await call
        assert answer.status_code == 201
        await s.running
        assert s.broker.task_ids() == ["held"]
        remembered = await s.spool.find("held")
        assert isinstance(remembered, Record)
        assert remembered.confirmed_at is not None


async def test_nobody_is_served_after_the_stop_began() -> None:
    async with served(ml_shutdown_timeout=5) as s:
        s.broker.hold()
        async with httpx.AsyncClient(base_url=s.service.url) as client:
            call = asyncio.create_task(client.post("/api/ml/tasks", json=embed(id="held")))
            while not s.broker.view().in_flight:  # noqa: ASYNC110  # a broker tells no event
                await asyncio.sleep(0.01)
            s.stopping.set()
            await asyncio.sleep(0.3)
            with pytest.raises(httpx.ConnectError):
                await httpx.AsyncClient(base_url=s.service.url).get("/api/ml/health/live")
            s.broker.release()
            await call


async def test_a_body_that_comes_after_the_stop_began_is_refused_with_retry_after() -> None:
    async with served() as s:
        body = json.dumps(embed(id="late")).encode()
        reader, writer = await s.open("/api/ml/tasks", "Content-Type: application/json", f"Content-Length: {len(body)}")
        writer.write(body[:10])
        await asyncio.sleep(0.1)
        s.stopping.set()
        await asyncio.sleep(0.3)
        writer.write(body[10:])
        answer = (await reader.read()).decode()
        writer.close()
        assert " 503 " in answer.splitlines()[0]
        assert "retry-after: " in answer.lower()
        assert "not-accepting" in answer
        await s.running
        assert s.broker.task_ids() == []
        assert await s.spool.find("late") is None


async def test_a_batch_that_would_never_end_is_ended_with_a_last_answer_that_says_so() -> None:
    async with served() as s:
        reader, writer = await s.open(
            "/api/ml/tasks/batch", "Content-Type: application/x-ndjson", "Transfer-Encoding: chunked"
        )
        line = embed_line(id="first") + b"\n"
        writer.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
        assert b" 200 " in await reader.readline()
        while (found := await reader.readline()) and b"first" not in found:
            pass
        assert s.broker.task_ids() == ["first"]
        seconds = await s.stop()
        rest = await reader.read()
        writer.close()
        assert b"not-accepting" in rest
        assert rest.endswith(b"0\r\n\r\n")  # a whole answer, not a connection that broke off
        assert seconds < 1.5


async def test_a_client_that_never_sends_its_body_does_not_hold_the_stop_for_ever() -> None:
    async with served(ml_shutdown_timeout=0, ml_confirm_timeout=0.1) as s:
        _, writer = await s.open("/api/ml/tasks", "Content-Type: application/json", "Content-Length: 100")
        writer.write(b"{")
        await asyncio.sleep(0.1)
        assert await s.stop() < 4
        writer.close()


async def test_a_client_that_writes_all_before_it_reads_is_told_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "STALL", 0.3)
    lines = 40_000
    async with served() as s:
        reader, writer = await s.open(
            "/api/ml/tasks/batch",
            "Content-Type: application/x-ndjson",
            "Connection: close",
            "Transfer-Encoding: chunked",
        )
        chunk = (b"{broken " + b"x" * 500 + b"\n") * 1_000  # 20 MB in all: it does not fit into the kernel either
        async with asyncio.timeout(30):
            for _ in range(lines // 1_000):
                writer.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
                # The reader takes some 128 KiB by itself; the rest waits in the kernel and then in the service.
                await writer.drain()
            writer.write(b"0\r\n\r\n")
            answer = await reader.read()
        writer.close()
        assert b"answers-unread" in answer[-1_000:]
        assert 1_000 < answer.count(b'"line":') < lines


async def test_a_port_in_use_is_said_with_the_setting_to_change() -> None:
    async with served() as s:
        with pytest.raises(SettingsError, match=rf"ML_PORT: port {s.service.port} .* in use"):
            Service(Settings.load(**{**FAST, "ml_port": s.service.port}))


async def _dead(s: Served, count: int) -> None:
    for n in range(count):
        await s.spool.put(NewRow(Envelope(f"d{n}", "embed_vectors", "ml.embed", b"", b"x"), 1.0))
    leases = await s.spool.lease(count, hold=0)
    assert all(await s.spool.settle([(lease, Bury(2.0, 3, "nacked", None, "full")) for lease in leases]))


@pytest.mark.parametrize("who", ["the client leaves", "the service stops"])
async def test_a_paced_replay_ends_when_nobody_reads_it_or_the_service_stops(who: str) -> None:
    async with served() as s, httpx.AsyncClient(base_url=s.service.url) as client:
        await _dead(s, 4)
        s.broker.down = True
        s.broker.drop()
        async with client.stream("POST", "/api/ml/dlq/replay", json={"all": True, "rate": 1}) as answer:
            lines = answer.aiter_lines()
            assert json.loads(await anext(lines)) == {"taken": 0, "total": 4, "replayed": 0}
            assert json.loads(await anext(lines)) == {"taken": 1, "total": 4, "replayed": 1}
            if who == "the service stops":
                await s.stop()
                last = json.loads([line async for line in lines][-1])
                assert last["error"]["type"] == "urn:mlproducer:problem:not-accepting"
        await asyncio.sleep(0.1)
        left = await s.spool.count_dead(DeadFilter())
        assert left > 0
        await asyncio.sleep(1.2)  # time for one more
        assert await s.spool.count_dead(DeadFilter()) == left
