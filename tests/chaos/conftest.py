"""Real servers for the spools, and producers to be killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mlproducer.testing.rabbitmq import PrivateRabbit
from producers import Producers


@pytest.fixture
def node(own_rabbit: PrivateRabbit) -> PrivateRabbit:
    """A broker to kill and to block; each test has a virtual host of its own."""
    return own_rabbit


@pytest.fixture
def producers(tmp_path: Path) -> Iterator[Producers]:
    with Producers(tmp_path) as started:
        yield started
