"""What the console and the other faces say in states that once looked better than they were, on the real service."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect
from typer.testing import CliRunner

from console_bench import OTHERS_DECLARE, ServedConsole, served_console, until
from console_page import PHONE, chromium, console_page
from making_queues import delete_queue, make_queue
from mlproducer.cli.app import app
from mlproducer.testing.rabbitmq import PrivateRabbit

pytestmark = pytest.mark.asyncio(loop_scope="module")  # one browser for all

HOLDS = {"ML_ROUTE_PATIENCE": "300", "ML_RETRY_CAP": "1"}
TOO_WIDE = """[...document.querySelectorAll("body *")]
  .filter((node) => document.documentElement.scrollWidth > innerWidth && node.getBoundingClientRect().right > innerWidth)
  .map((node) => node.outerHTML.slice(0, 80))"""
"""What makes the page wider than the screen."""
OFTEN = {"ML_HEALTH_INTERVAL": "0.5"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as started:
        yield started


def metric(served: ServedConsole, line: str) -> bool:
    return line in served.api.get("/api/ml/metrics/prometheus").text


async def photograph(page: Page, file: Path) -> None:
    """The page as it is, on a desktop and on a phone, where nothing is wider than the screen."""
    await page.screenshot(path=file, full_page=True)
    before = page.viewport_size
    await page.set_viewport_size({"width": PHONE[0], "height": PHONE[1]})
    await page.screenshot(path=file.with_stem(f"{file.stem}-phone"), full_page=True)
    wide = await page.evaluate(TOO_WIDE)
    assert not wide, "the page itself never scrolls sideways"
    assert before is not None
    await page.set_viewport_size(before)


async def test_one_that_waits_hides_none_that_are_dead(
    browser: Browser, vhost_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = [f"dead-{n}" for n in range(7)]
    await asyncio.to_thread(make_queue, vhost_url, "ml.summarize")
    with served_console(vhost_url, tmp_path, **OTHERS_DECLARE) as served:
        await asyncio.to_thread(served.bury, vhost_url, *dead)
    with served_console(vhost_url, tmp_path, **OTHERS_DECLARE, **HOLDS) as served:
        assert served.publish("embed_vectors", "waits") == ["spooled"], "its queue is missing"
        async with console_page(browser, served) as page:
            for words in ("some tasks are dead", "tasks wait in the spool"):
                await expect(page.locator("#verdict.warn")).to_contain_text(words)
            for words in ("7 dead letters to look at", "1 in the spool"):
                await expect(page.locator(".causes")).to_contain_text(words)
            await expect(page.locator("#tab-retry-queue .badge")).to_have_text("1")
            await expect(page.locator("#tab-dead-letters .badge")).to_have_text("7")
            await photograph(page, tmp_path / "hidden.png")
        health, status = served.api.get("/api/ml/health").json(), served.status()
        checks = {check["name"]: check for check in health["checks"]}
        assert checks["dead_letter_queue"]["detail"] == "7 dead letters to look at"
        assert "1 in the spool" in checks["retry_queue"]["detail"]
        for face in (health, status):
            assert {"dead", "backlog"} <= {cause["code"] for cause in face["causes"]}
        assert (status["dead"], status["spool_tasks"]) == (7, 1)
        for line in ("dlq_size 7.0", "retry_queue_size 1.0", 'cause{cause="dead"} 1.0', 'cause{cause="backlog"} 1.0'):
            until(partial(metric, served, f"ml_producer_{line}"), line)
        monkeypatch.setenv("RABBITMQ_URL", vhost_url)
        monkeypatch.setenv("ML_DATA_DIR", str(tmp_path))
        told = await asyncio.to_thread(CliRunner().invoke, app, ["doctor", "--json"])
        spool = next(each for each in json.loads(told.stdout)["findings"] if each["check"] == "spool")
        assert spool["verdict"] == "warning"
        assert "1 task wait, 7 dead letters" in spool["detail"]


async def test_a_queue_that_nobody_reads_is_amber_and_named_everywhere(
    browser: Browser, vhost_url: str, tmp_path: Path
) -> None:
    with served_console(vhost_url, tmp_path, **OFTEN) as served:
        async with console_page(browser, served) as page:
            await expect(page.locator("#verdict.ok")).to_be_visible()
            await asyncio.to_thread(served.publish, "embed_vectors", *(f"t{n}" for n in range(200)))
            await expect(page.get_by_role("status").first).to_have_text("Nobody reads a queue")
            await expect(page.locator("#verdict.warn")).to_contain_text(
                "ml.embed: nobody reads it: its tasks (200 now)"
            )
            await expect(page.locator("#verdict-detail")).to_contain_text("New tasks are confirmed directly")
            row = page.get_by_role("row", name="ml.embed")
            await expect(row).to_contain_text("200")
            await expect(row).to_contain_text("Nobody reads it")
            await photograph(page, tmp_path / "unread.png")
        assert served.api.get("/api/ml/health").json()["status"] == "degraded"
        assert [cause["code"] for cause in served.status()["causes"]] == ["unread"]
        until(lambda: metric(served, 'ml_producer_cause{cause="unread"} 1.0'), "the metric says it, too")


async def test_a_deleted_queue_is_named_with_its_route_and_what_becomes_of_its_tasks(
    browser: Browser, vhost_url: str, tmp_path: Path
) -> None:
    await asyncio.to_thread(make_queue, vhost_url, "ml.embed", "ml.summarize")
    with served_console(vhost_url, tmp_path, **OTHERS_DECLARE, **OFTEN, **HOLDS) as served:
        await asyncio.to_thread(served.publish, "embed_vectors", "well")
        async with console_page(browser, served) as page:
            await expect(page.locator("#live-text")).to_have_text("Live")
            await asyncio.to_thread(delete_queue, vhost_url, "ml.embed")
            await asyncio.to_thread(served.publish, "embed_vectors", "waits")
            await expect(page.locator("#verdict.warn")).to_contain_text("ml.embed")
            held = page.locator("section", has=page.get_by_role("heading", name="Held routes"))
            await expect(held.get_by_role("row", name="ml.embed")).to_contain_text("returned")
            await expect(page.locator("#verdict-detail")).to_contain_text("others kept in the spool")
            await photograph(page, tmp_path / "deleted.png")
        health = served.api.get("/api/ml/health").json()
        assert any(cause["about"] == "ml.embed" for cause in health["causes"])
        assert health["new_tasks"] == "some_kept"


async def test_a_frozen_broker_is_no_longer_green_before_the_confirm_timeout(
    browser: Browser, own_rabbit: PrivateRabbit, tmp_path: Path
) -> None:
    with served_console(own_rabbit.url, tmp_path, ML_CONFIRM_TIMEOUT="30", ML_ACCEPT_TIMEOUT="60") as served:
        async with console_page(browser, served) as page:
            await asyncio.to_thread(served.publish, "embed_vectors", "first")
            await expect(page.locator("#verdict.ok")).to_be_visible()
            own_rabbit.pause()
            calls = asyncio.create_task(
                asyncio.to_thread(served.publish, "embed_vectors", *(f"t{n}" for n in range(66)))
            )
            try:
                await expect(page.get_by_role("status").first).to_have_text("The broker does not answer")
                await expect(page.locator("#verdict.warn")).to_contain_text("66 tasks are in flight")
                await photograph(page, tmp_path / "frozen.png")
            finally:
                own_rabbit.resume()
                await calls
            await expect(page.locator("#verdict-title")).not_to_have_text("The broker does not answer")


@pytest.mark.chaos
async def test_a_full_spool_says_that_tasks_are_refused_and_a_button_tries_the_broker_now(
    browser: Browser, own_rabbit: PrivateRabbit, tmp_path: Path
) -> None:
    slow = {"ML_RECONNECT_FIRST": "300", "ML_RECONNECT_CAP": "300", "ML_SPOOL_MAX_TASKS": "5"}
    with served_console(own_rabbit.url, tmp_path, **slow) as served:
        async with console_page(browser, served) as page:
            await expect(page.locator("#verdict.ok")).to_be_visible()
            await asyncio.to_thread(own_rabbit.kill)
            await expect(page.locator("#verdict.bad")).to_contain_text("Next attempt in")
            await expect(page.locator("#verdict-detail")).to_contain_text("accepted and kept in the spool")
            await asyncio.to_thread(served.publish, "embed_vectors", *(f"t{n}" for n in range(5)))
            task = {"task_type": "embed_vectors", "payload": {"share_id": "s", "content": "c"}}
            for _ in range(20):
                assert served.api.post("/api/ml/tasks", json=task).status_code == 503
            await expect(page.get_by_role("status").first).to_have_text("The spool is full")
            await expect(page.locator("#verdict-detail")).to_contain_text("New tasks are refused.")
            await expect(page.locator("#verdict-detail")).not_to_contain_text("accepted")
            await expect(page.locator("main")).to_contain_text("100 % of ML_SPOOL_MAX_TASKS")
            await expect(page.locator("main")).to_contain_text("SpoolFull 2")
            await photograph(page, tmp_path / "full.png")
            assert served.api.get("/api/ml/health").status_code == 503
            assert served.api.get("/api/ml/health/ready").status_code == 503
            assert metric(served, "ml_producer_new_tasks 4.0")
            await asyncio.to_thread(own_rabbit.start)
            await page.get_by_role("button", name="Try now").click()
            await expect(page.get_by_text("Reconnecting.")).to_be_visible()
            await expect(page.locator("#verdict-title")).not_to_have_text("The spool is full")
            served.until_status(lambda status: status["connection"] == "connected", "it did not wait five minutes")
