"""What a program prints never stands in its way: a reader that stalls, one that is gone, streams that are closed."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from mlproducer.testing.rabbitmq import free_port

MLPRODUCER = [sys.executable, "-m", "mlproducer.cli"]
LIMIT = 60.0
"""Seconds that a loaded machine may take for what takes a moment."""
PIPE = 4096
"""Bytes: the smallest pipe there is is full after some twenty lines."""


def _get(url: str, data: bytes | None = None) -> Any:
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})  # noqa: S310  # our own service
    with urllib.request.urlopen(request, timeout=LIMIT) as answer:  # noqa: S310  # as above
        return json.load(answer)


def _until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT
    while not true():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.05)


@contextmanager
def _service(tmp_path: Path, words: str = "", **streams: Any) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`mlproducer serve` with no broker, so that each task makes lines; `words` are redirections of a shell."""
    port = free_port()
    environment = {
        **os.environ,
        "RABBITMQ_URL": "amqp://127.0.0.1:1/",
        "ML_PORT": str(port),
        "ML_LOG_LEVEL": "debug",
        "ML_DATA_DIR": str(tmp_path / "data"),
        "ML_SHUTDOWN_TIMEOUT": "1",
    }
    command = ["sh", "-c", f'exec "$@" {words}', "sh", *MLPRODUCER, "serve"]
    process = subprocess.Popen(command, env=environment, cwd=tmp_path, **streams)
    url = f"http://127.0.0.1:{port}"
    try:
        _until(lambda: _alive(process, url))
        yield process, url
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(LIMIT)


def _alive(process: subprocess.Popen[bytes], url: str) -> bool:
    assert process.poll() is None, "it ended"
    try:
        return bool(_get(f"{url}/api/ml/health/live")["status"] == "alive")
    except (urllib.error.URLError, ConnectionError):
        return False


def _works_and_stops(process: subprocess.Popen[bytes], url: str, tasks: int) -> dict[str, Any]:
    """Its metrics after that many tasks."""
    for n in range(tasks):
        task = {"task_type": "embed_vectors", "payload": {"share_id": str(n), "content": "text"}}
        assert _get(f"{url}/api/ml/tasks", json.dumps(task).encode())["state"] == "spooled"
    metrics: dict[str, Any] = _get(f"{url}/api/ml/metrics/json")
    assert metrics["tasks"]["accepted"] == tasks
    process.send_signal(signal.SIGTERM)
    assert process.wait(LIMIT) == 0
    return metrics


def _small(pipe: IO[bytes] | None) -> None:
    assert pipe is not None
    fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE)


def test_a_reader_of_stderr_that_stalls_stops_neither_tasks_nor_liveness_nor_the_end(tmp_path: Path) -> None:
    with _service(tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as (process, url):
        _small(process.stderr)
        _works_and_stops(process, url, 60)
        process.stderr.close()  # type: ignore[union-attr]  # it is a pipe


@pytest.mark.parametrize("words", ["<&- >&- 2>&-", "2>&-", pytest.param(">&-", marks=pytest.mark.chaos)])
def test_streams_that_are_closed_at_the_start_lead_to_nowhere(words: str, tmp_path: Path) -> None:
    with _service(tmp_path, words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as (process, url):
        held = {str(Path(f"/proc/{process.pid}/fd/{number}").readlink()) for number in (1, 2)}
        assert held == {"/dev/null"}, "no file and no socket has the number of a standard stream"
        _works_and_stops(process, url, 3)


def test_streams_that_are_closed_midway_are_survived_and_counted(tmp_path: Path) -> None:
    with _service(tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as (process, url):
        for pipe in (process.stdout, process.stderr):
            pipe.close()  # type: ignore[union-attr]  # it is a pipe
        metrics = _works_and_stops(process, url, 20)
        assert metrics["log_lines_dropped"] > 0


@pytest.mark.parametrize("words", [("settings",), ("settings", "--json"), ("--help",)])
def test_a_command_whose_reader_leaves_ends_without_a_traceback(words: tuple[str, ...], tmp_path: Path) -> None:
    process = subprocess.Popen([*MLPRODUCER, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(LIMIT) in {0, 1}
    process.stderr.close()


def test_a_command_works_without_any_stream(tmp_path: Path) -> None:
    command = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *MLPRODUCER, "settings"]
    subprocess.run(command, cwd=tmp_path, timeout=LIMIT, check=True)
