"""The example Celery worker as quickstart's child."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from typing import Final

from mlproducer.cli.quickstart.children import ChildFailed, Program
from mlproducer.cli.quickstart.places import Places
from mlproducer.settings import Settings

READY: Final = 60.0
"""Seconds; it imports Celery, connects and declares in about one."""
CONCURRENCY: Final = 2


def worker(places: Places, settings: Settings, env: Mapping[str, str]) -> Program:
    """A Celery worker on all queues. Raises: ChildFailed, if there is no Celery."""
    if importlib.util.find_spec("celery") is None:
        raise ChildFailed("the example worker needs Celery: pip install 'mlproducer[worker]'")
    return Program(
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


def says_ready(log: bytes) -> bool:
    return b" ready." in log
