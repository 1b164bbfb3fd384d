"""The parts of quickstart that need no broker."""

import http.server
import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from mlproducer.cli.output import output
from mlproducer.cli.quickstart import broker, command
from mlproducer.cli.quickstart.children import Child, ChildFailed, Program
from mlproducer.cli.quickstart.client import CallFailed, Client
from mlproducer.cli.quickstart.feed import Story, publish_and_follow
from mlproducer.cli.quickstart.places import Places, check_port, find_places
from mlproducer.cli.quickstart.results import Results, follow
from mlproducer.cli.quickstart.running import Running, Stopped
from mlproducer.cli.quickstart.show import Screen
from mlproducer.errors import SettingsError
from mlproducer.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


def test_the_examples_are_found_from_the_checkout_and_from_elsewhere(tmp_path: Path) -> None:
    assert find_places(Settings(), tmp_path / "d", ROOT / "tests").root == ROOT
    assert find_places(Settings(), tmp_path / "d", tmp_path).root == ROOT


def test_data_goes_to_var_in_the_project_unless_told_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "examples" / "worker").mkdir(parents=True)
    (tmp_path / "examples" / "shares.ndjson").touch()
    (tmp_path / "examples" / "worker" / "app.py").touch()
    assert find_places(Settings(), None, tmp_path).data == tmp_path / "data"  # ML_DATA_DIR, set by the fixture
    assert find_places(Settings(), tmp_path / "mine", tmp_path).data == tmp_path / "mine"
    monkeypatch.delenv("ML_DATA_DIR")
    assert find_places(Settings(), None, tmp_path).data == tmp_path / "var"


def test_a_data_folder_that_cannot_be_written_is_named_with_its_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"ML_DATA_DIR: cannot write to .*file/sub: Not a directory.*--data-dir"):
        find_places(Settings(), tmp_path / "file" / "sub", ROOT)


def test_a_taken_port_is_named_with_its_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(SettingsError, match=rf"ML_PORT: port {port} of 127\.0\.0\.1 is in use"):
            check_port(Settings(ml_port=port))
    assert check_port(Settings(ml_port=port)) == port
    assert check_port(Settings(ml_port=0)) > 0


def _child(tmp_path: Path, code: str) -> Child:
    return Program("helper", (sys.executable, "-c", code), os.environ, tmp_path, tmp_path / "helper.log").start()


def test_a_child_that_ends_early_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    child = _child(tmp_path, "import sys; print('no luck'); sys.exit(3)")
    with pytest.raises(ChildFailed, match=r"(?s)the helper ended with code 3.*no luck.*helper\.log"):
        child.wait_until(lambda: False, 20)


def test_a_child_that_is_never_ready_is_reported(tmp_path: Path) -> None:
    child = _child(tmp_path, "import time; time.sleep(60)")
    with pytest.raises(ChildFailed, match="not ready within 0 s"):
        child.wait_until(lambda: False, 0.2)
    child.stop(5)
    assert child.process.returncode == -signal.SIGTERM


def test_a_child_that_ignores_sigterm_is_killed_with_its_own_children(tmp_path: Path) -> None:
    child = _child(
        tmp_path,
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); print(p.pid, flush=True);"
        "time.sleep(60)",
    )
    child.wait_until(lambda: bool(child.log.read_text().strip()), 20)
    grandchild = int(child.log.read_text())
    child.stop(0.2)
    assert child.process.returncode == -signal.SIGKILL
    end = time.monotonic() + 5
    while _alive(grandchild) and time.monotonic() < end:
        time.sleep(0.02)
    assert not _alive(grandchild)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] != "Z"
    except FileNotFoundError:
        return False


def test_a_program_that_is_not_there_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ChildFailed, match="cannot start the helper"):
        Program("helper", ("/no/such/program",), {}, tmp_path, tmp_path / "helper.log").start()


def test_results_are_followed_from_where_they_ended_and_only_in_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "results"
    assert list(follow(path).fresh()) == []
    path.write_text('{"task_id": "old", "state": "done"}\n')
    results = follow(path)
    with path.open("a") as file:
        file.write('{"task_id": "a", "state": "done"}\n{"task_id": "b", "sta')
        file.flush()
        assert list(results.fresh()) == [("a", True)]
        file.write('te": "failed"}\n')
        file.flush()
        assert list(results.fresh()) == [("b", False)]


class _Service(http.server.BaseHTTPRequestHandler):
    """Gives each share two tasks: one confirmed, one spooled that is confirmed when asked after it."""

    results: Path

    def do_POST(self) -> None:
        share = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["id"]
        if share == "bad":
            self._answer(422, {"detail": "text: too long"})
            return
        receipts = [
            _receipt(f"{share}-1", "embed_vectors", 0.010),
            _receipt(f"{share}-2", "summarize_llm", None),
        ]
        with self.results.open("a") as file:
            for receipt in receipts:
                file.write(json.dumps({"task_id": receipt["task_id"], "state": "done"}) + "\n")
        self._answer(201, {"receipts": receipts})

    def do_GET(self) -> None:
        self._answer(200, _receipt(self.path.rsplit("/", 1)[1], "summarize_llm", 2.0))

    def _answer(self, status: int, data: dict[str, Any]) -> None:
        body = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """No lines on stderr."""


def _receipt(task_id: str, kind: str, after: float | None) -> dict[str, Any]:
    now = time.time()
    return {
        "task_id": task_id,
        "task_type": kind,
        "accepted_at": now,
        "confirmed_at": None if after is None else now + after,
    }


@pytest.fixture
def service(tmp_path: Path) -> Iterator[tuple[Client, Results]]:
    handler = type("Handler", (_Service,), {"results": tmp_path / "results"})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield Client("127.0.0.1", server.server_address[1]), follow(tmp_path / "results")
        server.shutdown()
        thread.join()


def test_a_run_is_complete_when_every_task_is_confirmed_and_done(service: tuple[Client, Results]) -> None:
    client, results = service
    told: list[int] = []
    story = publish_and_follow(
        client, [b'{"id": "a"}', b'{"id": "b"}'], results, lambda s: told.append(len(s.processed)), lambda: None
    )
    assert story.complete
    assert (story.accepted, len(story.confirmed), len(story.processed)) == (4, 4, 4)
    assert story.latency(0.5) == pytest.approx(0.010)
    assert story.latency(0.99) == pytest.approx(2.0)
    assert told == sorted(told)


def test_what_a_run_came_to_is_one_document(
    service: tuple[Client, Results], capsys: pytest.CaptureFixture[str]
) -> None:
    client, results = service
    with Running(Screen(output(as_json=True))) as running:
        with running.screen.progress(2) as show:
            story = publish_and_follow(client, [b'{"id": "a"}'], results, show, running.check)
        command._report(client, story, running)
    found = json.loads(capsys.readouterr().out)
    assert (found["accepted"], found["confirmed"], found["processed"], found["complete"]) == (2, 2, 2, True)
    assert 0 < found["p50_ms"] <= found["p99_ms"]


def test_tasks_of_an_earlier_run_are_known_and_done_as_they_were_then() -> None:
    story = Story(shares=1)
    then = {"accepted_at": story.began - 60, "confirmed_at": story.began - 50}
    now = {"accepted_at": story.began + 1, "confirmed_at": story.began + 3}
    kind = {"task_type": "embed_vectors"}
    story.answered({"receipts": [{"task_id": "old", **kind, **then}, {"task_id": "new", **kind, **now}]})
    assert story.known == {"old"}
    assert story.latency(0.99) == pytest.approx(2.0), "what took ten seconds was another run's"


def test_what_was_noted_before_is_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "results"
    assert dict(follow(path).earlier()) == {}
    path.write_text('{"task_id": "old", "state": "done"}\n{"task_id": "bad", "state": "failed"}\n')
    results = follow(path)
    assert dict(results.earlier()) == {"old": True, "bad": False}
    assert list(results.fresh()) == []


def test_a_refused_share_is_told_and_the_run_is_not_complete(service: tuple[Client, Results]) -> None:
    client, results = service
    story = publish_and_follow(client, [b'{"id": "a"}', b'{"id": "bad"}'], results, lambda _: None, lambda: None)
    assert story.settled
    assert not story.complete
    assert story.refused == ["POST /api/shares: 422 text: too long"]


def test_a_service_that_is_not_there_is_said_to_be_none() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    client = Client("127.0.0.1", port)
    assert not client.connected()
    with pytest.raises(CallFailed, match="does not answer"):
        client.get("/api/ml/status")


def test_a_task_that_failed_and_then_succeeded_is_done() -> None:
    story = Story(shares=1)
    story.result("a", done=False)
    story.result("a", done=True)
    assert (story.processed, story.failed) == ({"a"}, set())


def test_a_signal_while_a_child_is_started_takes_effect_when_it_is_noted(tmp_path: Path) -> None:
    class Slow(Program):
        def start(self) -> Child:
            child = super().start()
            signal.raise_signal(signal.SIGINT)
            return child

    program = Slow("service", (sys.executable, "-c", "import time; time.sleep(60)"), {}, tmp_path, tmp_path / "log")
    running = Running(Screen(output(as_json=True)))
    before = signal.getsignal(signal.SIGINT)  # a shell's background job was told to ignore it
    with pytest.raises(Stopped), running:
        running.start_service(program)
    assert running.service is not None
    assert not running.service.running
    assert signal.getsignal(signal.SIGINT) is before


def test_without_broker_and_without_root_one_sentence_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker, "installed", lambda: False)
    monkeypatch.setattr(broker, "_may_install", lambda: False)
    settings = Settings(rabbitmq_url=SecretStr("amqp://ml:ml_password@127.0.0.1:1/"))
    with pytest.raises(broker.NoBroker, match=r"docker run -d -p 5672:5672 .* rabbitmq:4"):
        broker.find_broker(settings, find_places(settings, tmp_path, ROOT), lambda _: None, lambda start: start())


def test_an_installation_that_fails_shows_the_end_of_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "scripts" / "apt-install"
    script.parent.mkdir()
    script.write_text('#!/bin/sh\necho "no such package as $1"\nexit 1\n')
    script.chmod(0o755)
    (tmp_path / "log").mkdir()
    monkeypatch.setattr(broker, "installed", lambda: False)
    monkeypatch.setattr(broker, "_may_install", lambda: True)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    said: list[str] = []
    settings = Settings(rabbitmq_url=SecretStr("amqp://ml:ml_password@127.0.0.1:1/"))
    with pytest.raises(
        broker.NoBroker, match=r"(?s)installing rabbitmq-server failed.*no such package as rabbitmq-server"
    ):
        broker.find_broker(settings, Places(tmp_path, tmp_path), said.append, lambda start: start())
    assert any("installing rabbitmq-server from Debian's packages" in text for text in said)
