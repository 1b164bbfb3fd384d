"""Every code block of the README and the documents is run, on a real broker; and a broken one is noticed."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from doc_blocks import Block, BlockFailed, Exempt, Place, bash_reads, blocks_of, make_plans, run_page
from private_redis import PrivateRedis

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("*.md", "docs/**/*.md", "bench/*.md", "examples/*.md")
    for path in ROOT.glob(pattern)
)
BLOCKS = {page: blocks_of(page, (ROOT / page).read_text()) for page in PAGES}

SOURCES = ROOT / "src" / "mlproducer"


def names_modules(block: Block) -> None:
    """Each folder and module of the map is there; each module of the core and of the engine is on the map."""
    folder, named = SOURCES, set[Path]()
    for line in block.text.splitlines()[1:]:
        if line.startswith("    "):
            named |= {folder / f"{cell.split()[0]}.py" for cell in re.split(r"\s{2,}(?=\w+\s{2,})", line.strip())}
        elif (found := re.match(r"  (\w+)/ ", line)) is not None:
            folder = SOURCES / found[1]
            named.add(folder)
    assert {path for path in named if not path.exists()} == set()
    for part in ("core", "delivery"):
        there = set(SOURCES.joinpath(part).glob("[a-z]*.py"))
        assert there - named == set(), f"not on the map: {there - named}"


def patch_is(block: Block) -> None:
    """Its file is there."""
    (changed,) = re.findall(r"^--- a/(\S+)$", block.text, re.MULTILINE)
    assert (ROOT / changed).is_file()


EXEMPT = {
    ("DESIGN.md", "The map", "text"): Exempt("a picture of the tree", names_modules),
    ("DESIGN.md", "What the tests are worth", "text"): Exempt(
        "the head of a patch; tests/platform applies each", patch_is
    ),
    ("docs/monitoring.md", "All together with Docker", "console"): Exempt(
        "there is no Docker engine where the tests run; the files are checked by tests/monitoring", bash_reads
    ),
    ("README.md", "Two commands", "console"): Exempt(
        "`make run` is run by tests/cli/test_quickstart.py, and `make test` is what runs this", make_plans
    ),
    ("examples/README.md", "The worker", "console"): Exempt(
        "tests/cli/test_quickstart.py starts this worker, and another here would only wait for tasks", bash_reads
    ),
    ("examples/README.md", "How `speech.wav` was made", "console"): Exempt(
        "espeak-ng and sox are needed once in the life of the project, not by every machine that tests it", bash_reads
    ),
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Place]:
    def redis() -> str:
        return stack.enter_context(PrivateRedis(tmp_path)).url()

    url = request.getfixturevalue("vhost_url")
    place = Place(
        tmp_path,
        {"amqp://ml:ml_password@localhost:5672/": lambda: url, "redis://localhost:6379/0": redis},
        lambda: str(request.getfixturevalue("postgres_url")),
    )
    for name, value in {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RABBITMQ_URL": url,
        "ML_DATA_DIR": str(tmp_path),
        "ML_PORT": place.ports["3001"],
        "ML_LOG_LEVEL": "error",
        "ML_SHUTDOWN_TIMEOUT": "2",
    }.items():
        monkeypatch.setenv(name, value)
    with ExitStack() as stack:
        yield place


@pytest.mark.parametrize("page", [page for page in PAGES if any(b.language != "mermaid" for b in BLOCKS[page])])
def test_the_blocks_of_a_page_run(page: str, place: Place) -> None:
    run_page(BLOCKS[page], place, EXEMPT)


def test_every_exemption_is_of_a_block_that_there_is() -> None:
    names = {block.name for blocks in BLOCKS.values() for block in blocks}
    assert set(EXEMPT) - names == set()


def bench(folder: Path, postgres_url: str = "") -> Place:
    return Place(folder, {}, lambda: postgres_url)


BROKEN = {
    "python that raises": "```python\n1 / 0\n```",
    "python that does not parse": "```python\ndef f(:\n```",
    "python that awaits what fails": "```python\nimport asyncio\n\nawait asyncio.wait_for(asyncio.Event().wait(), 0.01)\n```",
    "python that exits": "```python\nraise SystemExit(0)\n```",
    "a command that fails": "```console\n$ true\n$ false\n$ true\n```",
    "a command in a pipe that fails": "```bash\nfalse | true\n```",
    "a command that prints something else": "```console\n$ echo one\ntwo\n```",
    "a command that prints more": "```console\n$ printf '1\\n2\\n'\n1\n```",
    "a console block without a prompt": "```console\ntrue\n```",
    "toml that does not parse": "```toml\na = \n```",
    "task types that are wrong": '```toml\n[task_types.x.routes.api]\nqueue = "q"\n```',
    "json that does not parse": "```json\n{,}\n```",
    "json that is no task": '```json\n{"task_type": "embed_vectors"}\n```',
    "promql that does not parse": "```promql\nsum(ml_producer_dlq_size\n```",
    "promql of a metric that there is not": "```promql\nml_producer_dlq_length > 0\n```",
    "a language that nobody runs": "```ruby\nputs 1\n```",
    "python that prints something else": '```python\nprint(1)\n```\n\n```text title="prints"\n2\n```',
    "text that nobody prints": "```text\n2\n```",
    "no language": "```\nls\n```",
    "an indented block": "words\n\n    ls\n",
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_block_is_noticed(text: str, tmp_path: Path) -> None:
    with pytest.raises(BlockFailed, match=r"page.md:\d+ \(.*under 'Heading'"):
        run_page(blocks_of("page.md", f"# Heading\n\n{text}\n"), bench(tmp_path), {})


def test_a_block_that_the_service_refuses_is_noticed(place: Place) -> None:
    text = '# A\n\n```json title="POST /api/ml/tasks"\n{"task_type": "embed_vectors", "payload": {}}\n```\n'
    with pytest.raises(BlockFailed, match="422"):
        run_page(blocks_of("page.md", text), place, {})
    good = text.replace('"payload": {}', '"payload": {"share_id": "7", "content": "x"}')
    run_page(blocks_of("page.md", good), place, {})


def test_sql_that_fails_is_noticed_and_leaves_nothing(tmp_path: Path, postgres_url: str) -> None:
    place = bench(tmp_path, postgres_url)
    run_page(blocks_of("page.md", "```sql\nCREATE ROLE docs_role; DELETE FROM mlproducer_waiting;\n```"), place, {})
    run_page(blocks_of("page.md", "```sql\nCREATE ROLE docs_role;\n```"), place, {})
    with pytest.raises(BlockFailed, match="nowhere"):
        run_page(blocks_of("page.md", "```sql\nSELECT * FROM nowhere;\n```"), place, {})


def test_a_fence_that_markdown_does_not_see_is_noticed() -> None:
    with pytest.raises(BlockFailed, match=r"page\.md: 2 lines"):
        blocks_of("page.md", '=== "tab"\n\n    ```python\n    1 / 0\n    ```\n')


def test_blocks_share_their_page_and_no_other(tmp_path: Path) -> None:
    first = (
        '```python title="docs_part.py"\nx = 1\n```\n\n```python\nfrom docs_part import x as y\n\nassert x == y\n```'
    )
    run_page(blocks_of("page.md", first + "\n\n```console\n$ cat docs_part.py\nx = 1\n```"), bench(tmp_path), {})
    assert "docs_part" not in sys.modules
    with pytest.raises(BlockFailed, match="NameError"):
        run_page(blocks_of("other.md", "```python\nprint(x)\n```"), bench(tmp_path), {})


def test_what_a_block_leaves_in_the_background_ends_with_it(tmp_path: Path) -> None:
    page = "```console\n$ sleep 60 &\n$ echo $! > pid\n```\n"
    run_page(blocks_of("page.md", page), bench(tmp_path), {})
    assert not Path("/proc", (tmp_path / "pid").read_text().strip(), "exe").exists()


def test_an_exempt_block_is_checked_all_the_same(tmp_path: Path) -> None:
    page = blocks_of("page.md", "# A\n\n```console\n$ if then\n```\n\n# B\n\n```console\n$ make nothing\n```")
    for block, check in zip(page, (bash_reads, make_plans), strict=True):
        with pytest.raises(BlockFailed):
            run_page([block], bench(tmp_path), {block.name: Exempt("a test", check)})
