"""A hook of MkDocs: what the site shows besides the pages of docs/.

- README.md (as the home page), DESIGN.md and others stay where people and GitHub look for them, and are pages here too.
- A source file that a page links to becomes a page, so that the site needs no other server.
- mermaid.js comes from a package that is installed with the tools; Material would take it from a CDN.

Links are written as they are right in the repository, and turned into the site's here.
"""

from __future__ import annotations

import posixpath
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PAGES: Final = {
    "README.md": "index.md",
    "DESIGN.md": "design.md",
    "CHANGELOG.md": "changelog.md",
    "bench/README.md": "bench.md",
    "examples/README.md": "examples.md",
}
"""In the repository → on the site."""
MERMAID: Final = "assets/mermaid.js"
LINK: Final = re.compile(r"(?<=\]\()([^)#\s]+)(?=[)#])")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    config.extra_javascript.append(MERMAID)
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    root = Path(config.config_file_path).parent
    for origin, place in PAGES.items():
        files.append(File.generated(config, place, abs_src_path=str(root / origin)))
    for page in list(files.documentation_pages()):
        for target in LINK.findall(page.content_string):
            origin = _from_root(target, page.src_uri)
            if _is_source(root, origin) and files.get_file_from_path(_site_of(origin)) is None:
                files.append(File.generated(config, _site_of(origin), content=_shown(root / origin, origin)))
    spec = find_spec("mermaidx")
    if spec is None or spec.origin is None:
        raise PluginError("the package mermaidx is not installed: run make docs, which installs it")
    files.append(File.generated(config, MERMAID, abs_src_path=str(Path(spec.origin).parent / "assets" / "mermaid.js")))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    root = Path(config.config_file_path).parent
    src_uri = page.file.src_uri

    def on_site(found: re.Match[str]) -> str:
        origin = _from_root(found[1], src_uri)
        if "://" in found[1] or not (root / origin).exists():
            return found[1]  # MkDocs says what is wrong with it
        place = _site_of(origin)
        if files.get_file_from_path(place) is None:
            return found[1]
        return posixpath.relpath(place, posixpath.dirname(src_uri))

    return LINK.sub(on_site, markdown)


def _from_root(target: str, src_uri: str) -> str:
    """The path in the repository of what a page links to."""
    home = {place: origin for origin, place in PAGES.items()}.get(src_uri, f"docs/{src_uri}")
    return posixpath.normpath(posixpath.join(posixpath.dirname(home), target))


def _site_of(origin: str) -> str:
    if origin in PAGES:
        return PAGES[origin]
    if origin.startswith("docs/"):
        return origin.removeprefix("docs/")
    return f"source/{origin}.md"


def _is_source(root: Path, origin: str) -> bool:
    return not origin.startswith(("docs/", "..")) and origin not in PAGES and (root / origin).is_file()


def _shown(path: Path, origin: str) -> str:
    language = path.suffix.removeprefix(".")
    return f"# {origin}\n\n````{language}\n{path.read_text(encoding='utf-8')}````\n"
