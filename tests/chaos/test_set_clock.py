"""The clock of a machine is set while a service runs on it: back by an hour, and forward by two.

It is the C library's answer that changes (libfaketime), for all of the process; the monotonic clock goes on, as on a
real machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import httpx
import pytest

from mlproducer.testing.rabbitmq import PrivateRabbit
from places import taken
from watched import SOON, Service

CLAIMS = """
import asyncio, sys, time
from pathlib import Path
from mlproducer.spool.sql import SqliteSpool
from mlproducer.testing.spool_contract import claim

async def main():
    spool = SqliteSpool(Path(sys.argv[1]))
    await spool.open()
    assert await spool.claim(claim("mine"), hold=17) is None
    print("claimed", flush=True)
    time.sleep(120)

asyncio.run(main())
"""


class Clock:
    """Of the processes that have `environment`."""

    def __init__(self, folder: Path) -> None:
        self._stamp = folder / "clock"
        self.set("+0")
        libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
        assert libraries, "this machine has no libfaketime: apt-get install faketime"
        self.environment: Mapping[str, object] = {
            "LD_PRELOAD": libraries[0],
            "FAKETIME_TIMESTAMP_FILE": self._stamp,
            "FAKETIME_NO_CACHE": 1,
            "DONT_FAKE_MONOTONIC": 1,
        }

    def set(self, seconds: str) -> None:
        new = self._stamp.with_suffix(".new")
        new.write_text(f"{seconds}\n")
        new.replace(self._stamp)  # nobody reads half of it


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + 2 * SOON
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


def killed_with_a_claim(db: Path, clock: Clock) -> None:
    given = {name: str(value) for name, value in clock.environment.items()}
    command = [sys.executable, "-c", CLAIMS, str(db)]
    with subprocess.Popen(command, env={**os.environ, **given}, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"claimed\n"
        process.kill()


def is_up(service: Service) -> bool:
    try:
        return service.client.get("/api/ml/health/live").is_success
    except httpx.TransportError:
        return False


def more(found: set[str], url: str) -> set[str]:
    """With what is in the queues by now."""
    found |= set(taken(url))
    return found


def clock_check(service: Service) -> str:
    """Empty while no clock is to be spoken of."""
    checks = service.client.get("/api/ml/health").json()["checks"]
    return "".join(each["detail"] for each in checks if each["name"] == "clock")


@pytest.mark.chaos
def test_what_is_due_goes_out_and_health_tells_when_a_machines_clock_is_set(
    rabbit: PrivateRabbit, tmp_path: Path
) -> None:
    clock = Clock(tmp_path)
    with Service(tmp_path, rabbit.url_of("set-clock"), clock.environment) as service:
        until(lambda: is_up(service))
        assert service.publish(20) == ["spooled"] * 20
        killed_with_a_claim(tmp_path / "mlproducer.db", clock)
        clock.set("-3600")
        until(lambda: "set back by 3," in clock_check(service))
        url = rabbit.add_vhost("set-clock")
        service.until(connection="connected")
        task = {"task_type": "embed_vectors", "payload": {"share_id": "s", "content": "t"}, "id": "mine"}
        answer = service.client.post("/api/ml/tasks", json=task)
        assert answer.status_code in {201, 202}, answer.text
        found: set[str] = set()
        until(lambda: len(more(found, url)) == 21)
        clock.set("+3600")
        until(lambda: "set forward by 7," in clock_check(service))
        assert set(service.publish(5)) <= {"confirmed", "spooled"}
        until(lambda: len(more(found, url)) == 26)
    assert "mine" in found
