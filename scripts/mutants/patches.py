"""The patches of `tests/mutants`: a first line for people, then a unified diff against `src`.

    A lease is held for a tenth of its time | tests/engine/test_settled_once.py::test_the_times_of_a_lease
    --- a/src/mlproducer/delivery/drain.py
    +++ b/src/mlproducer/delivery/drain.py
    @@ -1,3 +1,3 @@
    ...

What is wrong with this version, a bar, and the tests that see it, in the words of pytest's command line.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CHECKOUT: Final = Path(__file__).parent.parent.parent
FOLDER: Final = CHECKOUT / "tests" / "mutants"


class BadPatch(Exception):
    """A patch that nothing can be said of; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """`wrong` in plain words; `tests` are expected to fail with it."""

    patch: Path
    wrong: str
    tests: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.patch.stem


def read(patch: Path) -> Mutant:
    """Raises: BadPatch."""
    with patch.open() as lines:
        wrong, _, tests = next(lines, "").partition("|")
    if not wrong.strip() or not tests.split():
        raise BadPatch(f"{patch.name}: its first line must be: what is wrong | tests/which_see.py::it ...")
    return Mutant(patch, wrong.strip(), tuple(tests.split()))


def chosen(folder: Path, words: list[str]) -> list[Mutant]:
    """Those whose name has one of the words; without words all. Raises: BadPatch."""
    every = [read(patch) for patch in sorted(folder.glob("*.patch"))]
    return [each for each in every if not words or any(word in each.name for word in words)]


def apply(mutant: Mutant, place: Path, *, check: bool = False) -> None:
    """Make the code in `place` wrong; `check` only tries. Raises: BadPatch."""
    # In a folder of another repository git would pass over every file without a word.
    env = {**os.environ, "GIT_CEILING_DIRECTORIES": str(place.parent)}
    command = ["git", "apply", "-C1", *(["--check"] if check else []), str(mutant.patch.resolve())]
    done = subprocess.run(command, cwd=place, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BadPatch(
            f"{mutant.name} no longer applies: {' '.join(done.stderr.split())}. Make the same mistake in today's code "
            f"and write its diff there (`git diff -U1 src`)"
        )
