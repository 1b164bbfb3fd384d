"""A network between us and a server on loopback: each byte arrives late, and none is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


@asynccontextmanager
async def late_by(seconds: float, port: int) -> AsyncIterator[int]:
    """Yields a port that leads to `port`: what goes through takes so long each way."""
    running: list[asyncio.Task[None]] = []
    ends: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        ends.extend((writer, back))
        for source, sink in ((reader, back), (there, writer)):
            late: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
            running.append(asyncio.create_task(_take(source, late, seconds)))
            running.append(asyncio.create_task(_deliver(late, sink)))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for end in ends:
            end.transport.abort()
        await asyncio.sleep(0)


async def _take(source: asyncio.StreamReader, late: asyncio.Queue[tuple[float, bytes]], seconds: float) -> None:
    data = b"."
    while data:
        try:
            data = await source.read(65_536)
        except ConnectionError:
            data = b""
        late.put_nowait((asyncio.get_running_loop().time() + seconds, data))


async def _deliver(late: asyncio.Queue[tuple[float, bytes]], sink: asyncio.StreamWriter) -> None:
    while True:
        due, data = await late.get()
        await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
        if not data:
            sink.close()
            return
        sink.write(data)
