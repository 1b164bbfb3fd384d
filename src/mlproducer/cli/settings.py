"""`mlproducer settings`: every setting, what it is now, and where that comes from. Secrets are masked."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import AliasChoices, SecretStr

from mlproducer.cli.output import JsonOption, output
from mlproducer.settings import Settings
from mlproducer.urls.parts import shown


class Row(NamedTuple):
    env: str
    value: object
    source: str


def settings(*, as_json: JsonOption = False) -> None:
    """Show every setting: environment name, value, where it comes from. Secrets are masked."""
    out = output(as_json=as_json)
    now = Settings.load()
    rows = [_row(name, now) for name in Settings.model_fields]
    for words in now.mistyped():
        out.note(words, style="yellow")
    out.data({row.env: {"value": row.value, "source": row.source} for row in rows})
    out.table("", ("setting", "from", "value"), [(r.env, r.source, _shown(r.value)) for r in rows], last="fold")


def _row(name: str, now: Settings) -> Row:
    alias = Settings.model_fields[name].validation_alias
    env = str(alias.choices[0]) if isinstance(alias, AliasChoices) else name.upper()
    return Row(env, masked(getattr(now, name)), "set" if name in now.model_fields_set else "default")


def masked(value: object) -> object:
    """What may be shown of a value: URLs without their password, other secrets not at all."""
    match value:
        case SecretStr():
            text = value.get_secret_value()
            return shown(text) if "://" in text or text.startswith("/") else text and "***"
        case tuple():
            return [masked(item) for item in value]
        case bool() | int() | float() | None:
            return value
        case _:
            return str(value)


def _shown(value: object) -> str:
    match value:
        case None | "" | []:
            return "–"
        case list():
            return ", ".join(map(str, value))
        case bool():
            return "yes" if value else "no"
        case _:
            return str(value)
