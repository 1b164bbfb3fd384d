"""Real Celery workers for the integration tests: the newest release and 5.4, each on a virtual host of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mlproducer.testing.rabbitmq import PrivateRabbit

HERE = Path(__file__).parent
WORKERS = {
    "newest": Path(sys.prefix),
    "5.4": Path(os.environ.get("CELERY54", HERE.parent.parent / ".venv-celery54")),  # `make matrix` has one a Python
}
START_TIMEOUT = 60.0
WORK_TIMEOUT = 30.0


@dataclass(frozen=True)
class Worker:
    """A running worker, the broker that it reads, and what it noted."""

    version: str
    url: str
    notes: Path
    process: subprocess.Popen[bytes]

    @property
    def log(self) -> str:
        return self.notes.with_suffix(".log").read_text()

    def noted(self, what: str) -> list[dict[str, Any]]:
        # What follows the last line end is a line that is being written.
        lines = self.notes.read_text().split("\n")[:-1] if self.notes.exists() else []
        return [line for line in map(json.loads, lines) if line["what"] == what]

    def wait_for(self, what: str, count: int, timeout: float = WORK_TIMEOUT) -> list[dict[str, Any]]:
        """The notes of the kind, once there are `count`; a worker that stopped is reported with its log."""
        end = time.monotonic() + timeout
        while len(found := self.noted(what)) < count:
            assert self.process.poll() is None, f"the worker stopped:\n{self.log}"
            assert time.monotonic() < end, f"{len(found)} of {count} {what} after {timeout} s:\n{self.log}"
            time.sleep(0.05)
        return found

    def wait_for_log(self, text: str) -> None:
        end = time.monotonic() + WORK_TIMEOUT
        while text not in self.log and time.monotonic() < end:
            time.sleep(0.05)
        assert text in self.log

    def done(self, *task_ids: str) -> dict[str, dict[str, Any]]:
        """What the worker noted of each of these tasks, each run exactly once."""
        end = time.monotonic() + WORK_TIMEOUT
        while True:
            assert self.process.poll() is None, f"the worker stopped:\n{self.log}"
            found = [note for note in self.noted("done") if note["id"] in task_ids]
            if len(found) >= len(task_ids) or time.monotonic() > end:
                break
            time.sleep(0.05)
        assert sorted(note["id"] for note in found) == sorted(task_ids)
        return {note["id"]: note for note in found}


@contextmanager
def running(
    version: str,
    url: str,
    folder: Path,
    app: str = "celery_app",
    more: Mapping[str, str] | None = None,
    options: Sequence[str] = (),
) -> Iterator[Worker]:
    """A worker of the virtual environment, until the end of the block; `more` is added to its environment."""
    environment = WORKERS[version]
    program = environment / "bin" / "celery"
    assert program.exists(), (
        f"{environment.name} has no Celery: `make test` creates it, or by hand: python3 -m venv {environment.name} && "
        f"{environment.name}/bin/pip install --require-hashes -r requirements/celery54.txt"
    )
    notes = folder / "worker.jsonl"
    command = [str(program), "-A", app, "worker", "--pool", "solo", "--loglevel", "INFO", *options]
    settings = {**os.environ, "WORKER_BROKER": url, "WORKER_NOTES": str(notes), "PYTHONPATH": str(HERE), **(more or {})}
    with (
        notes.with_suffix(".log").open("wb") as log,
        subprocess.Popen(command, cwd=folder, env=settings, stdout=log, stderr=subprocess.STDOUT) as process,
    ):
        try:
            worker = Worker(version, url, notes, process)
            worker.wait_for("ready", 1, START_TIMEOUT)
            yield worker
            # A test may kill it; by itself it does not stop.
            assert process.poll() in {None, -signal.SIGKILL}, "the worker stopped during the test"
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


@pytest.fixture(scope="session", params=list(WORKERS))
def worker(
    request: pytest.FixtureRequest, rabbit: PrivateRabbit, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Worker]:
    """One worker of each version, on a vhost of its own."""
    version: str = request.param
    url = rabbit.add_vhost(f"celery-{version}")
    with running(version, url, tmp_path_factory.mktemp("celery")) as started:
        yield started
