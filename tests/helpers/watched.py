"""Services that a private Prometheus scrapes, in front of a private RabbitMQ that can be broken. All calls block."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any, Final, Self

import httpx

from mlproducer.testing.rabbitmq import PrivateRabbit, free_port
from private_prometheus import PrivatePrometheus, scraping

JOB: Final = "mlproducer"
SOON: Final = 30.0
SETTINGS: Final[Mapping[str, object]] = {
    # Shortened where a wait serves nobody.
    "ML_RECONNECT_FIRST": 0.1,
    "ML_RECONNECT_CAP": 1,
    "ML_RETRY_FIRST": 0.1,
    "ML_RETRY_CAP": 0.3,
    "ML_ROUTE_PATIENCE": 1,
    "ML_DRAIN_POLL": 0.1,
    "ML_BREAKER_COOLDOWN": 2,
    "ML_SHUTDOWN_TIMEOUT": 1,
    "ML_LOG_LEVEL": "warning",
    "RABBITMQ_CONNECTION_TIMEOUT": 3_000,
}


class Service:
    """One `mlproducer serve`. A context manager: started on entry, and `until` waits for more."""

    def __init__(self, folder: Path, broker: str, given: Mapping[str, object]) -> None:
        self.folder = folder
        self.instance = f"127.0.0.1:{free_port()}"
        """Prometheus's label."""
        self.client = httpx.Client(base_url=f"http://{self.instance}", timeout=SOON, trust_env=False)
        own = {"RABBITMQ_URL": broker, "ML_DATA_DIR": folder, "ML_PORT": self.instance.rpartition(":")[2]}
        clean = {name: text for name, text in os.environ.items() if not name.startswith(("ML_", "RABBITMQ_"))}
        self._environment = clean | {name: str(value) for name, value in {**SETTINGS, **own, **given}.items()}
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = count(1)

    def __enter__(self) -> Self:
        with (self.folder / "service.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mlproducer.cli", "serve"],
                cwd=self.folder,
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.client.close()

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(SOON)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def publish(self, tasks: int, *, task_type: str = "embed_vectors", content: str = "Call me Ishmael.") -> list[str]:
        """The states of the receipts."""
        lines = [
            json.dumps({"task_type": task_type, "payload": {"share_id": f"s{next(self._numbers)}", "content": content}})
            for _ in range(tasks)
        ]
        answer = self.client.post(
            "/api/ml/tasks/batch", content="\n".join(lines), headers={"Content-Type": "application/x-ndjson"}
        )
        assert answer.status_code == httpx.codes.OK, answer.text
        return [json.loads(line)["state"] for line in answer.text.splitlines()]

    def until(self, **wanted: object) -> None:
        """Until its status has these values."""
        end = time.monotonic() + SOON
        while not self._is(wanted):
            log = (self.folder / "service.log").read_text()
            assert self._process is not None, "it was stopped"
            assert self._process.poll() is None, f"it ended:\n{log}"
            assert time.monotonic() < end, f"not {wanted} after {SOON} s:\n{log}"
            time.sleep(0.05)

    def _is(self, wanted: Mapping[str, object]) -> bool:
        try:
            status: dict[str, Any] = self.client.get("/api/ml/status").json()
        except httpx.TransportError:
            return False
        return all(status[name] == value for name, value in wanted.items())


class Watched:
    """A RabbitMQ, services on virtual hosts and spools of their own, and the Prometheus that scrapes them."""

    def __init__(
        self,
        folder: Path,
        *,
        services: int,
        interval: str = "200ms",
        rabbit: PrivateRabbit | None = None,
        **given: object,
    ) -> None:
        """`rabbit`: a node that somebody else made, and stops. None makes one."""
        self.folder = folder
        self._ours = rabbit is None
        self.rabbit = rabbit or PrivateRabbit(folder / "rabbit")
        self._count = services
        self._interval = interval
        self._given = given
        self._stack = ExitStack()
        self.services: Sequence[Service] = ()

    def __enter__(self) -> Self:
        hosts = [f"v{number}" for number in range(self._count)]
        with ExitStack() as stack:
            # All of them at once, since each takes seconds; the services wait for their broker, Prometheus for them.
            self.services = [
                stack.enter_context(Service(self._new(f"service-{host}"), self.rabbit.url_of(host), self._given))
                for host in hosts
            ]
            config = scraping({service.instance: JOB for service in self.services}, interval=self._interval)
            self.prometheus = stack.enter_context(PrivatePrometheus(self._new("prometheus"), config))
            self.rabbit.start()
            if self._ours:
                stack.callback(self.rabbit.stop)
            self.rabbit.add_vhosts(*hosts)
            for service in self.services:
                service.until(connection="connected")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _new(self, name: str) -> Path:
        (self.folder / name).mkdir()
        return self.folder / name
