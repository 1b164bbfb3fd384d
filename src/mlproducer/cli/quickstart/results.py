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
                note = json.loads(line)
                yield note["task_id"], note["state"] == "done"


def follow(path: Path) -> Results:
    return Results(path, path.stat().st_size if path.exists() else 0)
