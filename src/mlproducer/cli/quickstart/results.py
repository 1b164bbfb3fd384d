"""What the example worker says that it has done."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(slots=True)
class Results:
    """Follows the worker's results file from where it ended when we began."""

    path: Path
    offset: int

    def earlier(self) -> Iterator[tuple[str, bool]]:
        """What is in it from before, as `fresh` has it; to be asked for first."""
        if self.offset:
            with self.path.open("rb") as file:
                for line in file.read(self.offset).rpartition(b"\n")[0].splitlines():
                    yield _read(line)

    def fresh(self) -> Iterator[tuple[str, bool]]:
        """Task id and whether it was done, for each whole line since the last call."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self.offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self.offset += len(line)
                yield _read(line)


def _read(line: bytes) -> tuple[str, bool]:
    note = json.loads(line)
    return note["task_id"], note["state"] == "done"


def follow(path: Path) -> Results:
    return Results(path, path.stat().st_size if path.exists() else 0)
