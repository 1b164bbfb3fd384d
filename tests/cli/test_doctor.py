"""`mlproducer doctor` on a real broker: what differs is said in plain words, and nothing is changed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aio_pika
import pytest
from typer.testing import CliRunner, Result

from mlproducer.cli.app import app
from mlproducer.testing.rabbitmq import version


def doctor(*words: str) -> Result:
    return CliRunner().invoke(app, ["doctor", *words])


async def ignore(_message: object) -> None: ...


def findings(result: Result) -> dict[str, dict[str, Any]]:
    told = json.loads(result.stdout)
    assert told["ok"] is (result.exit_code == 0)
    return {each["check"]: each for each in told["findings"]}


@pytest.fixture
def url(vhost_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("RABBITMQ_URL", vhost_url)
    return vhost_url


@pytest.mark.usefixtures("url")
def test_a_fresh_broker_is_ready_and_stays_empty() -> None:
    for _ in range(2):  # the second look finds what the first found: it made nothing
        found = findings(doctor("--json"))
        assert {each["verdict"] for each in found.values()} == {"ok"}, found
        assert "not there yet" in found["exchange"]["detail"]
        assert "not there yet" in found["queue ml.embed"]["detail"]
    assert f"RabbitMQ {version()}" in found["broker"]["detail"]
    assert "not there yet" in found["spool"]["detail"]


async def test_existing_queues_with_other_arguments_are_told_in_plain_words_and_left_alone(url: str) -> None:
    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel()
        classic = await channel.declare_queue("ml.embed", durable=True)
        await channel.declare_queue("ml.summarize", durable=True, arguments={"x-queue-type": "quorum"})
        ours: dict[str, Any] = {"x-queue-type": "quorum", "x-delivery-limit": 5}
        read = await channel.declare_queue("ml.transcribe", durable=True, arguments=ours)
        await read.consume(ignore)
        await channel.declare_exchange("ml.tasks", "direct", durable=True)
        await channel.default_exchange.publish(aio_pika.Message(b"x"), "ml.embed")
        result = await asyncio.to_thread(doctor, "--json")
        found = findings(result)
        assert result.exit_code == 0, "tasks would be accepted: warnings only"
        embed = found["queue ml.embed"]
        assert embed["verdict"] == "warning"
        assert embed["detail"].startswith("its x-queue-type is classic, and we would make it with quorum") or embed[
            "detail"
        ].startswith("its x-queue-type is not set, and we would make it with quorum")
        assert "x-delivery-limit is not set, and we would make it with 5" in found["queue ml.summarize"]["detail"]
        assert found["queue ml.transcribe"]["verdict"] == "ok"
        assert "1 worker reads it" in found["worker of ml.transcribe"]["detail"]
        assert "nobody reads it: its tasks (1 now)" in found["worker of ml.embed"]["detail"]
        assert "its type is direct, and we would make it with topic" in found["exchange"]["detail"]
        assert (
            await channel.declare_queue("ml.embed", durable=True, passive=True)
        ).declaration_result.message_count == 1
        assert classic.durable


def test_missing_queues_that_nobody_makes_fail(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert url
    monkeypatch.setenv("ML_DECLARE_TOPOLOGY", "no")
    result = doctor()
    assert result.exit_code == 1
    assert "✗ exchange: there is no exchange ml.tasks" in result.stdout
    assert "✗ queue ml.embed: not there" in result.stdout
    assert "ML_DECLARE_TOPOLOGY=true" in result.stdout


def test_a_broker_that_does_not_answer_fails_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RABBITMQ_URL", "amqp://ml:s3cretword@127.0.0.1:1/")
    result = doctor()
    assert result.exit_code == 1
    assert "✗ broker: 127.0.0.1:1" in result.stdout
    assert "s3cretword" not in result.output
    assert "spool: not there yet" in result.stdout, "the rest is looked at all the same"


@pytest.mark.usefixtures("url")
def test_what_else_is_wrong_is_named_by_its_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ML_HOST", "0.0.0.0")  # noqa: S104  # the point of it
    monkeypatch.setenv("ML_MAX_MESSAGE_BYTES", str(1 << 30))
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("ML_DATA_DIR", str(tmp_path / "file"))
    result = doctor("--json")
    found = findings(result)
    assert result.exit_code == 1
    assert "ML_API_KEYS" in found["keys"]["detail"]
    assert found["size limit"]["verdict"] == "warning"
    assert "ML_MAX_MESSAGE_BYTES" in found["size limit"]["todo"]
    assert found["spool"]["verdict"] == "failed"
    assert "ML_DATA_DIR" in found["spool"]["detail"]


@pytest.mark.usefixtures("url")
def test_a_spool_in_memory_and_no_keys_for_the_network_are_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ML_SPOOL_URL", "memory://")
    monkeypatch.setenv("ML_HOST", "0.0.0.0")  # noqa: S104  # the point of it
    monkeypatch.setenv("ML_INSECURE", "yes")
    result = doctor("--json")
    found = findings(result)
    assert result.exit_code == 0
    assert (found["spool"]["verdict"], found["keys"]["verdict"]) == ("warning", "warning")
