"""Real servers for the tests: one private RabbitMQ and one PostgreSQL for the run, others for tests that break theirs."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from mlproducer.testing.rabbitmq import PrivateRabbit
from private_postgres import own_postgres, postgres, postgres_schema_url, postgres_url

__all__ = ["own_postgres", "own_rabbit", "postgres", "postgres_schema_url", "postgres_url", "rabbit", "vhost_url"]


@pytest.fixture(scope="session")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRabbit]:
    """One node for the whole run. Tests on it must not kill, pause or alarm it."""
    with PrivateRabbit(tmp_path_factory.mktemp("rabbit")) as node:
        yield node


@pytest.fixture
def vhost_url(rabbit: PrivateRabbit, request: pytest.FixtureRequest) -> str:
    """The URL of a fresh virtual host on the shared node: nothing of other tests is in it."""
    return rabbit.add_vhost(re.sub(r"\W+", "-", request.node.nodeid)[-100:])


@pytest.fixture
def own_rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRabbit]:
    """A node of the test's own, to kill, pause and fill."""
    with PrivateRabbit(tmp_path_factory.mktemp("own-rabbit")) as node:
        yield node
