"""The real service in a process of its own, for browsers; and tasks for it, living and dead. All calls block."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from making_queues import make_queue

KEY = "console-key-0123456789abcdef"
SOON = 30.0
OTHERS_DECLARE = {"ML_DECLARE_TOPOLOGY": "no"}
QUICK = {
    "ML_RECONNECT_FIRST": "0.2",
    "ML_RECONNECT_CAP": "1",
    "ML_RECONNECT_ATTEMPTS": "1000",
    "ML_RETRY_FIRST": "0.05",
    "ML_RETRY_CAP": "0.1",
    "ML_ROUTE_PATIENCE": "0",  # a fault is the task's own at once: dead letters are wanted, and soon
    "ML_DRAIN_POLL": "0.1",
    "ML_SHUTDOWN_TIMEOUT": "1",
    "ML_BREAKER_FAILURES": "1000",  # a broker that is away long enough would open it, and its cool-down is long
}


def until(true: Callable[[], object], what: str, seconds: float = SOON) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not so within {seconds} s: {what}"
        time.sleep(0.05)


@dataclass
class ServedConsole:
    url: str
    process: subprocess.Popen[bytes]
    api: httpx.Client
    """Calls with a key, where there is one."""

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.api.get("/api/ml/status").json()
        return found

    def until_status(self, true: Callable[[dict[str, Any]], object], what: str) -> None:
        until(lambda: true(self.status()), what)

    def publish(self, task_type: str, *task_ids: str, content: str = "Call me Ishmael.") -> list[str]:
        """The states of the receipts."""
        tasks = [
            {"task_type": task_type, "id": task_id, "payload": {"share_id": "s1", "content": content}}
            for task_id in task_ids
        ]
        answer = self.api.post(
            "/api/ml/tasks/batch",
            content=b"".join(json.dumps(task).encode() + b"\n" for task in tasks),
            headers={"Content-Type": "application/x-ndjson"},
        )
        answer.raise_for_status()
        return [json.loads(line)["state"] for line in answer.text.splitlines()]

    def bury(self, rabbit_url: str, *task_ids: str, content: str = "Call me Ishmael.") -> None:
        """Makes dead letters: their queue is missing, so the broker returns them three times. Then it is made. Needs a
        service that makes no queues (`OTHERS_DECLARE`).
        """
        before = self.status()["dead"]
        self.publish("transcribe_whisper", *task_ids, content=content)
        self.until_status(lambda status: status["dead"] >= before + len(task_ids), "the tasks are dead")
        make_queue(rabbit_url, "ml.transcribe")


@contextmanager
def served_console(rabbit_url: str, folder: Path, *, key: str = "", **more: str) -> Iterator[ServedConsole]:
    environment = {
        **os.environ,
        **QUICK,
        "RABBITMQ_URL": rabbit_url,
        "ML_DATA_DIR": str(folder),
        "ML_PORT": "0",
        "ML_API_KEYS": key,
        "ML_LOG_FORMAT": "json",
        **more,
    }
    command = [sys.executable, "-m", "mlproducer.cli", "serve", "--json"]
    with (
        (folder / "service.log").open("wb") as log,
        subprocess.Popen(command, env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=log) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, (folder / "service.log").read_text()
            url = json.loads(line)["url"]
            headers = {"X-API-Key": key} if key else {}
            with httpx.Client(base_url=url, headers=headers, timeout=SOON) as api:
                served = ServedConsole(url, process, api)
                served.until_status(lambda status: status["connection"] == "connected", "the broker answers")
                yield served
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(SOON)
            except subprocess.TimeoutExpired:
                process.kill()
