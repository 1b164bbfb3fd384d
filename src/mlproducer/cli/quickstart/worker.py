"""The example Celery worker as quickstart's child, and what it says that it has done."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mlproducer.cli.quickstart.children import Child, ChildFailed, start
from mlproducer.cli.quickstart.places import Places
from mlproducer.settings import Settings

READY: Final = 60.0
"""Seconds; it imports Celery, connects and declares in about three."""
CONCURRENCY: Final = 2


def start_worker(places: Places, settings: Settings, env: Mapping[str, str]) -> Child:
    """A Celery worker on all queues, ready to work. Raises: ChildFailed."""
    if importlib.util.find_spec("celery") is None:
        raise ChildFailed("the example worker needs Celery: pip install 'mlproducer[worker]'")
    child = start(
        "worker",
        (
            *(sys.executable, "-m", "celery", "-A", "examples.worker.app", "worker"),
            *("--hostname", "quickstart@%h", "--concurrency", str(CONCURRENCY), "--loglevel", "INFO"),
            *("--without-gossip", "--without-mingle", "--without-heartbeat"),
        ),
        env={
            **{name: value for name, value in env.items() if name != "ML_API_KEYS"},
            "RABBITMQ_URL": settings.rabbitmq_url.get_secret_value(),
            "ML_EXCHANGE": settings.ml_exchange,
            "ML_WORKER_RESULTS": str(places.results),
        },
        cwd=places.root,
        log=places.log("worker"),
    )
    try:
        child.wait_until(lambda: b" ready." in child.log.read_bytes(), READY)
    except BaseException:  # also Ctrl-C: a child that nobody knows of would never be stopped
        child.stop(1)
        raise
    return child


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
