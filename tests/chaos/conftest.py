"""Real servers for the spools, and producers to be killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mlproducer.testing.rabbitmq import PrivateRabbit
from private_postgres import own_postgres, postgres, postgres_url
from producers import Producers

__all__ = ["own_postgres", "postgres", "postgres_url", "producers"]


@pytest.fixture(scope="session")
def faulty_rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRabbit]:
    with PrivateRabbit(tmp_path_factory.mktemp("faulty")) as rabbit:
        yield rabbit


@pytest.fixture
def node(faulty_rabbit: PrivateRabbit) -> PrivateRabbit:
    """A broker to kill and to block; each test has a virtual host of its own. It runs, whatever the last test did."""
    faulty_rabbit.start()
    return faulty_rabbit


@pytest.fixture
def producers(tmp_path: Path) -> Iterator[Producers]:
    with Producers(tmp_path) as started:
        yield started
