"""An application that set up no logging hears once what it has to know, and one that did hears nothing twice."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import asyncio, logging, sys
from mlproducer import Producer, Settings, Task
{setup}
settings = Settings.load(
    rabbitmq_url="amqp://ml:s3cret@127.0.0.1:1/", ml_spool_url="{spool}", ml_reconnect_first=0.01, ml_reconnect_cap=0.01
)
async def main():
    async with Producer(settings) as producer:
        for n in range(3):
            task = Task(task_type="embed_vectors", payload={{"share_id": str(n), "content": "text"}})
            print((await producer.publish(task)).state)
        while producer.status().reconnect_attempts < 3:
            await asyncio.sleep(0.01)
asyncio.run(main())
"""


def _run(tmp_path: object, setup: str = "", spool: str = "") -> tuple[list[str], list[str]]:
    script = SCRIPT.format(setup=setup, spool=spool or f"sqlite:///{tmp_path}/spool.db")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.split(), done.stderr.splitlines()


def test_who_set_up_no_logging_hears_once_that_the_broker_is_away_and_that_tasks_stay(tmp_path: object) -> None:
    states, lines = _run(tmp_path)
    assert states == ["spooled"] * 3
    away, stay = lines
    assert away.startswith("mlproducer: connection failed")
    assert "127.0.0.1:1" in away
    assert "tasks are kept in the spool" in away
    assert stay.startswith("mlproducer: tasks stay in the spool count=3")
    assert "mlproducer drain" in stay
    assert not any("s3cret" in line for line in lines)


def test_tasks_of_a_spool_that_no_disk_keeps_are_said_to_be_gone(tmp_path: object) -> None:
    _, lines = _run(tmp_path, spool="memory://")
    assert lines[-1].startswith("mlproducer: tasks are gone with this process count=3")


def test_who_set_up_logging_hears_it_there_and_only_there(tmp_path: object) -> None:
    _, lines = _run(tmp_path, "logging.basicConfig(format='app %(message)s')")
    assert len(lines) > 3
    assert all(line.startswith("app ") for line in lines)


def test_who_wants_nothing_hears_nothing(tmp_path: object) -> None:
    _, lines = _run(tmp_path, "logging.getLogger('mlproducer').setLevel(logging.CRITICAL)")
    assert lines == []
