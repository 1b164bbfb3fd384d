"""One data folder, several processes, no settings: workers of a server, scripts, commands; and what is of the folder."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from mlproducer import Producer, Task
from mlproducer.delivery.gauges import GAUGE_INTERVAL
from places import in_queues
from producers import NOWHERE, SOON, Producers

EXAMPLES = Path(__file__).parents[2] / "examples"


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + 2 * SOON
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


@contextmanager
def two_workers(url: str, folder: Path) -> Iterator[tuple[str, list[int]]]:
    """uvicorn with the example application: its address, and the process ids of the workers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "uvicorn", "--workers", "2", "--port", port, "--app-dir", str(EXAMPLES)]
    environment = {**os.environ, "ML_DATA_DIR": str(folder), "RABBITMQ_URL": url}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen([*command, "fastapi_app:app"], env=environment, stdout=log, stderr=log)
    live = folder / "mlproducer.db.live"
    try:
        until(lambda: len(list(live.glob("*.process"))) == 2 and (folder / "log").read_text().count("complete") == 2)
        yield f"http://127.0.0.1:{port}", [int(each.read_text().split()[1]) for each in live.glob("*.process")]
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(2 * SOON)


def test_two_workers_of_uvicorn_start_and_accept_with_no_settings(vhost_url: str, tmp_path: Path) -> None:
    with two_workers(vhost_url, tmp_path) as (address, workers):
        for stopped in workers:
            os.kill(stopped, signal.SIGSTOP)  # so that the other one answers
            try:
                answer = httpx.post(f"{address}/articles/7", json={"text": "Call me Ishmael."}, timeout=2 * SOON)
            finally:
                os.kill(stopped, signal.SIGCONT)
            assert (answer.status_code, answer.json()["state"]) in {(202, "confirmed"), (202, "spooled")}
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
    assert "ERROR" not in log


async def test_ids_that_callers_chose_are_remembered_across_the_processes(
    vhost_url: str, tmp_path: Path, producers: Producers
) -> None:
    ids = [f"order-{n}" for n in range(40)]
    settings = {"ml_data_dir": tmp_path, "rabbitmq_url": vhost_url, "ml_accept_timeout": SOON}
    running = [producers.start(settings, repeat=ids, wait=True, drain=True) for _ in range(2)]
    for each in running:
        told = each.ended()
        assert told.accepted.keys() == set(ids)
        assert not told.refused
    queued = await in_queues(vhost_url)
    assert sorted(queued.elements()) == sorted(ids), "each once"


def rows_in(folder: Path) -> int:
    with closing(sqlite3.connect(folder / "mlproducer.db")) as connection:
        return int(connection.execute("SELECT count(*) FROM mlproducer_waiting").fetchone()[0])


def test_the_limits_are_of_the_folder(tmp_path: Path, producers: Producers) -> None:
    """Each process knows of the others' rows from its last look: until then it may fill the spool alone."""
    limit = 60
    settings = {"ml_data_dir": tmp_path, "rabbitmq_url": NOWHERE, "ml_spool_max_tasks": limit}
    running = [producers.start(settings, callers=4, rest=0.01) for _ in range(2)]
    for each in running:
        each.until(lambda told: any(refusal.error == "SpoolFull" for refusal in told.refused))
    time.sleep(3 * GAUGE_INTERVAL)
    filled = rows_in(tmp_path)
    assert limit <= filled <= len(running) * limit
    time.sleep(GAUGE_INTERVAL)
    assert rows_in(tmp_path) == filled, "by now all know"
    for each in running:
        each.stop()


async def command(*words: str) -> str:
    """What it printed; a process of its own, that ends well."""
    program = [sys.executable, "-m", "mlproducer.cli"]
    process = await asyncio.create_subprocess_exec(*program, *words, stdout=asyncio.subprocess.PIPE)
    printed, _ = await process.communicate()
    assert process.returncode == 0
    return printed.decode()


async def test_what_is_in_the_folder_is_seen_and_commanded_from_any_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ML_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("RABBITMQ_URL", NOWHERE)
    async with Producer() as one, Producer() as two:

        async def both_see(tasks: int, dead: int) -> None:
            async with asyncio.timeout(2 * SOON):
                while {(each.status().spool_tasks, each.status().dead) for each in (one, two)} != {(tasks, dead)}:  # noqa: ASYNC110  # polled by the product too
                    await asyncio.sleep(0.05)

        soon = datetime.now(UTC) + timedelta(seconds=0.2)
        payload = {"share_id": "1", "content": "x"}
        expired = await one.publish(Task(task_type="embed_vectors", payload=payload, expires=soon))
        waits = await two.publish(Task(task_type="embed_vectors", payload=payload, id="a"))
        assert (expired.state, waits.state) == ("spooled", "spooled")
        await both_see(1, 1)
        assert (await one.receipt("a")).state == "spooled", "the other one's"
        assert '"a"' in await command("retry", "list", "--json")
        assert expired.task_id in await command("dlq", "list", "--json")
        await command("dlq", "purge", expired.task_id, "--yes")
        await both_see(1, 0)
