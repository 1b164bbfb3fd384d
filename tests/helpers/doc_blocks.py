"""Runs the code blocks of a page, in order, as its reader would.

Libraries for this (sybil, pytest-examples, mktestdocs) run the languages that they are told of and pass over the rest.
Here it is the other way round: a block in a language that nobody runs fails, unless it is listed with a reason. The
reading of Markdown is a library's (markdown-it-py).

The blocks of a page share one folder, one namespace and one broker:

    python   run in the namespace, with top-level await; with title="name.py" first written to the folder
    console  lines after `$ ` are run by bash in the folder; what stands between them must be printed, `…` is anything
    bash     run by bash in the folder
    toml     read, and written to the folder under its title; task types are read as ML_TASK_TYPES would be
    json     title="METHOD /path" is sent to the service, which must take it; without a title it must be a task
    text     title="prints" is what the python block before it must print, `…` is anything
    sql      run in PostgreSQL with the spool's tables, and rolled back
    mermaid  not here: `tests/docs/test_site.py` has a browser draw it
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx
import psycopg
from markdown_it import MarkdownIt
from sqlalchemy import create_engine, make_url

from mlproducer import Outbox, Settings, Task
from mlproducer.envelope.types import TaskTypes
from mlproducer.http import create_app
from mlproducer.testing.rabbitmq import free_port

PORTS: Final = ("3001", "8000")
"""What pages say; a test takes free ones."""
SECONDS: Final = 60.0
BROWSER: Final = frozenset({"mermaid"})


class BlockFailed(AssertionError):
    """Says page, line and heading, and what went wrong."""


@dataclass(frozen=True, slots=True)
class Block:
    page: str
    line: int
    heading: str
    language: str
    title: str
    text: str

    @property
    def name(self) -> tuple[str, str, str]:
        """By which an exception is listed: a line number would change with every edit."""
        return self.page, self.heading, self.language

    def __str__(self) -> str:
        return f"{self.page}:{self.line} ({self.language or 'no language'}, under {self.heading!r})"


@dataclass(frozen=True, slots=True)
class Exempt:
    """A block that cannot be run as it stands: why, and how it is checked all the same."""

    why: str
    check: Callable[[Block], None]


def blocks_of(page: str, text: str) -> list[Block]:
    """Every fence and every indented block. Raises: BlockFailed, for a fence that a reader sees and Markdown does not."""
    found: list[Block] = []
    heading = ""
    tokens = MarkdownIt().parse(text)
    for before, token in zip([None, *tokens], tokens, strict=False):
        line = token.map[0] + 1 if token.map else 0
        if before is not None and before.type == "heading_open":
            heading = token.content
        elif token.type == "fence":
            language, _, rest = token.info.strip().partition(" ")
            title = re.search(r'title="([^"]+)"', rest)
            found.append(Block(page, line, heading, language, title[1] if title else "", token.content))
        elif token.type == "code_block":
            found.append(Block(page, line, heading, "", "", token.content))
    fences = len(re.findall(r"^\s*(?:```|~~~)", text, flags=re.MULTILINE))
    seen = 2 * sum(token.type == "fence" for token in tokens)
    if fences != seen:
        raise BlockFailed(f"{page}: {fences} lines begin or end a code block, but only {seen} are read as such")
    return found


@dataclass
class Place:
    """Where the blocks of one page run. `texts` are replaced in every block, such as the default broker's URL."""

    folder: Path
    texts: Mapping[str, Callable[[], str]]
    postgres_url: Callable[[], str]
    namespace: dict[str, object] = field(default_factory=lambda: {"__name__": "__main__"})
    printed: str = ""
    ports: dict[str, str] = field(default_factory=lambda: {port: str(free_port()) for port in PORTS})

    def local(self, text: str) -> str:
        for told, make in self.texts.items():
            if told in text:
                text = text.replace(told, make())
        for told, free in self.ports.items():
            text = re.sub(rf"(?<=[: =]){told}\b", free, text)
        return text

    def told(self, output: str) -> str:
        """An output with what the page says in place of what was free."""
        for told, free in self.ports.items():
            output = output.replace(free, told)
        return output


def run_page(blocks: Iterable[Block], place: Place, exempt: Mapping[tuple[str, str, str], Exempt]) -> None:
    """Raises: BlockFailed."""
    with _importing_from(place.folder):
        for block in blocks:
            listed = exempt.get(block.name)
            try:
                if listed is not None:
                    listed.check(block)
                elif block.language not in BROWSER:
                    _run(block, place)
            except (Exception, SystemExit) as error:
                raise BlockFailed(f"{block}: {type(error).__name__}: {error}") from error


def _run(block: Block, place: Place) -> None:
    text = place.local(block.text)
    match block.language:
        case "python":
            _python(block, text, place)
        case "console":
            _console(text, place)
        case "bash":
            _console("".join(f"$ {line}\n" for line in text.splitlines() if line.strip()), place)
        case "toml":
            _toml(block, text, place)
        case "json":
            _json(block, text, place)
        case "sql":
            _sql(text, place)
        case "text" if block.title == "prints":
            if not _matches(text, place.printed):
                raise BlockFailed(f"the page says:\n{text}\nit printed:\n{place.printed}")
        case _:
            raise BlockFailed("nobody runs this language: choose another, or list the block as exempt, with a reason")


def _python(block: Block, text: str, place: Place) -> None:
    if block.title:
        place.folder.joinpath(block.title).write_text(text)
        place.namespace["__name__"] = Path(block.title).stem
    code = compile(text, str(block), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    stdout = io.StringIO()
    with contextlib.chdir(place.folder), contextlib.redirect_stdout(stdout):
        found = eval(code, place.namespace)  # noqa: S307  # our own pages
        if inspect.iscoroutine(found):
            asyncio.run(found)
    place.printed = stdout.getvalue()


def _matches(expected: str, printed: str) -> bool:
    pattern = re.escape(expected.strip()).replace("…", ".*?")
    return re.fullmatch(pattern, printed.strip(), flags=re.DOTALL) is not None


@dataclass
class _Command:
    line: str
    expected: str = ""


def _commands(text: str) -> list[_Command]:
    found: list[_Command] = []
    open_ended = False
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append(_Command(line[2:]))
        elif not found:
            raise BlockFailed("a console block begins with `$ ` and a command")
        elif open_ended:
            found[-1].line += "\n" + line
        else:
            found[-1].expected += line + "\n"
        open_ended = line.endswith("\\") and not found[-1].expected
    return found


def _console(text: str, place: Place) -> None:
    commands = _commands(text)
    mark = "==== the output of command"
    script = "set -eo pipefail\n" + "".join(f"echo '{mark}'\n{command.line}\n" for command in commands)
    output = place.folder / ".output"
    with output.open("wb") as sink:
        shell = subprocess.Popen(
            ["bash", "-c", script],
            cwd=place.folder,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = shell.wait(SECONDS)
            printed = place.told(output.read_text())  # before a service in the background says goodbye
        finally:
            _end_group(shell.pid)
    if code != 0:
        raise BlockFailed(f"exit code {code}:\n{printed}")
    for command, answer in zip(commands, printed.split(f"{mark}\n")[1:], strict=True):
        if command.expected and not _matches(place.told(command.expected), answer):
            raise BlockFailed(f"$ {command.line}\nthe page says:\n{command.expected}\nit printed:\n{answer}")


def _end_group(group: int) -> None:
    """What a block left running in the background ends with it; no group is left to outlive the test."""
    end = time.monotonic() + 15
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGTERM)
        while time.monotonic() < end:
            os.killpg(group, 0)
            time.sleep(0.02)
        os.killpg(group, signal.SIGKILL)


def _toml(block: Block, text: str, place: Place) -> None:
    table = tomllib.loads(text)
    path = place.folder / (block.title or "block.toml")
    path.write_text(text)
    if "task_types" in table:
        TaskTypes.from_toml(path)


def _json(block: Block, text: str, place: Place) -> None:
    value = json.loads(text)
    if not block.title:
        Task.model_validate(value)
        return
    method, path = block.title.split()
    answer = asyncio.run(_asked(method, path, value, place))
    if not answer.is_success:
        raise BlockFailed(f"{answer.status_code}: {answer.text}")


async def _asked(method: str, path: str, value: object, place: Place) -> httpx.Response:
    app = create_app(Settings.load(ml_data_dir=place.folder))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://127.0.0.1") as client,
    ):
        return await client.request(method, path, json=value)


def _sql(text: str, place: Place) -> None:
    url = place.postgres_url()
    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"))
    Outbox().create_tables(engine)
    engine.dispose()
    with psycopg.connect(url) as connection:
        connection.execute(text)
        connection.rollback()  # roles belong to the whole server


@contextlib.contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    """A block may import what an earlier one wrote to the folder; other pages must not find it."""
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", "") or "").startswith(f"{folder}/"):
                del sys.modules[name]


# How blocks are checked that cannot be run


def bash_reads(block: Block) -> None:
    """bash can parse each command, and no more is claimed."""
    text = re.sub(r"^\$ ", "", block.text, flags=re.MULTILINE)
    subprocess.run(["bash", "-n", "-c", text], check=True, capture_output=True, timeout=SECONDS)


def make_plans(block: Block) -> None:
    """make knows the target and would run it."""
    for line in block.text.splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        done = subprocess.run(
            ["make", "--dry-run", *words[1:]],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        if words[0] != "make" or done.returncode != 0:
            raise BlockFailed(f"{line}: {done.stderr}")
