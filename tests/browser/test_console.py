"""The console in a real browser, on the real service and a real broker that lives all the time."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from urllib.parse import quote

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, Route, expect

from console_bench import KEY, OTHERS_DECLARE, ServedConsole, served_console
from console_page import PHONE, Scheme, chromium, console_page, serious, sign_in, tab_to, visit
from making_queues import make_queue
from mlproducer.testing.rabbitmq import PrivateRabbit

pytestmark = pytest.mark.asyncio(loop_scope="module")  # one browser for all

HOSTILE = "<img/src=x/onerror=alert(1)>&'\"%2e%23?#x"
HOSTILE_TEXT = "</script><script>alert(1)</script><svg onload=alert(2)>"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def served(rabbit: PrivateRabbit, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedConsole]:
    url = rabbit.add_vhost("console")
    make_queue(url, "ml.embed", "ml.summarize")
    with served_console(url, tmp_path_factory.mktemp("console"), key=KEY, **OTHERS_DECLARE) as started:
        started.bury(url, "share-17-transcript", "share-42-transcript", HOSTILE, content=HOSTILE_TEXT)
        yield started


async def test_a_wrong_key_is_told_so_a_right_one_opens_and_signing_out_closes(
    browser: Browser, served: ServedConsole
) -> None:
    async with console_page(browser, served) as page:
        await page.get_by_label("API key").fill("not-the-key-0123456789")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("alert")).to_have_text("this key is none of ML_API_KEYS")
        await expect(page.locator("#verdict")).to_be_hidden()
        await sign_in(page, KEY)
        await expect(page.locator("#verdict")).to_have_class(re.compile("warn"))
        assert await page.evaluate("document.cookie") == "", "no script reads it"
        await page.reload()
        await expect(page.locator("#live-text")).to_have_text("Live")
        await page.get_by_role("button", name="Sign out").click()
        await expect(page.get_by_label("API key")).to_be_focused()
        assert await page.evaluate("fetch('api/ml/dlq').then(answer => answer.status)") == 401
        assert await page.context.cookies() == []


async def test_a_page_of_the_same_site_cannot_act_for_who_is_signed_in(browser: Browser, served: ServedConsole) -> None:
    """Another port of the same host is the same site: SameSite lets the cookie pass. The token and Origin do not."""
    target = served.url + "/api/ml/connection/reconnect"

    async def neighbour(route: Route) -> None:
        page = f'<!doctype html><title>a neighbour</title><form method="post" action="{target}"></form>'
        await route.fulfill(body=page, content_type="text/html")

    async with console_page(browser, served) as page:
        await sign_in(page, KEY)
        attacker = await page.context.new_page()
        await attacker.route("http://127.0.0.1:9090/**", neighbour)
        await attacker.goto("http://127.0.0.1:9090/")
        async with attacker.expect_response(target) as answers:
            await attacker.evaluate("document.forms[0].submit()")
        answer = await answers.value
        assert "mlproducer" in (await answer.request.all_headers())["cookie"], "the cookie came along"
        assert answer.status == 403
        assert "Origin" in await answer.text()


async def test_a_dead_letter_is_found_and_replayed_with_the_keyboard_alone(
    browser: Browser, served: ServedConsole
) -> None:
    async with console_page(browser, served) as page:
        await expect(page.get_by_label("API key")).to_be_focused()
        await page.keyboard.type(KEY)
        await page.keyboard.press("Tab")
        await page.keyboard.type("ada")
        await page.keyboard.press("Enter")
        await expect(page.locator("#live-text")).to_have_text("Live")
        await tab_to(page, "link", "Dead letters 3")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", level=1)).to_be_focused()
        await tab_to(page, "searchbox", "Error text contains")
        await page.keyboard.type("no_route")
        await page.keyboard.press("Enter")
        await expect(page.get_by_text("3 found", exact=True)).to_be_visible()
        await tab_to(page, "checkbox", "Select share-17-transcript")
        await page.keyboard.press("Space")
        await page.keyboard.press("Shift+Tab")
        for _ in range(10):
            if await page.evaluate("document.activeElement.textContent") == "Replay 1 selected …":
                break
            await page.keyboard.press("Shift+Tab")
        await page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog", name="Replay dead letters")
        await expect(dialog.get_by_role("status")).to_contain_text("1 task would go back")
        assert served.status()["dead"] == 3, "a dry run changes nothing"
        await tab_to(page, "button", "Replay 1 task", most=4)
        await page.keyboard.press("Enter")
        await expect(dialog.get_by_role("status")).to_have_text("1 task replayed, 0 left.")
        await page.keyboard.press("Enter")
        await expect(dialog).to_be_hidden()
        await expect(page.get_by_text("2 found", exact=True)).to_be_visible()
        await expect(page.get_by_role("link", name="share-17-transcript")).to_have_count(0)
        await visit(page, "#/tasks/share-17-transcript", "Task")
        await expect(page.get_by_text("RabbitMQ routed it to a durable queue and confirmed it.")).to_be_visible()
        await visit(page, "#/audit", "Audit")
        await expect(page.get_by_role("cell", name=re.compile(r"^ada \(key:[0-9a-f]{8}\)$"))).to_be_visible()


async def test_hostile_names_and_texts_are_shown_as_they_are_on_every_page(
    browser: Browser, served: ServedConsole
) -> None:
    async with console_page(browser, served) as page:
        await sign_in(page, KEY)
        await page.get_by_label("Task id").fill(HOSTILE)
        await page.keyboard.press("Enter")
        await expect(page.get_by_text("attempt: returned 312")).to_have_count(3)
        await expect(page.locator(".id-line")).to_have_text(HOSTILE)
        await expect(page.get_by_role("region", name="Message")).to_contain_text(HOSTILE_TEXT)
        await page.get_by_role("button", name="Replay …").click()
        await expect(page.get_by_role("dialog")).to_contain_text(HOSTILE)
        await page.keyboard.press("Escape")
        for hash_, heading in (("#/", "Overview"), ("#/dead-letters", "Dead letters")):
            await visit(page, hash_, heading)
            await expect(page.get_by_role("link", name=HOSTILE)).to_be_visible()
        assert await serious(page) == []
        address = quote(f"#/dead-letters?text={HOSTILE_TEXT}", safe="#/?=")
        await visit(page, address, "Dead letters")
        await expect(page.get_by_label("Error text contains")).to_have_value(HOSTILE_TEXT)
        await expect(page.get_by_text("None like this.")).to_be_visible()
        assert await page.locator("img[src='x'], main script, svg[onload]").count() == 0


@pytest.mark.chaos
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing_serious_on_any_page(browser: Browser, served: ServedConsole, scheme: Scheme) -> None:
    pages = (
        ("#/", "Overview"),
        ("#/retry-queue", "Retry queue"),
        ("#/dead-letters", "Dead letters"),
        ("#/audit", "Audit"),
        ("#/tasks/share-42-transcript", "Task"),
    )
    found: dict[str, list[str]] = {}
    async with console_page(browser, served, scheme=scheme) as page:
        found["sign-in"] = await serious(page)
        await sign_in(page, KEY)
        for hash_, heading in pages:
            await visit(page, hash_, heading)
            await settled(page)
            found[heading] = await serious(page)
        await page.get_by_role("button", name="Replay …").click()
        await expect(page.get_by_role("dialog")).to_contain_text("Dry run")
        found["dialog"] = await serious(page)
    assert {name: faults for name, faults in found.items() if faults} == {}


async def test_on_a_phone_nothing_is_wider_than_the_screen(browser: Browser, served: ServedConsole) -> None:
    async with console_page(browser, served, size=PHONE) as page:
        await sign_in(page, KEY)
        for hash_, heading in (
            ("#/", "Overview"),
            ("#/dead-letters", "Dead letters"),
            (f"#/tasks/{'x' * 120}", "Task"),
        ):
            await visit(page, hash_, heading)
            await settled(page)
            assert await page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, heading


async def settled(page: Page) -> None:
    await expect(page.get_by_text("Loading …")).to_have_count(0)
    await page.wait_for_timeout(200)  # an answer that is there is drawn by then
