"""The site: built with warnings as errors, read without a network, its diagrams drawn by a browser."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BROWSER = ("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND")


def build(site: Path, config: Path = ROOT / "mkdocs.yml") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", config, "--site-dir", site],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = tmp_path_factory.mktemp("site")
    done = build(site)
    assert done.returncode == 0, done.stderr
    return site


def test_every_page_is_built_from_its_place(site: Path) -> None:
    for page in ("index", "design", "integration", "implementation", "api", "adr/index", "bench", "examples"):
        assert (site / f"{page}.html").is_file(), page
    shown = (site / "source/examples/fastapi_app.py.html").read_text()
    assert "async def save(" in re.sub(r"<[^>]*>", "", shown), "a source that a page links to is a page"


def test_no_page_asks_another_server_for_anything(site: Path) -> None:
    asked = re.compile(r"<(?:script|img|iframe|link|source)\b[^>]*\b(?:src|href)=\"?(?:https?:)?//[^>]*")
    for page in site.rglob("*.html"):
        assert asked.findall(page.read_text()) == [], page
    for sheet in site.rglob("*.css"):
        assert re.findall(r"url\(\"?(?:https?:)?//[^)]*", sheet.read_text()) == [], sheet


def test_a_browser_draws_every_diagram_without_a_network(site: Path, tmp_path: Path) -> None:
    for name, drawings in (("index", 1), ("implementation", 4)):
        page = site / f"{name}.html"
        assert page.read_text().count('<pre class="mermaid">') == drawings
        done = subprocess.run(
            [*BROWSER, f"--user-data-dir={tmp_path}", "--virtual-time-budget=20000", "--dump-dom", page.as_uri()],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        # Material puts a drawing in the place of its text, and leaves the text where there is none.
        assert (done.stdout.count('<div class="mermaid">'), done.stdout.count('<pre class="mermaid"')) == (drawings, 0)


def test_a_link_to_nothing_fails_the_build(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# A\n\n[nothing](nowhere.md)\n")
    text = (ROOT / "mkdocs.yml").read_text()
    kept = re.sub(r"^(nav|hooks|plugins|not_in_nav):.*?(?=^\w)", "", text, flags=re.DOTALL | re.MULTILINE)
    (tmp_path / "mkdocs.yml").write_text(kept)
    done = build(tmp_path / "site", tmp_path / "mkdocs.yml")
    assert done.returncode != 0
    assert "nowhere.md" in done.stderr
