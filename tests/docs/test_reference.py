"""The documents name what there is."""

from __future__ import annotations

from pathlib import Path

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
