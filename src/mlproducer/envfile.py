"""A `.env` file, read so that nothing in it is changed or dropped without a word.

python-dotenv takes it apart. What it would do silently is refused here, with file and line and never with a value: a
file of another encoding, a line of ours that it cannot read, and `${…}`, for which it puts in what stands in the
environment, or nothing, also within a password. Lines that are none of ours are left to their owners.
"""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from dotenv.parser import Binding, parse_stream
from msgspec import Struct

from mlproducer.errors import SettingsError

_NAME: Final = re.compile(r"\s*(?:export\s+)?'?([A-Za-z_][A-Za-z0-9_]*)")
_SINGLE_QUOTED: Final = re.compile(r"\s*(?:export\s+)?[^=]*=\s*'")
_ALIKE: Final = 0.85
"""How alike two names are, from 0 to 1, if one is taken for the other with a slip."""


class Line(Struct, frozen=True):
    """What a file gives to a name of ours."""

    value: str
    number: int


def read_env_file(path: Path, names: Collection[str]) -> Mapping[str, Line]:
    """The settings `names`, in small letters, that the file sets; none if there is no such file.

    Raises: SettingsError.
    """
    found: dict[str, Line] = {}
    for binding in parse_stream(io.StringIO(_text(path))):
        name, number = _named(binding)
        if name not in names:
            continue
        at = f"{path.absolute()}, line {number}"
        if binding.error:
            raise SettingsError(
                f"{at}: {name.upper()} cannot be read: a line is a name, = and the value, and a quote is closed"
            )
        if binding.value is None:
            continue
        if "${" in binding.value and not _SINGLE_QUOTED.match(binding.original.string):
            raise SettingsError(
                f"{at}: {name.upper()} has ${{…}} in it, and nothing is put in there: write the value itself. If these "
                "characters are part of it, put it in single quotes, or write %24%7B in a URL"
            )
        found[name] = Line(binding.value, number)
    return found


def names_in(path: Path) -> tuple[str, ...]:
    """All names that the file sets, whoever's they are. Raises: SettingsError."""
    bindings = parse_stream(io.StringIO(_text(path)))
    return tuple(binding.key for binding in bindings if binding.key is not None)


def meant(name: str, known: Collection[str]) -> str | None:
    """Which of the known names, in capitals, `name` is a slip of; None if it is one of them, or unlike all."""
    upper = name.upper()
    if upper in known:
        return None
    near = get_close_matches(upper, [each for each in known if each[:1] == upper[:1]], n=1, cutoff=_ALIKE)
    return near[0] if near else None


def _text(path: Path) -> str:
    if path.is_dir() and (path / "pyvenv.cfg").exists():
        return ""  # a virtual environment may have this name too
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return ""
    except IsADirectoryError:
        raise SettingsError(f"{path.absolute()} is a folder; settings are read from a file of this name") from None
    except OSError as error:
        raise SettingsError(f"{path.absolute()} cannot be read: {error.strerror or error}") from None
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in raw:
        raise SettingsError(f"{path.absolute()}, line 1: it is UTF-16 or no text at all: save it as UTF-8")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = raw.count(b"\n", 0, error.start) + 1
        raise SettingsError(f"{path.absolute()}, line {number}: it is not UTF-8: save the file as UTF-8") from None


def _named(binding: Binding) -> tuple[str, int]:
    """The name, in small letters, and the number of its line: a binding begins with the empty lines before it."""
    text, number = binding.original
    head = text[: len(text) - len(text.lstrip())]
    number += len(re.findall(r"\r\n|\n|\r", head))
    if binding.key is not None:
        return binding.key.lower(), number
    found = _NAME.match(text)
    return (found[1].lower() if found is not None else ""), number
