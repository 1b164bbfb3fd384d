"""A secret of its own in every setting that has one, faults of every kind, and no output that shows a part of any."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import traceback
from pathlib import Path
from urllib.parse import quote, unquote

import pytest
from typer.testing import CliRunner

from http_bench import http_bench
from mlproducer import Producer, Settings, SettingsError
from mlproducer.amqp.config import AmqpConfig
from mlproducer.cli.app import app

BIRDS = ("Kestrel", "Osprey", "Merlin", "Harrier", "Buzzard", "Goshawk", "Lanner", "Hobby")
SPOOLS = ("postgresql://u:{}@127.0.0.1:1/db?connect_timeout=2", "redis://u:{}@127.0.0.1:1/0", "memory://")
COMMANDS = (
    ["settings"],
    ["settings", "--json"],
    ["check"],
    ["check", "--json"],
    ["doctor"],
    ["doctor", "--json"],
    ["publish", "tasks.ndjson", "--json"],
    ["retry", "list"],
    ["dlq", "list", "--json"],
    ["analytics", "summary"],
)


def secret(number: int) -> str:
    """Words that nothing else has, with what a URL must escape between them."""
    return f"{BIRDS[number]}{number}aa/{BIRDS[number]}{number}bb#{BIRDS[number]}{number}cc?{BIRDS[number]}%41@:x"


def scan(text: str) -> None:
    text = unquote(text)
    shown = [word for word in BIRDS if re.search(rf"{word}\d", text, re.IGNORECASE)]
    assert not shown, f"{shown} in:\n{text}"


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(("ML_", "RABBITMQ_", "AWS_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("ML_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("RABBITMQ_URL", _brokers(quote(secret(0), safe=""), quote(secret(1), safe="")))
    monkeypatch.setenv("ML_API_KEYS", f"{secret(2)},{secret(3)}")
    monkeypatch.setenv("ML_BLOB_URL", "s3://bucket/prefix")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret(4))
    monkeypatch.setenv("RABBITMQ_CONNECTION_TIMEOUT", "2000")
    (tmp_path / "tasks.ndjson").write_text(
        json.dumps({"task_type": "embed_vectors", "payload": {"share_id": "1", "content": "x"}, "id": "i"})
    )


def _brokers(one: str, two: str) -> str:
    return f"amqp://u:{one}@127.0.0.1:1/v;amqps://u:{two}@127.0.0.1:2/?heartbeat=5"


@pytest.mark.usefixtures("planted")
@pytest.mark.parametrize("spool", SPOOLS, ids=lambda spool: spool.partition(":")[0])
def test_no_command_shows_one(spool: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("ML_SPOOL_URL", spool.format(quote(secret(5), safe="")))
    for words in COMMANDS:
        result = CliRunner().invoke(app, words)
        scan(result.output + result.stderr)
        if result.exception is not None:
            scan("".join(traceback.format_exception(result.exception)))
            chain = result.exception.__context__
            while chain is not None:
                scan(f"{chain} {chain!r}")
                chain = chain.__context__
    scan(caplog.text)


WRONG = [
    ("RABBITMQ_URL", f"amqp://u:{secret(6)}@127.0.0.1:1/"),
    ("RABBITMQ_URL", f"amqp://u:12/{secret(6)}@127.0.0.1:1/"),
    ("RABBITMQ_URL", f"amqp://u:12?{secret(6)}@127.0.0.1:1/"),
    ("RABBITMQ_URL", f"amqp://u:12#{secret(6)}@127.0.0.1:1/"),
    ("RABBITMQ_URL", f"amqp://one;amqp://u:{secret(6)}@two"),
    ("RABBITMQ_URL", f"amqp://u:p@h?{secret(6)}=1"),
    ("ML_SPOOL_URL", f"postgresql://u:{secret(6)}@h/db"),
    ("ML_SPOOL_URL", f"postgresql://u:12/{secret(6)}@h/db"),
    ("ML_SPOOL_URL", f"postgresql://u:Harrier3x%zz@h/db?x={quote(secret(6), safe='')}"),
    ("ML_SPOOL_URL", f"redis://u:12/{secret(6)}@h/0"),
    ("ML_SPOOL_URL", f"redis://u:{secret(6)}@h/0"),
    ("ML_SPOOL_URL", f"mysql://u:{secret(6)}@h/db"),
    ("ML_SPOOL_URL", f"sqlite://u:{secret(6)}@h/db"),
    ("ML_BLOB_URL", f"s3://key:{secret(6)}@bucket/prefix"),
    ("ML_BLOB_URL", f"s3://key:{quote(secret(6), safe='')}@bucket/prefix"),
    ("ML_BLOB_URL", f"ftp://u:{quote(secret(6), safe='')}@127.0.0.1:1/x"),
    ("ML_BLOB_URL", f"nosuch://u:{quote(secret(6), safe='')}@h/x"),
    ("ML_API_KEYS", "Goshawk5ab"),
]


@pytest.mark.usefixtures("planted")
@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_setting_that_is_wrong_is_refused_by_its_name_alone(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name) as caught:
        Producer()
    scan("".join(traceback.format_exception(caught.value)))
    error: BaseException | None = caught.value
    while error is not None:
        scan(f"{error} {error!r} {error.__cause__!r}")
        error = error.__context__
    for words in (["settings"], ["doctor"]):
        result = CliRunner().invoke(app, words)
        scan(result.output + result.stderr)


@pytest.mark.usefixtures("planted")
def test_no_repr_shows_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ML_SPOOL_URL", SPOOLS[0].format(quote(secret(5), safe="")))
    settings = Settings.load()
    config = AmqpConfig.from_settings(settings, ())
    producer = Producer(settings)
    scan(repr([settings, config, config.endpoints, settings.brokers, vars(producer)]))
    scan(str(settings) + str(settings.brokers[0]))


@pytest.mark.usefixtures("planted")
async def test_no_open_route_shows_one(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    url = os.environ["RABBITMQ_URL"]
    async with http_bench(down=True, rabbitmq_url=url) as b:
        for path in ("health", "health/live", "health/ready", "status", "metrics/prometheus", "metrics/json", "dlq"):
            answer = await b.client.get(f"/api/ml/{path}")
            scan(answer.text + str(answer.headers))
        answer = await b.client.post("/api/ml/tasks", json={"task_type": secret(0), "payload": {"x": secret(2)}})
        assert answer.status_code in {401, 422}
        scan((await b.client.get("/")).text)
    scan(caplog.text)


@pytest.mark.usefixtures("planted")
def test_neither_a_crash_nor_a_thread_nor_a_warning_of_the_program_shows_one(tmp_path: Path) -> None:
    program = tmp_path / "crash.py"
    program.write_text(
        "import sys, threading, warnings\n"
        "from mlproducer.cli import app as cli\n"
        "from mlproducer.settings import Settings\n"
        "def crash():\n"
        "    url = Settings.load().rabbitmq_url.get_secret_value()\n"
        "    warnings.warn(url)\n"
        "    thread = threading.Thread(target=lambda: 1 / len(url) / 0 or int(url)); thread.start(); thread.join()\n"
        "    thread = threading.Thread(target=lambda: int(url)); thread.start(); thread.join()\n"
        "    print(url); print(url, file=sys.stderr)\n"
        "    try: int(url)\n"
        "    except ValueError as error: raise RuntimeError(url) from error\n"
        "cli.app = crash\n"
        "cli.main()\n"
    )
    done = subprocess.run(
        [sys.executable, program], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert "RuntimeError" in done.stderr
    assert "UserWarning" in done.stderr
    assert "Exception in thread" in done.stderr
    scan(done.stdout + done.stderr)
