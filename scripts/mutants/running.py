"""Runs tests in a copy of the checkout, as it is or made wrong by a patch. Nothing that they start or write stays."""

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
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from threading import Event
from typing import Final

from mutants.patches import CHECKOUT, BadPatch, Mutant, apply

TEST_SECONDS: Final = 60
"""For one test without its fixtures, whose servers start slowly on a busy machine. With more it counts as failed: many
wrong versions wait for ever."""
LEFT_OUT: Final = shutil.ignore_patterns(".git", ".venv*", "var", "site", ".*_cache", ".hypothesis", ".coverage*")
_TESTS_FAILED: Final = 1
"""Of pytest's exit codes. 0 is: all passed; any other: they could not be run as asked."""
_LOOK: Final = 0.2
"""Seconds between two looks whether the tests ended, or should."""


class Verdict(StrEnum):
    SEEN = "seen"
    SURVIVED = "SURVIVED"
    BROKEN = "NOT TRIED"


@dataclass(frozen=True, slots=True)
class Result:
    """`said` names the test that failed, or what went wrong."""

    verdict: Verdict
    said: str
    seconds: float


class Stopped(Exception):
    """Somebody asked to stop: what was under way tells nothing."""


def try_mutant(mutant: Mutant, limit: float, stop: Event | None = None) -> Result:
    """Do the tests see it? `limit` is the seconds that they may take. Raises: Stopped."""
    began = time.monotonic()
    with copy() as place:
        try:
            apply(mutant, place)
        except BadPatch as error:
            return Result(Verdict.BROKEN, str(error), 0.0)
        code, output = run_tests(mutant.tests, place, limit, stop)
    seconds, failed = time.monotonic() - began, first_failure(output)
    match code:
        case None:
            return Result(Verdict.BROKEN, f"its tests did not end within {limit:.0f} s (--limit)", seconds)
        case 0:
            return Result(Verdict.SURVIVED, "its tests passed", seconds)
        case _ if code == _TESTS_FAILED and failed:
            return Result(Verdict.SEEN, failed, seconds)
        case _:  # a fixture that fails, such as a server that does not start, is no test that sees something
            return Result(Verdict.BROKEN, f"pytest ended with {code}: {output.strip()[-300:]}", seconds)


def try_unpatched(tests: Sequence[str], limit: float, stop: Event | None = None) -> str:
    """The same tests on the code as it is: empty if all pass, else what they said. Raises: Stopped."""
    with copy() as place:
        code, output = run_tests(tests, place, limit, stop)
    if code is None:
        return f"they did not end within {limit:.0f} s"
    return "" if code == 0 else output[-3_000:]


def first_failure(output: str) -> str:
    """The name of the first test that failed; empty if none did."""
    found = re.search(r"^FAILED (\S+)", output, re.MULTILINE)
    return found[1].rpartition("::")[2] if found else ""


@contextmanager
def copy() -> Iterator[Path]:
    """Of what is tested and its tests, with compiled modules: copies keep their times, so those are good there too."""
    with tempfile.TemporaryDirectory(prefix="mutant-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)  # PostgreSQL runs as a user of its own, and must get to what it keeps here
        place = Path(folder) / "checkout"
        shutil.copytree(CHECKOUT, place, ignore=LEFT_OUT, symlinks=True)
        (Path(folder) / "tmp").mkdir(mode=0o755)
        try:
            yield place
        finally:
            _end_all_of(Path(folder))


def run_tests(tests: Sequence[str], place: Path, limit: float, stop: Event | None = None) -> tuple[int | None, str]:
    """The exit code of pytest, None if it took longer than `limit` seconds; and what it said. Raises: Stopped."""
    options = ["-q", "-x", "-p", "no:cacheprovider", f"--timeout={TEST_SECONDS}", "-o", "timeout_func_only=true"]
    quiet = ["--durations=0", "--durations-min=9999", "-k", "not uvloop"]
    command = [sys.executable, "-m", "pytest", *options, *quiet, *tests]
    # Its `src` before the checkout's own, which is installed; its own folder for all that tests put aside.
    env = {**os.environ, "PYTHONPATH": str(place / "src"), "TMPDIR": str(place.parent / "tmp")}
    said, end = place.parent / "said", time.monotonic() + limit
    with said.open("wb") as out:
        process = subprocess.Popen(
            command,
            cwd=place,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = _ended(process, end, stop)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return code, said.read_text(errors="replace")


def _ended(process: subprocess.Popen[bytes], end: float, stop: Event | None) -> int | None:
    while time.monotonic() < end:
        if stop is not None and stop.is_set():
            raise Stopped
        with suppress(subprocess.TimeoutExpired):
            return process.wait(_LOOK)
    return None


def _end_all_of(folder: Path) -> None:
    """Tests that were killed leave servers behind, each in a session of its own. All of them have this folder in their
    environment, or work in it, and nobody else has: its name was drawn for this run.
    """
    mark = os.fsencode(folder)
    for each in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            works = os.fsencode((each / "cwd").readlink())
            if works.startswith(mark) or mark in (each / "environ").read_bytes():
                os.kill(int(each.name), signal.SIGKILL)
