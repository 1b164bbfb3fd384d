"""The management API of a real broker: `mlproducer doctor` names what a confirm hides, and every face shows what workers
hold and the rates of queues.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aio_pika
import pytest
from playwright.async_api import expect
from typer.testing import CliRunner

from console_bench import served_console, until
from console_page import chromium, console_page
from mlproducer.cli.app import app
from mlproducer.reliability.reader import Reader
from mlproducer.testing.rabbitmq import PrivateRabbit, free_port

POLICY = 'rabbit_policy:set(<<"/">>, <<"{name}">>, <<"{pattern}">>, [{{<<"{key}">>, {value}}}], 1, <<"{kind}">>, <<"test">>).'


pytestmark = pytest.mark.chaos


def findings() -> dict[str, dict[str, Any]]:
    told = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)
    return {each["check"]: each for each in told["findings"]}


@pytest.fixture(scope="module")
def managed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PrivateRabbit, str]]:
    """A broker, and the root of its management API."""
    port = free_port()
    config = {"management.tcp.ip": "127.0.0.1", "management.tcp.port": str(port)}
    folder = tmp_path_factory.mktemp("managed")
    with PrivateRabbit(folder, plugins=("rabbitmq_management",), config=config) as node:
        yield node, f"http://127.0.0.1:{port}"


async def test_what_workers_hold_and_the_rates_are_on_every_face(
    managed: tuple[PrivateRabbit, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, root = managed
    url = node.add_vhost("held")
    with served_console(url, tmp_path, ML_HEALTH_INTERVAL="0.5", RABBITMQ_MANAGEMENT_URL=root) as served:
        async with (
            await aio_pika.connect(url) as connection,
            chromium() as browser,
            console_page(browser, served) as page,
        ):
            await asyncio.to_thread(served.publish, "embed_vectors", *(f"t{n}" for n in range(30)))
            worker = await connection.channel()
            await worker.set_qos(prefetch_count=20)
            await (await worker.get_queue("ml.embed")).consume(_hold)

            def known() -> bool:
                served.publish("embed_vectors", secrets.token_hex(8))
                queue = next(each for each in served.status()["queues"] if each["name"] == "ml.embed")
                return queue["unacked"] == 20 and bool(queue["published"])

            # The broker's own figures are some seconds old.
            await asyncio.to_thread(until, known, "20 are held, and a rate is known", 60)
            row = page.get_by_role("row", name="ml.embed")
            await expect(row.get_by_role("cell").nth(2)).to_have_text("20")
            await expect(page.get_by_text("Rates are RabbitMQ's own averages.")).to_be_visible()
            assert served.status()["traffic_note"] == ""
            told = served.api.get("/api/ml/metrics/prometheus").text
            assert 'ml_producer_queue_unacked{queue_name="ml.embed"} 20.0' in told
            assert 'ml_producer_queue_rate{queue_name="ml.embed",what="published"}' in told
            await page.screenshot(path=tmp_path / "traffic.png", full_page=True)
            monkeypatch.setenv("RABBITMQ_URL", url)
            monkeypatch.setenv("RABBITMQ_MANAGEMENT_URL", root)
            found = await asyncio.to_thread(findings)
            assert "workers hold 20 that they have not" in found["traffic of ml.embed"]["detail"]


async def _hold(_: object) -> None:
    """A worker that is busy."""


def test_what_a_confirm_hides_is_named(managed: tuple[PrivateRabbit, str], monkeypatch: pytest.MonkeyPatch) -> None:
    node, root = managed
    monkeypatch.setenv("RABBITMQ_URL", node.url)
    assert "RABBITMQ_MANAGEMENT_URL" in findings()["behind the exchange"]["todo"]
    monkeypatch.setenv("RABBITMQ_MANAGEMENT_URL", root)
    with Reader(node.url) as admin:
        admin.make_queue("ml.embed", "ml.tasks")
        fine = findings()
        assert {fine[check]["verdict"] for check in ("alternate exchange", "other bindings")} == {"ok"}
        assert fine["after the confirm in ml.embed"]["verdict"] == "ok", fine
        admin.make_queue("spy", "ml.tasks")
        admin.bind("spy", "ml.tasks", "#")
        for name, pattern, key, value, kind in (
            ("net", "ml.tasks", "alternate-exchange", '<<"amq.fanout">>', "exchanges"),
            ("short", "ml.embed", "max-length", "5", "queues"),
        ):
            node.eval(POLICY.format(name=name, pattern=pattern, key=key, value=value, kind=kind))
        node.memory_alarm(on=True)
        end = time.monotonic() + 60
        while "drops from its head" not in (found := findings())["after the confirm in ml.embed"]["detail"]:
            assert time.monotonic() < end, "the API's figures are some seconds old"
            time.sleep(1)
        assert "low on memory" in CliRunner().invoke(app, ["check"]).stdout
        node.memory_alarm(on=False)
    assert "low on memory" in found["broker alarm"]["detail"]
    assert "amq.fanout" in found["alternate exchange"]["detail"]
    assert "the queue spy takes #" in found["other bindings"]["detail"]
