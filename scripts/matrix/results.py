"""What a row's run said: read from the tools' own reports, kept in a file between runs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self
from xml.etree import ElementTree as ET

from matrix.plan import Row


@dataclass(frozen=True, slots=True)
class Step:
    """One command of a row. `counts` are tests, or scenarios; `failures` name what failed."""

    name: str
    passed: int
    failed: int
    skipped: int = 0
    failures: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.failed and self.passed > 0

    def words(self) -> str:
        parts = [f"{self.passed} passed"]
        parts += [f"**{self.failed} failed**"] if self.failed else []
        parts += [f"{self.skipped} skipped"] if self.skipped else []
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Result:
    """`missing` says why a row could not be run; it has no steps then."""

    row: str
    date: str
    commit: str
    seconds: float = 0.0
    steps: tuple[Step, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    missing: str = ""

    @property
    def ok(self) -> bool:
        return bool(self.steps) and all(step.ok for step in self.steps)

    @classmethod
    def read(cls, found: dict[str, Any]) -> Self:
        steps = tuple(Step(**{**step, "failures": tuple(step["failures"])}) for step in found["steps"])
        return cls(**{**found, "steps": steps})


class Book:
    """The last result of each row, in a file: a matrix that was interrupted goes on where it was."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._results = self._read()

    def get(self, row: Row) -> Result | None:
        return self._results.get(row.name)

    def done(self, row: Row, commit: str) -> bool:
        """It was run to its end on this very commit."""
        result = self.get(row)
        return result is not None and result.commit == commit and bool(result.steps)

    def add(self, result: Result) -> None:
        # Another `make matrix` may have added its own rows since: they are not to be lost.
        self._results = {**self._read(), result.row: result}
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text(json.dumps([asdict(each) for each in self._results.values()], indent=1))

    def _read(self) -> dict[str, Result]:
        found = json.loads(self._file.read_text()) if self._file.exists() else []
        return {result.row: result for result in map(Result.read, found)}


def of_junit(name: str, report: Path, *parts: str) -> Step:
    """The tests of pytest's report whose name has all these parts."""
    passed = skipped = 0
    failures = []
    for case in ET.parse(report).iter("testcase"):  # noqa: S314  # pytest wrote it for us a moment ago
        test = f"{case.get('classname', '').replace('.', '/')}::{case.get('name')}"
        if not all(part in test for part in parts):
            continue
        if case.find("failure") is not None or case.find("error") is not None:
            failures.append(test)
        elif case.find("skipped") is not None:
            skipped += 1
        else:
            passed += 1
    return Step(name, passed, len(failures), skipped, tuple(failures))


def of_reliability(name: str, lines: str) -> Step:
    """The scenarios of `mlproducer reliability --json`: a line each."""
    reports = [json.loads(line) for line in lines.splitlines() if line.startswith("{")]
    failures = tuple(str(report["scenario"]) for report in reports if not report["ok"])
    return Step(name, len(reports) - len(failures), len(failures), failures=failures)


def broken(name: str, why: str) -> Step:
    """A command that ended without a report."""
    return Step(name, 0, 1, failures=(why,))
