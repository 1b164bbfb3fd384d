"""What is known of wrong versions from an earlier run, which was stopped or met one that survived.

It is good as long as neither the patch nor the code nor its tests changed; a file in `var`, which git ignores.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Final

from mutants.patches import CHECKOUT, Mutant
from mutants.running import Result, Verdict

KEPT: Final = CHECKOUT / "var" / "mutants.json"
SHARED: Final = ("src", "tests/helpers", "tests/conftest.py", "scripts/mutants")
"""What any result depends on."""


class Kept:
    """Written after each result, so that a run that is stopped loses none."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known: dict[str, dict[str, object]] = json.loads(file.read_text()) if file.exists() else {}

    def seen(self, mutant: Mutant) -> Result | None:
        """Of this very version. Others are tried anew."""
        known = self._known.get(mutant.name)
        if known is None or known["of"] != digest(mutant.patch, mutant.tests):
            return None
        return Result(Verdict.SEEN, str(known["said"]), float(str(known["seconds"])))

    def add(self, mutant: Mutant, result: Result) -> None:
        self._known.pop(mutant.name, None)
        if result.verdict is Verdict.SEEN:
            self._known[mutant.name] = {"of": digest(mutant.patch, mutant.tests), **asdict(result)}
        self._write()

    def passed(self, tests: Iterable[str]) -> set[str]:
        """Of these, those that passed on the code as it is now."""
        return {test for test in tests if self._known.get(test, {}).get("of") == digest(None, (test,))}

    def add_passed(self, tests: Iterable[str]) -> None:
        self._known |= {test: {"of": digest(None, (test,))} for test in tests}
        self._write()

    def _write(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text(json.dumps(self._known, indent=1))


def digest(patch: Path | None, tests: Iterable[str]) -> str:
    """Of all that the result depends on."""
    files = sorted({test.partition("::")[0] for test in tests})
    parts = [b"" if patch is None else patch.read_bytes(), *(_of(each).encode() for each in (*SHARED, *files))]
    return sha256(b"".join(parts)).hexdigest()


@cache
def _of(path: str) -> str:
    place = CHECKOUT / path
    found = [place] if place.is_file() else sorted(place.rglob("*.*"))
    read = sha256()
    for each in found:
        if each.is_file() and each.suffix != ".pyc":
            read.update(str(each).encode() + each.read_bytes())
    return read.hexdigest()
