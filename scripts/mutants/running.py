"""Runs tests in a copy of the checkout, as it is or made wrong by a patch."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from mutants.patches import CHECKOUT, BadPatch, Mutant, apply

TEST_SECONDS: Final = 60
"""For one test; with more it counts as failed, as a wait that never ends is what many wrong versions do."""
LEFT_OUT: Final = shutil.ignore_patterns(".git", ".venv*", "var", "site", ".*_cache", ".hypothesis", ".coverage*")
_TESTS_FAILED: Final = 1
"""Of pytest's exit codes. 0 is: all passed; any other: they could not be run as asked."""


class Verdict(StrEnum):
    SEEN = "seen"
    HUNG = "seen (it hung, and was killed)"
    SURVIVED = "SURVIVED"
    BROKEN = "NOT TRIED"


@dataclass(frozen=True, slots=True)
class Result:
    """`said` names the test that failed, or what went wrong."""

    verdict: Verdict
    said: str
    seconds: float


def try_mutant(mutant: Mutant, limit: float) -> Result:
    """Do the tests see it? `limit` is the seconds that they may take."""
    began = time.monotonic()
    with copy() as place:
        try:
            apply(mutant, place)
        except BadPatch as error:
            return Result(Verdict.BROKEN, str(error), 0.0)
        code, output = run_tests(mutant.tests, place, limit)
    seconds = time.monotonic() - began
    match code:
        case None:
            return Result(Verdict.HUNG, f"{limit:.0f} s were over", seconds)
        case 0:
            return Result(Verdict.SURVIVED, "its tests passed", seconds)
        case _ if code == _TESTS_FAILED:
            return Result(Verdict.SEEN, first_failure(output), seconds)
        case _:
            return Result(Verdict.BROKEN, f"pytest ended with {code}: {output.strip()[-300:]}", seconds)


def try_unpatched(tests: Sequence[str], limit: float) -> str:
    """The same tests on the code as it is: empty if all pass, else what they said."""
    with copy() as place:
        code, output = run_tests(tests, place, limit)
    if code is None:
        return f"they did not end within {limit:.0f} s"
    return "" if code == 0 else output[-3_000:]


def first_failure(output: str) -> str:
    found = re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
    return found[1].rpartition("::")[2] if found else "a test failed"


@contextmanager
def copy() -> Iterator[Path]:
    """Of what is tested and its tests, with compiled modules: copies keep their times, so those are good there too."""
    with tempfile.TemporaryDirectory(prefix="mutant-", ignore_cleanup_errors=True) as folder:
        place = Path(folder) / "checkout"
        shutil.copytree(CHECKOUT, place, ignore=LEFT_OUT, symlinks=True)
        yield place


def run_tests(tests: Sequence[str], place: Path, limit: float) -> tuple[int | None, str]:
    """The exit code of pytest, None if it took longer than `limit` seconds; and what it said."""
    options = ["-q", "-x", "-p", "no:cacheprovider", f"--timeout={TEST_SECONDS}", "--durations=0"]
    command = [sys.executable, "-m", "pytest", *options, "--durations-min=9999", "-k", "not uvloop", *tests]
    env = {**os.environ, "PYTHONPATH": str(place / "src")}  # before the checkout's own, which is installed
    with subprocess.Popen(
        command,
        cwd=place,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=limit)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)  # its own session: whatever it started goes with it
            process.communicate()
            if isinstance(error, subprocess.TimeoutExpired):
                return None, ""
            raise
    return process.returncode, output
