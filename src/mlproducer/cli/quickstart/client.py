"""The few HTTP calls that quickstart makes to the service which it started."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Any, Final

from mlproducer.errors import MLProducerError

_TIMEOUT: Final = 30.0
"""Seconds of silence; a publish is bounded to 5 s by the service itself."""


class CallFailed(MLProducerError):
    """The service refused a call, or did not answer."""


@dataclass(frozen=True, slots=True)
class Client:
    host: str
    port: int
    key: str | None = None

    @property
    def base(self) -> str:
        shown = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{shown}:{self.port}"

    def get(self, path: str) -> Any:  # noqa: ANN401  # whatever JSON the service answers
        return self._call("GET", path, None)

    def post(self, path: str, body: bytes) -> Any:  # noqa: ANN401  # whatever JSON the service answers
        return self._call("POST", path, body)

    def connected(self) -> bool:
        """Whether the service answers and has its broker."""
        try:
            return bool(self.get("/api/ml/status")["connection"] == "connected")
        except CallFailed:
            return False

    def _call(self, method: str, path: str, body: bytes | None) -> Any:  # noqa: ANN401  # whatever JSON it answers
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        connection = http.client.HTTPConnection(self.host, self.port, timeout=_TIMEOUT)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as exc:
            raise CallFailed(f"the service at {self.base} does not answer: {exc}") from exc
        finally:
            connection.close()
        try:
            data = json.loads(text)
        except ValueError as exc:
            raise CallFailed(f"{method} {path}: {answer.status} {answer.reason}") from exc
        if answer.status >= http.client.BAD_REQUEST:
            raise CallFailed(f"{method} {path}: {answer.status} {data.get('detail', answer.reason)}")
        return data
