"""The commands as a shell sees them, on a real broker and a real spool."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from making_queues import make_queue
from mlproducer.cli.app import COMMANDS, app, load
from mlproducer.cli.quickstart.client import Client
from mlproducer.settings import Settings
from mlproducer.testing.rabbitmq import PrivateRabbit
from mlproducer.wiring import spool_for

LOST_TYPE = """
[task_types.lost.routes.api]
celery_task = "nobody.tasks.lost"
queue = "ml.nowhere"
[task_types.lost.fields]
share_id = "string"
"""
LOST_TASK = '{"task_type": "lost", "payload": {"share_id": "1"}, "id": "a"}'
SHARES = Path(__file__).resolve().parents[2] / "examples" / "shares.ndjson"
NOWHERE = "amqp://ml:s3cretword@127.0.0.1:1/"


def run(*words: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, words, input=stdin)


def publish(data: str | bytes, *words: str) -> Result:
    """From a file in the test's own folder."""
    Path("in.ndjson").write_bytes(data if isinstance(data, bytes) else data.encode())
    return run("publish", "in.ndjson", *words)


def task_line(task_id: str, **given: Any) -> str:
    payload = {"share_id": task_id, "content": "x"}
    return json.dumps({"task_type": "embed_vectors", "payload": payload, "id": task_id, **given})


def _lines(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


# check ----------------------------------------------------------------------------------------------------------------


def test_check_says_connected_and_exits_0(vhost_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RABBITMQ_URL", vhost_url)
    result = run("check")
    assert result.exit_code == 0
    assert "✓ connected to 127.0.0.1:" in result.stdout
    (facts,) = _lines(run("check", "--json"))
    assert facts["connected"] is True
    assert facts["reason"] is None


def test_check_says_why_it_is_not_connected_and_exits_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RABBITMQ_URL", NOWHERE)
    result = run("check")
    assert result.exit_code == 1
    assert "not connected: 127.0.0.1:1: connection refused" in result.stdout
    assert "s3cretword" not in result.output
    (facts,) = _lines(run("check", "--json"))
    assert (facts["connected"], facts["node"]) == (False, "127.0.0.1:1")
    assert "refused" in facts["reason"]


def test_check_names_a_wrong_password(rabbit: PrivateRabbit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RABBITMQ_URL", f"amqp://ml:wr0ngword@127.0.0.1:{rabbit.port}/")
    result = run("check")
    assert result.exit_code == 1
    assert "password" in result.stdout
    assert "wr0ngword" not in result.output


def test_check_leaves_the_spool_of_a_running_producer_alone(vhost_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RABBITMQ_URL", vhost_url)
    run("check")
    assert not (Path(os.environ["ML_DATA_DIR"]) / "mlproducer.db").exists()


# settings -------------------------------------------------------------------------------------------------------------


def test_settings_shows_every_setting_and_where_it_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ML_PORT", "4000")
    (shown,) = _lines(run("settings", "--json"))
    assert len(shown) == len(Settings.model_fields)
    assert shown["ML_PORT"] == {"value": 4000, "source": "set"}
    assert shown["RABBITMQ_HEARTBEAT"] == {"value": 60, "source": "default"}
    table = run("settings").stdout
    assert all(name in table for name in shown)


@pytest.mark.parametrize("words", [("settings",), ("settings", "--json")])
def test_settings_shows_no_secret(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RABBITMQ_URL", NOWHERE)
    monkeypatch.setenv("ML_API_KEYS", "k3y-of-sixteen-characters,another-k3y-of-sixteen")
    result = run(*words)
    assert result.exit_code == 0
    assert "s3cretword" not in result.output
    assert "k3y" not in result.output
    assert "amqp://ml:***@127.0.0.1:1/" in result.output


def test_a_wrong_setting_is_one_line_and_exit_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ML_PORT", "seventy")
    result = run("check")
    assert result.exit_code == 2
    assert result.stderr.startswith("mlproducer: ML_PORT: ")
    assert result.stderr.count("\n") == 1


def test_an_unknown_option_is_exit_2() -> None:
    assert run("check", "--never").exit_code == 2
    assert run("nonsense").exit_code == 2


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_says_of_a_command_what_its_own_help_says_first(name: str) -> None:
    told = " ".join(load(name).help.split("\n\n")[0].split())
    assert COMMANDS[name] == told


def test_listing_the_commands_imports_none_of_them() -> None:
    program = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from mlproducer.cli.app import app\n"
        "assert 'dlq' in CliRunner().invoke(app, ['--help']).output\n"
        "assert not {'fastapi', 'sqlalchemy', 'mlproducer.cli.dlq'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_misspelt_command_is_told_the_right_one() -> None:
    result = run("serv")
    assert result.exit_code == 2
    assert "Did you mean 'serve'?" in result.stderr


def test_version_is_printed() -> None:
    assert run("--version").stdout.strip()


# publish --------------------------------------------------------------------------------------------------------------


def test_publish_confirms_a_file_and_counts(vhost_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RABBITMQ_URL", vhost_url)
    file = tmp_path / "tasks.ndjson"
    file.write_text("".join(f"{task_line(f't{n}')}\n" for n in range(200)))
    result = run("publish", str(file))
    assert result.exit_code == 0, result.output
    assert result.stdout == "accepted 200 (confirmed 200, spooled 0), refused 0\n"


def test_publish_reports_each_bad_line_and_goes_on(vhost_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RABBITMQ_URL", vhost_url)
    monkeypatch.setenv("ML_MAX_MESSAGE_BYTES", "1024")
    lines = [
        task_line("good1"),
        "{broken",
        "",
        task_line("x", task_type="no_such_type"),
        '{"task_type": "embed_vectors", "payload": {"share_id": "7"}}',
        task_line("y", priority=99),
        '{"task_type": "embed_vectors", "payload": {"share_id": "7", "content": "\udc80"}}',
        task_line("z", payload={"share_id": "z", "content": "z" * 2000}),
        task_line("good2"),
    ]
    result = publish("\n".join(lines).encode(errors="surrogateescape"))
    assert result.exit_code == 1
    assert result.stdout == "accepted 2 (confirmed 2, spooled 0), refused 6\n"
    said = {line.split(":")[0]: line for line in result.stderr.splitlines()}
    assert sorted(said) == [f"line {n}" for n in (2, 4, 5, 6, 7, 8)]
    assert "not valid JSON" in said["line 2"]
    assert "line 1" not in said["line 2"]
    assert "task_type" in said["line 4"]
    assert "payload.content" in said["line 5"]
    assert "priority" in said["line 6"]
    assert "invalid UTF-8" in said["line 7"]
    assert "ML_MAX_MESSAGE_BYTES" in said["line 8"]


def test_publish_json_has_a_line_for_each_result_and_a_summary(vhost_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RABBITMQ_URL", vhost_url)
    result = publish(f"{task_line('a')}\n[]\n{task_line('b')}\n", "--json")
    *each, last = _lines(result)
    assert {line["line"]: line["state"] for line in each} == {1: "confirmed", 2: "refused", 3: "confirmed"}
    assert last["summary"]["accepted"] == 2
    assert last["summary"]["refused"] == 1
    assert last["summary"]["interrupted"] is False


def test_publish_share_publishes_what_each_share_needs(vhost_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RABBITMQ_URL", vhost_url)
    shares = [
        {"id": "short", "text": "A few words."},
        {"id": "long", "text": "words " * 100, "media_url": "s3://bucket/talk.mp3"},
        {"id": "inner", "text": "x", "media_type": "audio", "media_url": "http://127.0.0.1/talk.mp3"},
        {"id": "empty"},
    ]
    result = publish("".join(f"{json.dumps(share)}\n" for share in shares), "--share", "--json")
    assert result.exit_code == 1
    *each, last = _lines(result)
    assert sorted((line["line"], line.get("task_type") or line["field"]) for line in each) == [
        (1, "embed_vectors"),
        (2, "embed_vectors"),
        (2, "summarize_llm"),
        (2, "transcribe_whisper"),
        (3, "media_url"),
    ]
    assert (last["summary"]["lines"], last["summary"]["confirmed"], last["summary"]["refused"]) == (4, 4, 1)


def test_the_shipped_shares_can_be_published(vhost_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RABBITMQ_URL", vhost_url)
    result = publish(SHARES.read_bytes(), "--share")
    assert result.exit_code == 0, result.output
    assert result.stdout == "accepted 102 (confirmed 102, spooled 0), refused 0\n"


def test_publish_spools_while_there_is_no_broker_and_the_next_one_sends_it(
    vhost_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RABBITMQ_URL", NOWHERE)
    result = publish(f"{task_line('a')}\n{task_line('b')}\n")
    assert result.exit_code == 0
    assert result.stdout == "accepted 2 (confirmed 0, spooled 2), refused 0\n"
    assert "not connected, so tasks are spooled: 127.0.0.1:1: connection refused" in result.stderr
    assert "2 tasks wait in the spool at sqlite:///" in result.stderr
    (listed,) = _lines(run("retry", "list", "--json"))
    assert {task["task_id"] for task in listed["tasks"]} == {"a", "b"}
    monkeypatch.setenv("RABBITMQ_URL", vhost_url)
    assert publish("").exit_code == 0
    assert _lines(run("retry", "list", "--json"))[0]["total"] == 0


def test_publish_says_that_a_task_died(vhost_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RABBITMQ_URL", vhost_url)
    monkeypatch.setenv("ML_RETRY_FIRST", "0.01")
    monkeypatch.setenv("ML_ROUTE_PATIENCE", "0")
    _lose_a_queue(monkeypatch)
    result = publish(LOST_TASK)
    assert result.exit_code == 1
    assert result.stdout == "accepted 1 (confirmed 0, spooled 1), refused 0\n"
    assert "1 task went to the dead letter queue" in result.stderr
    assert _dead() == ["a"]


def test_publish_to_a_queue_that_never_was_keeps_the_task_and_says_which_route_takes_nothing_and_why(
    vhost_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RABBITMQ_URL", vhost_url)
    monkeypatch.setenv("ML_RETRY_FIRST", "0.01")
    monkeypatch.setenv("ML_RETRY_CAP", "0.02")  # due again when the drain looks
    _lose_a_queue(monkeypatch)
    result = publish(LOST_TASK, "--json")
    assert result.exit_code == 0
    receipt, _ = _lines(result)
    assert (receipt["state"], "no queue is bound" in receipt["reason"]) == ("spooled", True)
    assert "ml.nowhere takes nothing at present (returned: no queue is bound for its routing key" in result.stderr
    assert "1 task waits in the spool" in result.stderr
    assert _dead() == []
    (shown,) = _lines(run("retry", "show", "a", "--json"))
    assert (shown["attempts"], shown["history"][0]["outcome"]) == (0, "returned")
    make_queue(vhost_url, "ml.nowhere")
    drained = run("drain", "--json")
    assert drained.exit_code == 0, drained.stderr
    assert _lines(drained)[0]["published"] == 1


def test_publish_of_a_file_that_is_not_there_is_exit_2() -> None:
    result = run("publish", "none.ndjson")
    assert result.exit_code == 2
    assert "cannot read none.ndjson: No such file or directory" in result.stderr


def test_publish_with_an_unwritable_data_folder_names_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ML_DATA_DIR", str(tmp_path / "file" / "sub"))
    result = publish(task_line("a"))
    assert result.exit_code == 1
    assert "ML_DATA_DIR" in result.stderr
    assert "Traceback" not in result.output


async def test_publish_next_to_a_running_producer_shares_its_spool() -> None:
    spool = spool_for(Settings.load())
    await spool.open()
    try:
        done = await asyncio.to_thread(_shell, "publish", env={"RABBITMQ_URL": NOWHERE}, stdin=task_line("a"))
        assert (done.returncode, done.stdout) == (0, "accepted 1 (confirmed 0, spooled 1), refused 0\n")
        assert [each.row.envelope.task_id for each in await spool.lease(9, hold=60)] == ["a"]
    finally:
        await spool.close()


def test_publish_reads_a_pipe(vhost_url: str) -> None:
    done = _shell("publish", env={"RABBITMQ_URL": vhost_url}, stdin=task_line("a"))
    assert (done.returncode, done.stdout) == (0, "accepted 1 (confirmed 1, spooled 0), refused 0\n")
    assert done.stderr == ""


def _lose_a_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on there is a task type whose queue nobody makes."""
    Path("types.toml").write_text(LOST_TYPE)
    assert publish(task_line("first")).exit_code == 0  # makes the exchange
    monkeypatch.setenv("ML_TASK_TYPES", "types.toml")
    monkeypatch.setenv("ML_DECLARE_TOPOLOGY", "false")


def _dead() -> list[str]:
    (listed,) = _lines(run("dlq", "list", "--json"))
    return [letter["task_id"] for letter in listed["dead_letters"]]


def _shell(*words: str, env: dict[str, str], stdin: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (sys.executable, "-m", "mlproducer.cli", *words),
        env={**os.environ, **env},
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_ctrl_c_in_publish_finishes_what_is_under_way_and_says_what_was_accepted(
    vhost_url: str, tmp_path: Path
) -> None:
    env = {**os.environ, "RABBITMQ_URL": vhost_url, "ML_DATA_DIR": str(tmp_path / "d")}
    with subprocess.Popen(
        (sys.executable, "-m", "mlproducer.cli", "publish", "--json"),
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{task_line('a')}\n{task_line('b')}\n")
        process.stdin.flush()
        first = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.send_signal(signal.SIGINT)  # with the pipe still open: nothing but the signal ends it
        process.wait(20)
        rest, said = process.stdout.read(), process.stderr.read() if process.stderr else ""
    assert {line["state"] for line in first} == {"confirmed"}
    assert process.returncode == 130, said
    assert json.loads(rest.splitlines()[-1])["summary"] == {
        "lines": 2,
        "accepted": 2,
        "confirmed": 2,
        "spooled": 0,
        "refused": 0,
        "dead": 0,
        "waiting": 0,
        "interrupted": True,
    }
    assert "stopped after 2 lines; what was accepted is safe" in said


# serve ----------------------------------------------------------------------------------------------------------------


def test_serve_answers_until_sigterm_and_stops_in_order(vhost_url: str) -> None:
    with subprocess.Popen(
        (sys.executable, "-m", "mlproducer.cli", "serve", "--port", "0", "--json"),
        env={**os.environ, "RABBITMQ_URL": vhost_url, "ML_LOG_FORMAT": "json"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        client = Client("127.0.0.1", int(url.rsplit(":", 1)[1]))
        end = time.monotonic() + 20
        while not client.connected() and time.monotonic() < end:
            time.sleep(0.05)
        answer = client.post("/api/ml/tasks", task_line("a").encode())
        process.terminate()
        _, said = process.communicate(timeout=30)
    assert answer["state"] == "confirmed"
    assert process.returncode == 0, said
    assert all(json.loads(line)["level"] != "error" for line in said.splitlines())


def test_serve_on_a_taken_port_names_the_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        result = run("serve", "--port", str(server.getsockname()[1]))
    assert result.exit_code == 2
    assert "ML_PORT" in result.stderr
    assert result.stderr.count("\n") == 1


def test_serve_on_the_network_without_keys_is_refused() -> None:
    result = run("serve", "--host", "0.0.0.0", "--port", "0")  # noqa: S104  # that is the point
    assert result.exit_code == 2
    assert "--insecure" in result.stderr


# drain ----------------------------------------------------------------------------------------------------------------


def _left(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    """What an outage left in the spool."""
    monkeypatch.setenv("RABBITMQ_URL", NOWHERE)
    assert publish("\n".join(lines)).exit_code == 0


def test_drain_publishes_what_an_outage_left(vhost_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _left(monkeypatch, *(task_line(f"d{n}") for n in range(60)))
    monkeypatch.setenv("RABBITMQ_URL", vhost_url)
    result = run("drain")
    assert result.exit_code == 0, result.stderr
    assert "published 60 tasks; 0 wait in the spool" in result.stdout
    again = run("drain", "--json")
    assert again.exit_code == 0
    assert _lines(again)[0] == {
        "published": 0,
        "dead": 0,
        "waiting": 0,
        "next_due_at": None,
        "complete": True,
        "interrupted": False,
    }


def test_drain_says_what_is_not_due_and_which_route_takes_nothing_and_fails_for_what_died(
    vhost_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RABBITMQ_URL", vhost_url)
    _lose_a_queue(monkeypatch)
    monkeypatch.setenv("ML_RETRY_FIRST", "0.01")
    monkeypatch.setenv("ML_RETRY_ATTEMPTS", "1")
    _left(monkeypatch, task_line("later", eta="2099-01-01T00:00:00Z"), LOST_TASK)
    monkeypatch.setenv("RABBITMQ_URL", vhost_url)
    held = run("drain", "--json")
    assert held.exit_code == 1, (held.stdout, held.stderr)
    assert "ml.nowhere takes nothing at present (returned: no queue is bound for its routing key" in held.stderr
    (found,) = _lines(held)
    assert (found["waiting"], found["dead"], found["complete"]) == (2, 0, False)
    monkeypatch.setenv("ML_ROUTE_PATIENCE", "0")
    result = run("drain", "--json")
    assert result.exit_code == 1, (result.stdout, result.stderr)
    (found,) = _lines(result)
    assert (found["waiting"], found["dead"], found["complete"]) == (1, 1, True)
    assert "not due yet, the next at 20" in result.stderr
    assert "dead letter queue" in result.stderr


def test_drain_without_a_broker_says_why_and_exits_1(monkeypatch: pytest.MonkeyPatch) -> None:
    _left(monkeypatch, task_line("one"))
    result = run("drain")
    assert result.exit_code == 1
    assert "not connected" in result.stderr
    assert "127.0.0.1:1" in result.stderr
    assert "s3cretword" not in result.stdout + result.stderr
