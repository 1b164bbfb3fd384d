"""A browser at the console: Debian's Chromium, driven by Playwright, and strict about what the page says of itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any, Literal

from playwright.async_api import Browser, ConsoleMessage, Page, async_playwright, expect

from console_bench import ServedConsole

CHROMIUM = "/usr/bin/chromium"
AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text()
Scheme = Literal["light", "dark"]
DESKTOP = (1280, 800)
PHONE = (390, 844)

expect.set_options(timeout=10_000)


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-dev-shm-usage"],  # tests run as root, and in small containers
        )
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def console_page(
    browser: Browser, served: ServedConsole, *, scheme: Scheme = "light", size: tuple[int, int] = DESKTOP
) -> AsyncIterator[Page]:
    """A page of its own browser profile, on the console. At the end nothing may have gone wrong in it: no error, and
    nothing that its policy refused."""
    wrong: list[str] = []

    def said(message: ConsoleMessage) -> None:
        # A call that is refused on purpose (401, 403) is no fault of the page.
        if message.type in {"error", "warning"} and not message.text.startswith("Failed to load resource"):
            wrong.append(message.text)

    context = await browser.new_context(
        color_scheme=scheme, viewport={"width": size[0], "height": size[1]}, reduced_motion="reduce", locale="en-GB"
    )
    page = await context.new_page()
    page.on("console", said)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: wrong.append(f"a script asked: {dialog.message}"))
    await page.goto(served.url)
    try:
        yield page
    finally:
        await context.close()
    assert wrong == []


async def sign_in(page: Page, key: str) -> None:
    await page.get_by_label("API key").fill(key)
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.locator("#live-text")).to_have_text("Live")


async def visit(page: Page, hash_: str, heading: str) -> None:
    await page.evaluate("hash => { location.hash = hash }", hash_)
    await expect(page.get_by_role("heading", level=1)).to_have_text(heading)


async def serious(page: Page) -> list[str]:
    """What axe finds on the page as it is now that is serious or critical."""
    await page.evaluate(AXE)
    found: dict[str, Any] = await page.evaluate("axe.run({ resultTypes: ['violations'] })")
    assert len(found["passes"]) > 10, "it looked"
    return [
        f"{each['id']}: {node['html']} {node['failureSummary']}"
        for each in found["violations"]
        if each["impact"] in {"serious", "critical"}
        for node in each["nodes"]
    ]


async def tab_to(page: Page, role: str, name: str, most: int = 60) -> None:
    """Press Tab until the focus is there: what cannot be reached so cannot be used with a keyboard."""
    wanted = page.get_by_role(role, name=name)  # type: ignore[arg-type]  # a string of Playwright's own list
    for _ in range(most):
        await page.keyboard.press("Tab")
        if await wanted.evaluate("node => node === document.activeElement"):
            return
    raise AssertionError(f"{most} times Tab did not lead to {role} {name}")
