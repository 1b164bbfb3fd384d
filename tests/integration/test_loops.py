"""A script of a user's, on each event loop, against a real broker."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import asyncio, sys
import uvloop
from mlproducer import Producer, Task

async def main():
    async with Producer() as p:
        assert await p.connected(30), p.status().last_error
        receipt = await p.publish(Task(task_type="embed_vectors", payload={"share_id": "s", "content": "text"}))
        print(type(asyncio.get_running_loop()).__module__, receipt.state)

RUN
"""


@pytest.mark.parametrize(
    ("run", "loop"),
    [
        ("asyncio.run(main())", "asyncio."),
        ("uvloop.run(main())", "uvloop"),
        ("with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner: runner.run(main())", "uvloop"),
    ],
)
def test_a_script_on_any_loop_is_confirmed_and_leaves_no_word_on_stderr(
    vhost_url: str, tmp_path: Path, run: str, loop: str
) -> None:
    settings = {"RABBITMQ_URL": vhost_url, "ML_DATA_DIR": str(tmp_path)}
    command = [sys.executable, "-W", "error", "-c", SCRIPT.replace("RUN", run)]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(loop)
    assert done.stdout.endswith("confirmed\n")
