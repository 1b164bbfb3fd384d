"""The example application under gunicorn: two workers on one data folder, with no settings of ours for it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from mlproducer.testing.rabbitmq import free_port
from places import final_places
from producers import SOON

EXAMPLES = Path(__file__).parents[2] / "examples"
UVICORN = "uvicorn_worker.UvicornWorker"


def until(true: Callable[[], object], log: Path) -> None:
    end = time.monotonic() + 2 * SOON
    while not true():
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.05)


class Gunicorn:
    """A running master: its address, and its workers that live and have their producer."""

    def __init__(self, port: int, log: Path, process: subprocess.Popen[bytes]) -> None:
        self.address = f"http://127.0.0.1:{port}"
        self.log = log
        self.process = process

    @property
    def workers(self) -> set[int]:
        begun = {int(pid) for pid in re.findall(r"Booting worker with pid: (\d+)", self.log.read_text())}
        return {pid for pid in begun if Path(f"/proc/{pid}/stat").exists()}

    def has_two(self, *, other_than: AbstractSet[int] = frozenset()) -> bool:
        live = self.log.parent / "mlproducer.db.live"
        told = [each.read_text().split() for each in live.glob("*.process")]
        producers = {int(words[1]) for words in told if words}  # one that is just made is empty still
        return len((self.workers & producers) - other_than) == 2 and not self.workers & other_than


@contextmanager
def gunicorn(url: str, folder: Path, *options: str) -> Iterator[Gunicorn]:
    port, log = free_port(), folder / "log"
    command = [sys.executable, "-m", "gunicorn", "--workers", "2", "--bind", f"127.0.0.1:{port}", *options]
    environment = {**os.environ, "ML_DATA_DIR": str(folder), "RABBITMQ_URL": url}
    with log.open("w") as out:
        process = subprocess.Popen(
            [*command, "--chdir", str(EXAMPLES), "fastapi_app:app"], env=environment, stdout=out, stderr=out
        )
    try:
        running = Gunicorn(port, log, process)
        until(running.has_two, log)
        yield running
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(2 * SOON)


class Caller(threading.Thread):
    """Posts one article after the other, and keeps what it was told. A call that a dying worker cut off told nothing."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self.accepted: set[str] = set()
        self.refused: list[str] = []
        self._address = address
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(0.01):
            try:
                answer = httpx.post(f"{self._address}/articles/7", json={"text": "Call me Ishmael."}, timeout=2 * SOON)
            except httpx.TransportError:
                continue
            if answer.status_code == httpx.codes.ACCEPTED:
                self.accepted.add(answer.json()["task_id"])
            else:
                self.refused.append(answer.text)

    def end(self) -> set[str]:
        self._ended.set()
        self.join()
        assert not self.refused
        return self.accepted


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("-k", UVICORN, "--preload"), id="preload"),
        pytest.param(("-k", UVICORN), id="each loads it", marks=pytest.mark.chaos),
        pytest.param(("-k", "asgi"), id="gunicorn's own class", marks=pytest.mark.chaos),
    ],
)
def test_no_task_is_lost_when_a_worker_is_killed_and_when_all_are_restarted_under_load(
    options: tuple[str, ...], vhost_url: str, tmp_path: Path
) -> None:
    with gunicorn(vhost_url, tmp_path, *options) as server:
        callers = [Caller(server.address) for _ in range(3)]
        for each in callers:
            each.start()
        try:
            until(lambda: all(len(each.accepted) > 5 for each in callers), server.log)
            killed = min(server.workers)
            os.kill(killed, signal.SIGKILL)
            until(lambda: server.has_two(other_than={killed}), server.log)
            before = server.workers
            server.process.send_signal(signal.SIGHUP)
            until(lambda: server.has_two(other_than=before), server.log)
            counts = [len(each.accepted) for each in callers]
            until(lambda: all(len(each.accepted) > n for each, n in zip(callers, counts, strict=True)), server.log)
        finally:
            accepted = {task_id for each in callers for task_id in each.end()}
    assert server.process.returncode == 0
    log = server.log.read_text()
    assert "Traceback" not in log
    assert "ML_SPOOL_URL" not in log, "no worker was refused the file"
    assert not final_places(vhost_url, tmp_path / "mlproducer.db").lost(accepted)
