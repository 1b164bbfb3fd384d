"""A private Prometheus from Debian's package, with its data in a folder of the test's, on loopback only.

Only the process started here is ever signalled, by its id. All calls block: from a loop that must go on meanwhile (the
service that is scraped may run in it), use `asyncio.to_thread`.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

import httpx

from mlproducer.testing.rabbitmq import free_port

_SECONDS: Final = 20.0


def scraping(targets: Mapping[str, str], *, rules: Sequence[Path] = (), interval: str = "200ms") -> dict[str, Any]:
    """A configuration: `targets` has for each instance (host:port) the job that it belongs to.

    Rules are evaluated as often as the targets are scraped.
    """
    return {
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        "rule_files": [str(path) for path in rules],
        "scrape_configs": [
            {
                "job_name": job,
                "metrics_path": "/api/ml/metrics/prometheus",
                "static_configs": [{"targets": [target for target, its in targets.items() if its == job]}],
            }
            for job in dict.fromkeys(targets.values())
        ],
    }


class PrivatePrometheus:
    """One server in `folder`; `config` is its configuration as Python data. A context manager.

    `port` and `url` are known before it starts, and stay over a `stop` and `start` on the same data.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._config = folder / "prometheus.yml"
        self._config.write_text(json.dumps(config))  # JSON is YAML
        self._server: subprocess.Popen[bytes] | None = None
        self._client = httpx.Client(base_url=self.url, timeout=_SECONDS, trust_env=False)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._client.close()

    @property
    def pid(self) -> int:
        assert self._server is not None
        return self._server.pid

    def start(self) -> None:
        """Returns when it answers queries."""
        with (self.folder / "prometheus.log").open("ab") as log:
            self._server = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={self._config}",
                    f"--storage.tsdb.path={self.folder / 'tsdb'}",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                    "--log.level=warn",
                ],
                cwd=self.folder,
                env={**os.environ, "GOMAXPROCS": "1"},  # the cores belong to what is tested
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        end = time.monotonic() + _SECONDS
        while not self._ready():
            if self._server.poll() is not None or time.monotonic() > end:
                self.stop()
                raise RuntimeError(f"the private Prometheus did not start:\n{self.log}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Politely. The folder stays: it is the caller's."""
        server, self._server = self._server, None
        if server is not None and server.poll() is None:
            server.terminate()
            try:
                server.wait(_SECONDS)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()

    @property
    def log(self) -> str:
        return (self.folder / "prometheus.log").read_text(errors="replace")

    def query(self, expr: str, *, at: float | None = None) -> list[dict[str, Any]]:
        """The vector that an expression is now, or at a Unix time: `[{"metric": {…}, "value": [time, "1"]}, …]`."""
        return self._result("/api/v1/query", {"query": expr, **({} if at is None else {"time": at})})

    def query_range(self, expr: str, start: float, end: float, step: float) -> list[dict[str, Any]]:
        """A matrix, `[{"metric": {…}, "values": [[time, "1"], …]}, …]`: Unix times, and `step` in seconds."""
        return self._result("/api/v1/query_range", {"query": expr, "start": start, "end": end, "step": step})

    def alerts(self) -> list[dict[str, Any]]:
        """Pending and firing: `[{"labels": {"alertname": …}, "annotations": {…}, "state": "firing", …}, …]`."""
        return list(self._get("/api/v1/alerts", {})["alerts"])

    def until(self, expr: str, seconds: float = _SECONDS) -> list[dict[str, Any]]:
        """Wait until an expression answers with something, such as `up == 1`, and give that."""
        end = time.monotonic() + seconds
        while not (found := self.query(expr)):
            assert time.monotonic() < end, f"nothing after {seconds} s: {expr}\n{self.log}"
            time.sleep(0.05)
        return found

    def _result(self, path: str, params: dict[str, Any]) -> list[dict[str, Any]]:
        data = self._get(path, params)
        if data["resultType"] == "scalar":
            return [{"metric": {}, "value": data["result"]}]
        return list(data["result"])

    def _get(self, path: str, params: dict[str, Any]) -> dict[str, Any]:
        answer = self._client.get(path, params=params).json()
        assert answer["status"] == "success", f"{answer.get('error')}: {params}"
        return dict(answer["data"])

    def _ready(self) -> bool:
        try:
            return self._client.get("/-/ready").status_code == httpx.codes.OK
        except httpx.TransportError:
            return False
