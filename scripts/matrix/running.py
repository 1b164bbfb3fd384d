"""Runs a row: its commands one after the other, each with a log of its own and a line of progress."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from matrix.places import CHECKOUT, MACHINE_LIKE, VAR, Environment, Missing, celery54, environment, root, version
from matrix.plan import RELEASES, UNIT, Row
from matrix.results import Result, Step, broken, of_junit, of_reliability
from mlproducer.testing import rabbitmq
from mlproducer.testing.release import inside

_TICK_SECONDS: Final = 30.0


def run(row: Row, commit: str, jobs: int) -> Result:
    """To its end, whatever fails in it."""
    began, date = time.monotonic(), time.strftime("%F %H:%M", time.gmtime())
    try:
        match row.kind:
            case "broker":
                steps, versions = _broker(row, jobs)
            case "unit":
                steps, versions = _unit(row, jobs)
            case "system":
                steps, versions = _system()
    except Missing as missing:
        return Result(row.name, date, commit, missing=str(missing))
    return Result(row.name, date, commit, round(time.monotonic() - began), tuple(steps), versions)


def _broker(row: Row, jobs: int) -> tuple[list[Step], dict[str, str]]:
    release = RELEASES.get(row.broker)
    if release is None:
        raise Missing(f"no Debian release with RabbitMQ {row.broker} is known here: see RELEASES in scripts/matrix")
    made, older = environment(row.python, row.versions), celery54(row.python)
    place = root(release) if release else None
    if place is None and made.root is not None:
        raise Missing(f"Python {row.python} runs in a root of {made.root.name}, where the machine's RabbitMQ is not")
    found = rabbitmq.version(place)
    if not found.startswith(f"{row.broker}."):
        raise Missing(f"RabbitMQ {row.broker} was asked for, and {found or 'none'} is installed")
    more = {"CELERY54": str(older.folder)} | ({rabbitmq.ROOT: str(place)} if place else {})
    junit = _pytest(row, made, ["tests/amqp", "tests/integration"], jobs, more)
    steps = [
        _tests("tests/amqp", junit, "tests/amqp"),
        _tests("tests/integration", junit, "tests/integration"),
        _tests("newest Celery", junit, "tests/integration", "newest"),
        _tests("Celery 5.4", junit, "tests/integration", "5.4"),
        _reliability(row, made, more),
    ]
    return steps, {
        "RabbitMQ": found,
        "Python": version(made, "python"),
        "Celery": f"{version(made, 'celery')} and {version(older, 'celery')}",
    }


def _unit(row: Row, jobs: int) -> tuple[list[Step], dict[str, str]]:
    made = environment(row.python, row.versions)
    step = _tests("unit tests", _pytest(row, made, UNIT, jobs, {}))
    named = ("pydantic", "pydantic-settings", "structlog", "typer", "fastapi", "sqlalchemy")
    found = {name: version(made, name) for name in named}
    return [step], {"Python": version(made, "python"), "libraries": row.versions, **found}


def _system() -> tuple[list[Step], dict[str, str]]:
    """A clone of this commit within Debian 13, and there what README says: `make test`."""
    place, clone, junit = root("trixie"), VAR / "debian13", VAR / "debian13.xml"
    shutil.rmtree(clone, ignore_errors=True)
    subprocess.run(["git", "clone", "-q", str(CHECKOUT), str(clone)], check=True)
    bare = Environment(clone / ".venv", place)
    command = inside(place, ["make", "test", f"ARGS=--junitxml={junit}"], MACHINE_LIKE)
    code = _logged("make test on Debian 13", "make test", command, bare.variables(), clone, junit)
    steps = [_tests("tests on real servers", junit)]
    steps += [] if code == 0 else [broken("make test", f"make test ended with exit code {code}: see the log")]
    return steps, {"RabbitMQ": rabbitmq.version(place), "Python": version(bare, "python")}


def _pytest(row: Row, made: Environment, paths: Sequence[str], jobs: int, more: Mapping[str, str]) -> Path:
    junit = VAR / f"{_file(row.name)}.xml"
    options = ["-m", "not chaos", "-p", "no:cacheprovider", "-n", str(jobs), "--dist", "loadfile", "--timeout", "300"]
    # The newest pytest may find fault with the plugin that an old anyio brings; none of ours is asked for by it.
    options += ["-p", "no:anyio"] if row.versions == "lowest" else []
    # What an old version of a library does that a new one of another calls outdated is no fault of ours.
    options += ["-W", "default::DeprecationWarning"] if row.versions == "lowest" else []
    command = made.command("pytest", "-q", *options, f"--junitxml={junit}", *paths)
    _logged(row.name, "pytest", command, {**made.variables(), **more}, CHECKOUT, junit)
    return junit


def _reliability(row: Row, made: Environment, more: Mapping[str, str]) -> Step:
    command = made.command("mlproducer", "reliability", "all", "--json")
    log = VAR / f"{_file(row.name)}.reliability.jsonl"
    code = _logged(row.name, "reliability all", command, {**made.variables(), **more}, VAR, log)
    step = of_reliability("reliability all", log.read_text())
    return step if code == 0 or step.failed else broken(step.name, f"ended with exit code {code}")


def _tests(name: str, junit: Path, *parts: str) -> Step:
    return of_junit(name, junit, *parts) if junit.exists() else broken(name, "pytest ended without a report")


def _logged(row: str, what: str, command: list[str], env: Mapping[str, str], folder: Path, report: Path) -> int:
    """Runs it, says from time to time where it is; the exit code. `report` is not left over from an earlier run."""
    report.unlink(missing_ok=True)
    # What tells by its standard output has that as its report.
    log = report if report.suffix == ".jsonl" else report.with_suffix(".log")
    began = time.monotonic()
    # A shell's background job ignores Ctrl-C, and so would the tests of Ctrl-C that it starts.
    heard = ["env", "--default-signal=INT", *command]
    with (
        log.open("wb") as out,
        subprocess.Popen(
            heard, cwd=folder, env=dict(env), stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            while True:
                try:
                    code = process.wait(_TICK_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    said = log.read_bytes()[-300:].decode(errors="replace").strip().splitlines() or [""]
                    print(f"  {row}: {what}, {time.monotonic() - began:.0f} s: {said[-1][-60:].strip()}", flush=True)
        except BaseException:
            process.terminate()
            raise
    print(f"  {row}: {what} took {time.monotonic() - began:.0f} s, exit code {code} ({log})", flush=True)
    return code


def _file(name: str) -> str:
    return name.lower().replace(", ", "-").replace(" ", "-")
