"""A child that was forked within a coroutine ends in whatever way: its parent's loop and connections stay whole."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlproducer.testing.rabbitmq import PrivateRabbit
from private_redis import PrivateRedis

SCRIPT = """
import asyncio, gc, os, pathlib, signal, sys, warnings
import uvloop
from mlproducer import Producer, Settings, Task
from mlproducer.events import ConnectionFailed, PartFailed, SpoolFailed

warnings.simplefilter("ignore", DeprecationWarning)  # from 3.12 on: a fork of a process with threads
way, loop, url, store, folder = sys.argv[1:]
events = []

def poll_sets():
    "What the kernel watches for us."
    found = []
    for each in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{each}") == "anon_inode:[eventpoll]":
                lines = pathlib.Path(f"/proc/self/fdinfo/{each}").read_text().splitlines()
                found.append((each, sorted(line.split()[1] for line in lines if line.startswith("tfd:"))))
        except FileNotFoundError:
            pass
    return sorted(found)

def task(n):
    return Task(task_type="embed_vectors", payload={"share_id": str(n), "content": "x"})

async def main():
    settings = Settings.load(
        rabbitmq_url=url, ml_spool_url=store, ml_data_dir=folder, ml_receipts="all", ml_log_level="error",
        ml_health_interval=600,
    )
    async with Producer(settings, listeners=[events.append]) as p:
        assert await p.connected(30)
        assert (await p.publish(task(0))).confirmed
        before = poll_sets()
        pid = os.fork()
        if not pid:
            signal.alarm(0 if sys.version_info < (3, 14) else 5)  # see EXIT
            match way:
                case "exit":
                    sys.exit(3)
                case "error":
                    raise ValueError("of the child")
                case "end":
                    return
                case "collected":
                    del p
                    gc.collect()
                    os._exit(3)
        os.waitpid(pid, 0)  # the loop stands still, so that all that changes is the child's doing
        assert poll_sets() == before, (before, poll_sets())
        print([str((await p.publish(task(n))).state) for n in (1, 2)])
        wrong = [event for event in events if isinstance(event, ConnectionFailed | PartFailed | SpoolFailed)]
        assert not wrong, wrong
    print("stopped")

with asyncio.Runner(loop_factory=uvloop.new_event_loop if loop == "uvloop" else None) as runner:
    runner.run(main())
"""
# Python's own fault, seen with no line of ours: from 3.14 on asyncio takes the loop of a child that was forked in a
# coroutine for one that does not run. So a coroutine that raises SystemExit there never ends, and one that ends in
# another way does not if a task of the parent was about to go on. An error closes the child's copy of the loop as well;
# a child that hangs is ended by its alarm.
EXIT = "error" if sys.version_info >= (3, 14) else "exit"
WAYS = (EXIT, "collected")


def _run(way: str, loop: str, url: str, store: str, folder: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, way, loop, url, store, str(folder)]
    done = subprocess.run(command, env={**os.environ}, capture_output=True, text=True, timeout=240, check=False)
    assert (done.stdout, done.returncode) == ("['confirmed', 'confirmed']\nstopped\n", 0), done.stderr
    assert "connection" not in done.stderr, "the child says nothing of one"


@pytest.mark.parametrize(("way", "loop"), sorted({(EXIT, "asyncio"), ("error", "asyncio"), ("end", "uvloop")}))
def test_the_loop_of_the_parent_is_whole(vhost_url: str, tmp_path: Path, way: str, loop: str) -> None:
    _run(way, loop, vhost_url, "memory://", tmp_path)


@pytest.mark.parametrize("way", WAYS)
def test_the_connections_of_the_parent_to_a_postgresql_are_whole(
    rabbit: PrivateRabbit, postgres_schema_url: str, tmp_path: Path, way: str
) -> None:
    _run(way, "asyncio", rabbit.add_vhost(f"fork-postgresql-{way}"), postgres_schema_url, tmp_path)


def test_the_connections_of_the_parent_to_a_redis_are_whole(rabbit: PrivateRabbit, tmp_path: Path) -> None:
    with PrivateRedis(tmp_path) as server:
        for way in WAYS:
            _run(way, "asyncio", rabbit.add_vhost(f"fork-redis-{way}"), server.url(), tmp_path)
