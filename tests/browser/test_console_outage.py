"""An outage as an operator sees it: red at once, nothing lost, and green again by itself."""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aio_pika
import httpx
import pytest
from playwright.async_api import expect

from console_bench import KEY, OTHERS_DECLARE, ServedConsole, served_console
from console_page import PHONE, chromium, console_page, sign_in, visit
from making_queues import make_queue
from mlproducer.testing.rabbitmq import PrivateRabbit

pytestmark = pytest.mark.chaos

RED_WITHIN = 2.0
SHOTS = Path(__file__).parents[2] / "docs" / "images"


async def test_a_killed_broker_is_red_within_two_seconds_and_green_once_all_is_through(
    own_rabbit: PrivateRabbit, tmp_path: Path
) -> None:
    with served_console(own_rabbit.url, tmp_path) as served:
        async with chromium() as browser, console_page(browser, served) as page:
            await expect(page.locator("#verdict.ok")).to_be_visible()
            served.publish("embed_vectors", *(f"before-{n}" for n in range(20)))
            await asyncio.to_thread(own_rabbit.sync)
            await asyncio.to_thread(own_rabbit.kill)
            killed = time.monotonic()
            await expect(page.locator("#verdict.bad")).to_be_visible()
            assert time.monotonic() - killed < RED_WITHIN
            await expect(page.get_by_role("status").first).to_have_text("Tasks are not getting through")
            assert "Red" in await page.title()

            states = served.publish("embed_vectors", *(f"meanwhile-{n}" for n in range(30)))
            assert states == ["spooled"] * 30
            await expect(page.locator("#tab-retry-queue .badge")).to_have_text("30")
            await expect(page.get_by_role("link", name="meanwhile-0", exact=True)).to_be_visible()

            await asyncio.to_thread(own_rabbit.start)
            await expect(page.locator("#verdict.ok")).to_be_visible(timeout=30_000)
            await expect(page.locator("#tab-retry-queue .badge")).to_be_hidden()
            await expect(page.get_by_text("No task waits.")).to_be_visible()
            await visit(page, "#/tasks/meanwhile-29", "Task")
            await expect(page.get_by_text("confirmed it.")).to_be_visible()


async def test_a_service_that_is_gone_is_never_shown_as_green(own_rabbit: PrivateRabbit, tmp_path: Path) -> None:
    with served_console(own_rabbit.url, tmp_path) as served:
        async with chromium() as browser, console_page(browser, served) as page:
            await expect(page.locator("#verdict.ok")).to_be_visible()
            served.process.kill()
            await expect(page.get_by_role("status").first).to_have_text("The service does not answer", timeout=8_000)
            await expect(page.locator("#verdict")).to_have_class(re.compile("bad"))


async def test_the_levers_work_and_ask_first_where_they_break_something(
    own_rabbit: PrivateRabbit, tmp_path: Path
) -> None:
    with served_console(own_rabbit.url, tmp_path, ML_BREAKER_FAILURES="2", ML_BREAKER_COOLDOWN="3600") as served:
        async with chromium() as browser, console_page(browser, served) as page:
            await expect(page.locator("#verdict.ok")).to_be_visible()
            await page.get_by_role("button", name="Reconnect").click()
            dialog = page.get_by_role("dialog", name="Reconnect now?")
            await expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
            await dialog.get_by_role("button", name="Close and reconnect").click()
            await expect(page.get_by_text("Reconnecting.")).to_be_visible()
            await asyncio.to_thread(own_rabbit.kill)
            served.until_status(lambda status: status["breaker"] == "open", "the breaker opened")
            await page.get_by_role("button", name="Reset breaker").click()
            await expect(page.get_by_text("The circuit breaker is closed.")).to_be_visible()


async def test_the_pictures_of_the_documents(own_rabbit: PrivateRabbit, tmp_path: Path) -> None:
    """ML_PICTURES=1 puts them into docs/images."""
    service = tmp_path / "service"
    service.mkdir()
    pictures = tmp_path / "pictures"
    await asyncio.to_thread(make_queue, own_rabbit.url, "ml.embed", "ml.summarize")
    with served_console(own_rabbit.url, service, key=KEY, **OTHERS_DECLARE) as served:
        await asyncio.to_thread(served.bury, own_rabbit.url, "share-17-transcript", "share-42-transcript")
        async with worked(own_rabbit.url, "ml.embed", "ml.summarize", "ml.transcribe"):
            load = asyncio.create_task(traffic(served))
            try:
                await take_pictures(served, own_rabbit, pictures)
            finally:
                load.cancel()
                with suppress(asyncio.CancelledError):
                    await load
    found = sorted(pictures.iterdir())
    assert len(found) == 5
    assert all(10_000 < picture.stat().st_size < 200_000 for picture in found)
    if os.environ.get("ML_PICTURES"):
        SHOTS.mkdir(exist_ok=True)
        for picture in found:
            shutil.copy(picture, SHOTS)


async def take_pictures(served: ServedConsole, rabbit: PrivateRabbit, folder: Path) -> None:
    async with chromium() as browser:
        await asyncio.sleep(50)  # a curve of a minute
        async with console_page(browser, served) as page:
            await sign_in(page, KEY)
            await asyncio.sleep(2)
            await visit(page, "#/tasks/share-42-transcript", "Task")
            await expect(page.get_by_text("attempt: returned")).to_have_count(3)
            await page.screenshot(path=folder / "console-task.png")
            await visit(page, "#/dead-letters", "Dead letters")
            await page.get_by_role("button", name="Replay all 2 …").click()
            await expect(page.get_by_role("button", name="Replay 2 tasks")).to_be_enabled()
            await page.screenshot(path=folder / "console-replay.png")
            await page.get_by_role("button", name="Replay 2 tasks").click()
            await expect(page.get_by_text("2 tasks replayed, 0 left.")).to_be_visible()
        async with console_page(browser, served, size=PHONE) as page:
            await sign_in(page, KEY)
            await expect(page.locator("#verdict.ok")).to_be_visible(timeout=30_000)
            await asyncio.sleep(2)
            await page.screenshot(path=folder / "console-phone.png")
        async with console_page(browser, served) as page:
            await sign_in(page, KEY)
            await asyncio.sleep(2)
            await page.screenshot(path=folder / "console-green.png")
        await asyncio.to_thread(rabbit.kill)
        async with console_page(browser, served, scheme="dark") as page:
            await sign_in(page, KEY)
            await expect(page.locator("#verdict.bad")).to_be_visible()
            await asyncio.sleep(8)
            await page.screenshot(path=folder / "console-red.png")


@asynccontextmanager
async def worked(url: str, *queues: str) -> AsyncIterator[None]:
    """Somebody reads these queues, until the broker is gone: else the page says that nobody does."""
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        for queue in queues:
            await (await channel.get_queue(queue)).consume(_work, no_ack=True)
        yield


async def _work(_: object) -> None:
    """Done at once."""


async def traffic(served: ServedConsole) -> None:
    """Uneven, as a day is."""
    line = '{{"task_type": "embed_vectors", "payload": {{"share_id": "s", "content": "{}"}}}}\n'
    headers = {"X-API-Key": KEY, "Content-Type": "application/x-ndjson"}
    async with httpx.AsyncClient(base_url=served.url, headers=headers, timeout=30) as client:
        while True:
            body = "".join(line.format("x" * random.randint(50, 5_000)) for _ in range(random.randint(4, 24)))
            await client.post("/api/ml/tasks/batch", content=body)
            await asyncio.sleep(random.uniform(0.1, 0.4))
