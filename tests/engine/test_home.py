"""A producer is used in the process, thread and event loop that it was started in; elsewhere it says so first."""

from __future__ import annotations

import asyncio
import inspect
import os
import subprocess
import sys
from collections.abc import AsyncIterable, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from engine_bench import Bench, bench, embed
from mlproducer import WrongLoop
from mlproducer.engine import Engine
from mlproducer.events import HealthChecked

ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "publish": (embed(),),
    "publish_many": ([embed()],),
    # Wrong ones: that they are is not found out before the look.
    "publish_summarization_task": ("", ""),
    "publish_transcription_task": ("", ""),
    "publish_embedding_task": ("", ""),
    "publish_batch_embedding_task": ([],),
    "publish_video_summary_task": ("", ""),
    "connected": (60.0,),
    "drained": (60.0,),
    "receipt": ("t",),
    "waiting_task": ("t",),
    "dead_letter": ("t",),
    "plan": ([],),
    "replay": (["t"],),
    "replay_steps": (["t"],),
    "purge": (["t"],),
    "task_type_of": ("a.celery.task",),
    "report": ([],),
}
ENTRY_POINTS = sorted(name for name in vars(Engine) if not name.startswith("_"))
COROUTINES = {name for name in ENTRY_POINTS if inspect.iscoroutinefunction(vars(Engine)[name])}


def use(engine: Engine, name: str) -> object:
    found = getattr(engine, name)
    return found(*ARGUMENTS.get(name, ())) if callable(found) else found


async def used(engine: Engine, name: str) -> None:
    found = use(engine, name)
    if isinstance(found, AsyncIterable):
        async for _ in found:
            pass
    elif isinstance(found, Awaitable):
        await found


def _told(b: Bench) -> list[object]:
    """But for the health check, which looks once after the first connect."""
    return [event for event in b.events if not isinstance(event, HealthChecked)]


@contextmanager
def refused(b: Bench, *words: str) -> Iterator[None]:
    """`WrongLoop` that says all of `words`, and nothing of the call is left."""
    told = _told(b)
    with pytest.raises(WrongLoop) as error:
        yield
    assert all(word in str(error.value) for word in words), error.value
    assert _told(b) == told
    assert b.producer._all_parts.pipeline.under_way == 0


@contextmanager
def quiet() -> Iterator[Bench]:
    """Nothing happens by itself that tells."""
    yield bench(ml_health_interval=600)


@pytest.mark.parametrize("name", ENTRY_POINTS)
async def test_each_entry_point_refuses_another_loop_in_another_thread(name: str) -> None:
    with quiet() as b:
        async with b.producer as p:
            await p.connected(5)
            with refused(b, "thread", "run_coroutine_threadsafe"):
                async with asyncio.timeout(5):
                    await asyncio.to_thread(asyncio.run, used(p, name))
            assert (await p.publish(embed("at home"))).state == "confirmed"
            assert not await p.waiting()


@pytest.mark.parametrize("name", sorted(set(ENTRY_POINTS) - COROUTINES - {"publish_many"}))
async def test_what_is_no_coroutine_refuses_a_thread_without_a_loop(name: str) -> None:
    with quiet() as b:
        async with b.producer as p:
            await p.connected(5)
            with refused(b, "thread", "run_coroutine_threadsafe"):
                await asyncio.to_thread(use, p, name)
            assert p.status().connection == "connected"


def on(make_loop: Callable[[], asyncio.AbstractEventLoop], b: Bench, work: Callable[[Bench], Awaitable[None]]) -> None:
    async def body() -> None:
        await work(b)

    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(body())


def test_the_next_asyncio_run_is_another_loop() -> None:
    with quiet() as b:
        asyncio.run(used(b.producer, "start"))
        for name in ENTRY_POINTS:
            with refused(b, "one asyncio.run()"):
                asyncio.run(used(b.producer, name))


def test_a_loop_that_does_not_run_is_named() -> None:
    with quiet() as b, asyncio.Runner() as runner:
        runner.run(used(b.producer, "start"))
        for call in (b.producer.status, b.producer.health, b.producer.reconnect):
            with refused(b, "does not run"):
                call()
        runner.run(used(b.producer, "stop"))
        assert not b.producer.status().accepting, "stopped, it has no home any more"


@pytest.mark.parametrize("name", ["publish_many", "replay_steps"])
async def test_a_stream_made_at_home_is_not_read_elsewhere(name: str) -> None:
    async def read(stream: Any) -> None:
        async for _ in stream:
            pass

    with quiet() as b:
        async with b.producer as p:
            await p.connected(5)
            with refused(b, "thread"):
                await asyncio.to_thread(asyncio.run, read(use(p, name)))


async def test_the_way_that_the_error_names_works() -> None:
    with quiet() as b:
        async with b.producer as p:
            await p.connected(5)
            loop = asyncio.get_running_loop()

            def elsewhere() -> str:
                return asyncio.run_coroutine_threadsafe(p.publish(embed()), loop).result(5).state

            assert await asyncio.to_thread(elsewhere) == "confirmed"


FORK = """
import asyncio, os, sys, warnings
sys.path.insert(0, {helpers!r})
from engine_bench import bench, embed
from test_home import ENTRY_POINTS, used
from mlproducer import WrongLoop

warnings.simplefilter("ignore", DeprecationWarning)  # from 3.12 on: a fork of a process with threads

def child(p):
    asyncio._set_running_loop(None)  # Python 3.14 takes the parent's loop along into the child
    for name in ENTRY_POINTS:
        try:
            asyncio.run(asyncio.wait_for(used(p, name), 5))
        except WrongLoop as error:
            assert "after the fork" in str(error), error
        else:
            return f"{{name}} did not refuse"
    for name in ("status", "reconnect"):
        try:
            getattr(p, name)()
        except WrongLoop:
            continue
        return f"{{name}} did not refuse without a loop"
    asyncio.run(p.__aexit__(None, None, None))  # leaves the parent's alone, without a word
    return "good"

async def main():
    b = bench(ml_data_dir={folder!r}, **{spool!r})
    async with b.producer as p:
        await p.connected(5)
        heard, tell = os.pipe()
        pid = os.fork()
        if not pid:
            os.write(tell, child(p).encode())
            os._exit(0)
        os.close(tell)
        assert (await asyncio.to_thread(os.waitpid, pid, 0))[1] == 0
        print(os.read(heard, 1000).decode())
        assert not await p.waiting()
        b.broker.blocked = True
        print((await p.publish(embed())).state)
        b.broker.blocked = False  # else the end says what stays behind

asyncio.run(main())
"""


@pytest.mark.parametrize("spool", ["memory", "file"])
def test_a_forked_child_refuses_and_leaves_the_parent_whole(tmp_path: Path, spool: str) -> None:
    here = Path(__file__).parent
    settings = {} if spool == "memory" else {"ml_spool_url": f"sqlite:///{tmp_path}/spool.db"}
    script = FORK.format(helpers=str(here.parent / "helpers"), folder=str(tmp_path), spool=settings)
    env = {**os.environ, "PYTHONPATH": str(here)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("good\nspooled\n", "")
