"""The documents name what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import AliasChoices
from typer.main import get_command

from mlproducer import Settings
from mlproducer.cli.app import app
from mlproducer.http import create_app

ROOT = Path(__file__).parents[2]
REFERENCE = (ROOT / "docs" / "reference.md").read_text()


def test_every_setting_is_in_the_reference() -> None:
    names = []
    for field in Settings.model_fields.values():
        assert isinstance(field.validation_alias, AliasChoices)
        names.append(str(field.validation_alias.choices[0]))
    assert [name for name in names if f"| `{name}` |" not in REFERENCE] == []


def test_every_call_is_in_the_reference(tmp_path: Path) -> None:
    paths = create_app(Settings.load(ml_data_dir=tmp_path)).openapi()["paths"]
    assert [path for path in paths if path not in REFERENCE] == []


def test_every_command_is_in_the_reference() -> None:
    commands = getattr(get_command(app), "commands", {})
    assert commands
    assert [name for name in commands if f"`mlproducer {name}" not in REFERENCE] == []


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/reference.md",
        "docs/durability.md",
        "docs/workers.md",
        "docs/analytics.md",
        "bench/README.md",
        "examples/README.md",
    ],
)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if "://" not in target:
            assert (ROOT / page).parent.joinpath(target).exists(), f"{page} links to {target}"


async def test_the_ten_lines_of_the_readme_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vhost_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    monkeypatch.setenv("RABBITMQ_URL", vhost_url)
    monkeypatch.setenv("ML_DATA_DIR", str(tmp_path))
    names: dict[str, object] = {}
    exec(block.replace("asyncio.run(main())", ""), names)  # noqa: S102  # our own README
    main = names["main"]
    assert callable(main)
    await main()
    assert re.match(r"(confirmed|spooled) [0-9a-f-]{36}", capsys.readouterr().out)
