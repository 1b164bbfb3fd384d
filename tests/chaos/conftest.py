"""Real servers for the spools, and producers to be killed."""

from __future__ import annotations

import pytest

from mlproducer.testing.rabbitmq import PrivateRabbit


@pytest.fixture
def node(own_rabbit: PrivateRabbit) -> PrivateRabbit:
    """A broker to kill and to block; each test has a virtual host of its own."""
    return own_rabbit
