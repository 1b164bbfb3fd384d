"""`serve` runs on what is fast where it is installed, and says so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest


@pytest.mark.parametrize("installed", [True, False])
def test_serve_runs_on_the_fast_loop_and_parser_where_they_are_installed(tmp_path: Path, *, installed: bool) -> None:
    assert find_spec("uvloop")
    assert find_spec("httptools")
    if not installed:
        for name in ("uvloop", "httptools"):
            (tmp_path / f"{name}.py").write_text("raise ImportError('not for this platform')\n")
    environment = {
        **os.environ,
        "PYTHONPATH": str(tmp_path),
        "RABBITMQ_URL": "amqp://ml:ml_password@127.0.0.1:1/",
        "ML_DATA_DIR": str(tmp_path / "data"),
    }
    command = [sys.executable, "-m", "mlproducer.cli", "serve", "--port", "0"]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline(), "it serves"
        process.send_signal(signal.SIGTERM)
        out, log = process.communicate(timeout=60)
    finally:
        process.kill()
    assert "stopped" in out
    assert process.returncode == 0
    said = "event loop: uvloop; HTTP parser: httptools" if installed else "event loop: asyncio; HTTP parser: h11"
    assert said in log
