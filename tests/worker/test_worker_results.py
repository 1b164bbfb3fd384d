"""`report_cost` and the thread that posts results, without a worker; with real ones see `test_results_of_workers`."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from mlproducer.errors import SettingsError
from mlproducer.testing.rabbitmq import free_port
from mlproducer.worker import report_cost, results
from mlproducer.worker.results import _Posting


class Service:
    """Answers posts with the codes of `script`, then 200; `got` is what came."""

    def __init__(self) -> None:
        self.script: list[int] = []
        self.got: list[tuple[str, str | None, dict[str, Any]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.got.append((self.path, self.headers["Authorization"], body))
                self.send_response(outer.script.pop(0) if outer.script else 200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Silent."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"

    def wait(self, count: int) -> None:
        end = time.monotonic() + 10
        while len(self.got) < count:
            assert time.monotonic() < end, self.got
            time.sleep(0.01)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setattr(results, "PAUSE", 0.01)
    made = Service()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


@pytest.mark.parametrize("amount", [0.1, True, None, b"1"])
def test_a_float_is_no_cost(amount: Any) -> None:
    with pytest.raises(TypeError, match="no float"):
        report_cost(amount)


def test_outside_of_a_task_a_cost_is_nobodys() -> None:
    report_cost("0.1")


def test_a_report_is_posted_with_the_key(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ML_RESULTS_KEY", "from-the-environment")
    _Posting(service.url, None).put({"task_id": "t1"})
    service.wait(1)
    _Posting(service.url, "given").put({"task_id": "t2"})
    service.wait(2)
    assert service.got == [
        ("/api/ml/results", "Bearer from-the-environment", {"task_id": "t1"}),
        ("/api/ml/results", "Bearer given", {"task_id": "t2"}),
    ]


def test_a_service_that_fails_is_asked_again_and_one_that_refuses_is_not(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    service.script = [503, 500, 200, 422, 200]
    posting = _Posting(service.url, None)
    for task_id in ("t1", "t2", "t3"):
        posting.put({"task_id": task_id})
    service.wait(5)
    assert [body["task_id"] for _, _, body in service.got] == ["t1", "t1", "t1", "t2", "t3"]
    assert "the result of task t2 was not reported" in caplog.text
    assert "answered 422" in caplog.text
    assert "t1" not in caplog.text


def test_a_service_that_is_away_is_given_up_with_a_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "TRIES", 1)
    _Posting(f"http://127.0.0.1:{free_port()}", None).put({"task_id": "t1"})
    end = time.monotonic() + 10
    while "see ML_RESULTS_URL" not in caplog.text:
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(
    "url", ["http://u:s3cret-Word@host", "http://u:12/s3cret-Word@host", "http://host?key=s3cret-Word", "host:3001"]
)
def test_a_url_that_would_show_a_secret_is_refused_by_its_name(url: str) -> None:
    with pytest.raises(SettingsError, match=r"^ML_RESULTS_URL: ") as caught:
        _Posting(url, None)
    assert "s3cret" not in str(caught.value)
