"""Who only looks changes nothing: not at the broker, not on the disk, whatever the face."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner, Result

from making_queues import make_queue, topology
from mlproducer import Producer, Settings
from mlproducer.cli.app import COMMANDS, app
from mlproducer.errors import NotFound
from mlproducer.http import create_app
from mlproducer.status import Check
from mlproducer.testing.rabbitmq import PrivateRabbit

TYPES = """
[task_types.mine.routes.api]
celery_task = "my.task"
queue = "ml.mine"
[task_types.mine.fields]
share_id = "string"
"""
TASK = '{"task_type": "mine", "payload": {"share_id": "1"}}'
LOOKS = (
    *([name, "--help"] for name in COMMANDS),
    ["check"],
    ["check", "--json"],
    ["doctor"],
    ["doctor", "--json"],
    ["settings"],
    ["retry", "list"],
    ["retry", "show", "x"],
    ["dlq", "list"],
    ["dlq", "show", "x"],
    ["dlq", "audit"],
    ["dlq", "replay", "--all", "--dry-run"],
    ["dlq", "purge", "--all", "--dry-run"],
    ["analytics", "summary"],
    ["analytics", "costs"],
    ["analytics", "budget"],
    ["blobs", "clean", "--older-than", "7d", "--dry-run"],
)


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


@pytest.fixture
def types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "types.toml"
    file.write_text(TYPES)
    monkeypatch.setenv("ML_TASK_TYPES", str(file))
    return file


@pytest.mark.usefixtures("types")
def test_no_command_that_looks_changes_anything(
    rabbit: PrivateRabbit, vhost_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RABBITMQ_URL", vhost_url)
    monkeypatch.setenv("ML_DLQ_PUBLISH", "yes")
    monkeypatch.setenv("ML_BLOB_URL", str(tmp_path / "blobs"))
    monkeypatch.setenv("ML_METRICS_DIR", str(tmp_path / "metrics"))
    before, files = topology(rabbit, vhost_url), sorted(tmp_path.rglob("*"))
    for words in LOOKS:
        result = run(*words)
        assert not isinstance(result.exception, AssertionError), words
        assert sorted(tmp_path.rglob("*")) == files, words
    assert topology(rabbit, vhost_url) == before


async def test_a_service_that_is_only_looked_at_makes_no_exchange_and_no_queue(
    rabbit: PrivateRabbit, vhost_url: str, tmp_path: Path
) -> None:
    settings = Settings.load(rabbitmq_url=vhost_url, ml_data_dir=tmp_path, ml_health_interval=0.05)
    before = await asyncio.to_thread(topology, rabbit, vhost_url)
    async with Producer(settings) as producer:
        assert await producer.connected(20)
        service = create_app(settings, producer=producer)
        described = service.openapi()["paths"]
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(service, raise_app_exceptions=True), base_url="http://localhost"
        ) as client:
            for path in ("/", "/docs", *(path for path, methods in described.items() if "get" in methods)):
                await client.get(path.replace("{task_id}", "x"))
        with pytest.raises(NotFound):
            await producer.receipt("x")
        await producer.dead_letters()
        producer.reconnect()
        await asyncio.sleep(0.3)  # some health checks, which go on as long as it runs
        async with asyncio.timeout(20):
            while not producer.is_healthy():  # noqa: ASYNC110  # a link tells no event here
                await asyncio.sleep(0.05)
        assert producer.health().status == "ok", producer.health().as_dict()
    assert await asyncio.to_thread(topology, rabbit, vhost_url) == before


@pytest.mark.usefixtures("types")
def test_check_and_doctor_tell_what_would_be_made(vhost_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RABBITMQ_URL", vhost_url)
    monkeypatch.setenv("ML_BUILTIN_TYPES", "no")
    told = json.loads(run("check", "--json").stdout)
    assert told["would_declare"] == ["topic exchange ml.tasks", "quorum queue ml.mine (x-delivery-limit 5)"]
    assert "quorum queue ml.mine (x-delivery-limit 5)" in run("check").stdout
    assert "makes and binds it when it connects, as quorum queue ml.mine" in " ".join(run("doctor").stdout.split())
    monkeypatch.setenv("ML_BUILTIN_TYPES", "yes")
    assert "makes and binds it with its first task" in " ".join(run("doctor").stdout.split())
    assert len(json.loads(run("check", "--json").stdout)["would_declare"]) == 7


@pytest.mark.usefixtures("types")
def test_where_others_declare_and_ones_own_queues_are_there_all_is_well(
    vhost_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RABBITMQ_URL", vhost_url)
    monkeypatch.setenv("ML_DECLARE_TOPOLOGY", "no")
    assert run("check").exit_code == 1, "there is no exchange, so nothing could be published"
    make_queue(vhost_url, "ml.embed")
    assert run("check").exit_code == 0
    missing = run("doctor")
    assert missing.exit_code == 1
    assert "✗ queue ml.mine: not there" in missing.stdout
    assert "! queue ml.summarize: not there" in missing.stdout, "of a type that nobody need ever use"
    make_queue(vhost_url, "ml.mine")
    found = run("doctor")
    assert found.exit_code == 0, found.stdout

    async def health() -> tuple[str, str]:
        async with Producer(Settings.load()) as producer:
            assert await producer.connected(20)
            return producer.health().status, producer.health().summary

    assert asyncio.run(health()) == ("ok", "healthy: New tasks are confirmed directly.")
    Path("tasks.ndjson").write_text(TASK)
    assert run("publish", "tasks.ndjson").exit_code == 0


def topology_of(producer: Producer) -> Check:
    return next(check for check in producer.health().checks if check.name == "channel_and_topology")


async def test_a_queue_that_others_make_later_is_no_trouble_any_more_and_one_that_is_missing_is_told(
    vhost_url: str, tmp_path: Path
) -> None:
    await asyncio.to_thread(make_queue, vhost_url, "ml.embed")
    settings = Settings.load(
        rabbitmq_url=vhost_url,
        ml_data_dir=tmp_path,
        ml_declare_topology=False,
        ml_health_interval=0.1,
        ml_retry_first=0.2,
        ml_retry_attempts=1_000,
        ml_drain_poll=0.05,
    )
    async with Producer(settings) as producer:
        assert await producer.connected(20)
        assert (await producer.publish_embedding_task("1", "text")).confirmed
        assert topology_of(producer).status == "ok"
        receipt = await producer.publish_summarization_task("1", "text")
        assert not receipt.confirmed
        check = topology_of(producer)
        assert (check.status, "ml.summarize: it is not there" in check.detail) == ("degraded", True)
        await asyncio.to_thread(make_queue, vhost_url, "ml.summarize")
        async with asyncio.timeout(20):
            while topology_of(producer).status != "ok":  # noqa: ASYNC110  # a look at the broker tells no event
                await asyncio.sleep(0.05)
            while not (await producer.receipt(receipt.task_id)).confirmed:  # noqa: ASYNC110  # as above
                await asyncio.sleep(0.05)
