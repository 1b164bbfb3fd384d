"""A private Redis from the machine's own `redis-server`, in a folder of its own, on loopback only.

It can be killed, paused and started again on the same data. Only the process started here is ever signalled, by its
id. All calls block for moments: from a loop that must go on meanwhile, use `asyncio.to_thread`.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import redis

from mlproducer.testing.rabbitmq import free_port

_SECONDS = 20.0
DURABLE = {"appendonly": "yes", "appendfsync": "always"}


class PrivateRedis:
    """One server in `folder`; `config` are its options. `cluster`: one node with all the slots."""

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, str] = DURABLE,
        *,
        password: str = "",
        cluster: bool = False,
    ) -> None:
        self.folder = folder
        self.port = free_port()
        self.config = dict(config)
        self.password = password
        self._cluster = cluster
        self.bus_port = free_port()
        self._server: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def url(self, **options: object) -> str:
        login = f":{self.password}@" if self.password else ""
        query = "&".join(f"{name}={value}" for name, value in options.items())
        return f"redis://{login}127.0.0.1:{self.port}/?{query}".rstrip("?")

    @property
    def pid(self) -> int:
        assert self._server is not None
        return self._server.pid

    def start(self) -> None:
        """Start, or start again after `kill`, on the same data and port. Returns when it answers."""
        config = {"port": str(self.port), "bind": "127.0.0.1", "dir": str(self.folder), "save": ""}
        config |= {"logfile": "redis.log", **self.config}
        if self.password:
            config["requirepass"] = self.password
        if self._cluster:
            config |= {"cluster-enabled": "yes", "cluster-port": str(self.bus_port)}
        words = [word for name, value in config.items() for word in (f"--{name}", value)]
        self._server = subprocess.Popen(
            ["redis-server", *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
        )
        self._wait(lambda: self.run("PING"))
        if self._cluster:
            if b"cluster_slots_assigned:16384" not in self._cluster_info():
                self.run("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
            self._wait(lambda: b"cluster_state:ok" in self._cluster_info())

    def stop(self) -> None:
        """Politely, if it is not paused. The folder stays: it is the caller's."""
        server, self._server = self._server, None
        if server is not None and server.poll() is None:
            server.send_signal(signal.SIGCONT)
            server.terminate()
            try:
                server.wait(_SECONDS)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()

    def kill(self) -> None:
        """SIGKILL: what the kernel was not given is gone."""
        assert self._server is not None
        self._server.kill()
        self._server.wait()

    def restart(self) -> None:
        self.stop()
        self.start()

    def pause(self) -> None:
        """SIGSTOP: the kernel still takes bytes and connections, nobody answers."""
        assert self._server is not None
        self._server.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._server is not None
        self._server.send_signal(signal.SIGCONT)

    def run(self, *command: str) -> Any:
        """One command over a connection of its own, apart from what is tested."""
        client = redis.Redis(port=self.port, password=self.password or None, protocol=2, socket_timeout=_SECONDS)
        with contextlib.closing(client):
            client.response_callbacks.clear()  # answers as they come
            return client.execute_command(*command)  # type: ignore[no-untyped-call]  # the library's own

    def _cluster_info(self) -> bytes:
        return bytes(self.run("CLUSTER", "INFO"))

    def _wait(self, answers: Any) -> None:
        end = time.monotonic() + _SECONDS
        while True:
            with contextlib.suppress(redis.RedisError):
                if answers():
                    return
            assert self._server is not None
            log = self.folder / "redis.log"
            if self._server.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the private Redis did not start:\n{log.read_text() if log.exists() else ''}")
            time.sleep(0.02)
