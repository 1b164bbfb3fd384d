"""The whole quickstart, as `make run` starts it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _start(tmp_path: Path, *words: str, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        (sys.executable, "-m", "mlproducer.cli", "quickstart", "--data-dir", str(tmp_path / "data"), *words),
        cwd=ROOT,
        env={**os.environ, "ML_PORT": "0", **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _running(tmp_path: Path) -> list[str]:
    """Command lines of the processes that work in this test's folder, by what they have in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if bytes(tmp_path / "data") in environment and words:
            found.append(words)
    return found


def test_quickstart_from_nothing_processes_all_tasks_and_leaves_nothing_running(tmp_path: Path) -> None:
    process = _start(tmp_path, "--exit", RABBITMQ_URL="amqp://ml:ml_password@127.0.0.1:1/")
    out, err = process.communicate(timeout=110)
    assert process.returncode == 0, out + err
    assert "broker: private RabbitMQ at localhost:" in out
    assert re.search(r"service: http://127\.0\.0\.1:\d+ \(", out)
    assert "worker: Celery" in out
    assert "accepted 102, confirmed 102, processed 102 of 102" in out
    assert re.search(r"transcribe_whisper +2 +2 +2", out)
    assert re.search(r"all +102 +102 +102", out)
    assert re.search(r"p50 [\d.]+ m?s +p99 [\d.]+ m?s", out)
    assert "/api/ml/metrics/prometheus" in out
    assert "\x1b" not in out
    assert err == ""
    assert _running(tmp_path) == []
    results = [json.loads(line) for line in (tmp_path / "data" / "results.ndjson").read_text().splitlines()]
    heard = [note["result"] for note in results if note["task"].startswith("whisper.")]
    assert [len(result["segments"]) for result in heard] == [3, 3]
    assert len({note["task_id"] for note in results}) == 102


def test_quickstart_uses_the_broker_that_answers_and_serves_until_ctrl_c(vhost_url: str, tmp_path: Path) -> None:
    process = _start(tmp_path, RABBITMQ_URL=vhost_url)
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("Serving."):
            break
    assert any(line.startswith("broker: RabbitMQ at 127.0.0.1:") for line in lines), lines
    assert len([words for words in _running(tmp_path) if "celery" in words]) >= 1
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, out + err
    assert re.search(r"(?s)service: stopped.*worker: stopped", out)
    assert "broker: stopped" not in out  # it is not ours
    assert _running(tmp_path) == []


@pytest.mark.chaos
def test_quickstart_json_is_one_document(vhost_url: str, tmp_path: Path) -> None:
    process = _start(tmp_path, "--exit", "--json", RABBITMQ_URL=vhost_url)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, out + err
    found = json.loads(out)
    assert (found["accepted"], found["confirmed"], found["processed"], found["complete"]) == (102, 102, 102, True)
    assert 0 < found["p50_ms"] <= found["p99_ms"]


@pytest.mark.parametrize("signals", [1, pytest.param(2, marks=pytest.mark.chaos)])
def test_ctrl_c_while_it_starts_leaves_nothing_running(signals: int, vhost_url: str, tmp_path: Path) -> None:
    process = _start(tmp_path, RABBITMQ_URL=vhost_url)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("worker: starting"):
            break
    for _ in range(signals):
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert _running(tmp_path) == []
