"""What open consoles cost: the publish rate with 50 of them as a ratio of the rate with none, in one run.

    .venv/bin/python bench/console.py [--clients 50] [--pairs 12] [--messages 15000] [--json]

One service with a private RabbitMQ lives through the whole run, and publishes 1 KiB tasks by `publish_many` within its
own process: the same event loop that serves the consoles. The clients are in a process of their own, read every event
and parse it, and are told to come and go. Each pair is one run with them and one without, in turns ABBA, and gives one
ratio, so that a machine that changes its speed changes it for both. Beside the rate: the processor time of the service
process a task, which other programs on the machine do not blur as much; and `core_share`, what the consoles take of one
core while nothing is published, which is what they can take from a publisher that fills it.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from mlproducer import Producer, Receipt, Settings, Task
from mlproducer.http.server import Service
from mlproducer.testing.rabbitmq import PrivateRabbit

WINDOW = 1_000
TEXT = ("The quick brown fox jumps over the lazy dog. " * 30)[:960]


@dataclass(frozen=True)
class Run:
    seconds: float
    cpu: float
    """Processor seconds of the service process, broker and clients not included."""


Found = list[tuple[Run, Run, int]]
"""With consoles, without, and the samples that the consoles read."""


async def publish(producer: Producer, count: int) -> Run:
    tasks = (Task(task_type="embed_vectors", payload={"share_id": str(n), "content": TEXT}) for n in range(count))
    started, cpu = time.perf_counter(), time.process_time()
    async for result in producer.publish_many(tasks, window=WINDOW):
        if not (isinstance(result, Receipt) and result.confirmed):
            raise SystemExit(f"not confirmed: {result}")
    return Run(time.perf_counter() - started, time.process_time() - cpu)


async def core_share(watching: Clients, seconds: float = 20.0) -> float:
    """Of one core, for the open consoles alone."""
    shares = []
    for way in ("without", "with"):
        if way == "with":
            await watching.say("open")
            await asyncio.sleep(1)  # their past is sent by then
        cpu = time.process_time()
        await asyncio.sleep(seconds)
        shares.append((time.process_time() - cpu) / seconds)
    await watching.say("close")
    return shares[1] - shares[0]


class Clients:
    """`watch` below, in a process that opens and closes all its streams by a word."""

    def __init__(self, port: int, count: int) -> None:
        self._child = subprocess.Popen(
            [sys.executable, __file__, "--watch", str(port), "--clients", str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    async def say(self, word: str) -> str:
        child = self._child
        if child.stdin is None or child.stdout is None:
            raise SystemExit("the process of the clients has no pipes")
        child.stdin.write(word + "\n")
        return (await asyncio.to_thread(child.stdout.readline)).strip()

    def end(self) -> None:
        self._child.kill()
        self._child.wait()


async def measure(url: str, folder: Path, clients: int, pairs: int, messages: int) -> tuple[float, Found]:
    settings = Settings.load(rabbitmq_url=url, ml_data_dir=folder, ml_port=0)
    producer = Producer(settings)
    service = Service(settings, producer)
    ready, stop = asyncio.Event(), asyncio.Event()
    running = asyncio.create_task(service.run(ready=ready, stop=stop))
    await ready.wait()
    await producer.connected(20)
    watching = Clients(service.port, clients)
    found: Found = []
    try:
        await publish(producer, messages)  # warm
        share = await core_share(watching)
        for pair in range(pairs):
            runs: dict[str, Run] = {}
            read = 0
            for way in ("with", "without") if pair % 2 else ("without", "with"):
                if way == "with":
                    await watching.say("open")
                runs[way] = await publish(producer, messages)
                if way == "with":
                    read = int(await watching.say("close"))
                await purge(url)
                gc.collect()
            found.append((runs["with"], runs["without"], read))
            print(f"{pair + 1}/{pairs}: {runs['without'].seconds / runs['with'].seconds:.4f}", file=sys.stderr)
    finally:
        watching.end()
        stop.set()
        await running
    return share, found


async def purge(url: str) -> None:
    import aio_pika  # noqa: PLC0415  # only the measuring process needs it

    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        await (await channel.get_queue("ml.embed")).purge()


async def watch(port: int, count: int) -> None:
    """Opens `count` streams at `open`; at `close` ends them and says how many samples they were told."""
    loop = asyncio.get_running_loop()
    told = [0]
    while await asyncio.to_thread(sys.stdin.readline) == "open\n":
        told[0] = 0
        opened = [loop.create_future() for _ in range(count)]
        jobs = [loop.create_task(one(port, each, told)) for each in opened]
        await asyncio.gather(*opened)
        print("open", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        print(told[0], flush=True)


async def one(port: int, opened: asyncio.Future[None], told: list[int]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    writer.write(b"GET /console/events HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n")
    try:
        async for line in reader:
            if line.startswith(b"event: history") and not opened.done():
                opened.set_result(None)
            if line.startswith(b"data: "):
                told[0] += "sample" in json.loads(line[6:])
    finally:
        writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--messages", type=int, default=15_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--watch", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.watch:
        asyncio.run(watch(options.watch, options.clients))
        return
    gc.collect()
    gc.freeze()
    with tempfile.TemporaryDirectory() as name, PrivateRabbit(Path(name) / "broker") as rabbit:
        share, found = asyncio.run(measure(rabbit.url, Path(name), options.clients, options.pairs, options.messages))
    rates = [without.seconds / with_.seconds for with_, without, _ in found]
    costs = [with_.cpu / without.cpu for with_, without, _ in found]
    result = {
        "clients": options.clients,
        "pairs": len(found),
        "rate_without": round(statistics.median(options.messages / without.seconds for _, without, _ in found)),
        "rate_ratio": [round(each, 4) for each in sorted(rates)],
        "rate_ratio_median": round(statistics.median(rates), 4),
        "core_share": round(share, 4),
        "cpu_ratio_median": round(statistics.median(costs), 4),
        "samples_read": sum(read for _, _, read in found),
    }
    print(json.dumps(result) if options.json else "\n".join(f"{name}: {value}" for name, value in result.items()))


if __name__ == "__main__":
    main()
