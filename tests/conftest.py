"""Real servers for the tests: private ones for the run, and others for tests that break theirs."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop
from hypothesis import settings

from depth import DEPTH
from mlproducer import redact
from mlproducer.testing.rabbitmq import PrivateRabbit
from private_postgres import breakable_postgres, own_postgres, postgres, postgres_schema_url, postgres_url
from producers import producers, producers_server

__all__ = [
    "breakable_postgres",
    "own_postgres",
    "own_rabbit",
    "postgres",
    "postgres_schema_url",
    "postgres_url",
    "producers",
    "producers_server",
    "rabbit",
    "vhost_url",
]


settings.register_profile("depth", max_examples=50 * DEPTH, deadline=None)
settings.load_profile("depth")


HERE = Path(__file__).parent
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
ON_EACH_LOOP = (
    "amqp",
    "engine",
    "integration/test_faults.py",
    "integration/test_late_broker.py",
    "integration/test_tls.py",
)
"""Their tests run on each event loop: sockets, TLS and timers are what a loop has of its own. The other integration
tests wait for Celery workers, or for child processes with loops of their own.
"""


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.path.relative_to(HERE).as_posix().startswith(ON_EACH_LOOP):
        return LOOPS
    return {"asyncio": LOOPS["asyncio"]}


@pytest.fixture(autouse=True)
def _own_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """What another test read as a password, such as `broker`, is an ordinary word in this one."""
    monkeypatch.setattr(redact, "_known", redact._Known())


@pytest.fixture(scope="session")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRabbit]:
    """One node for the whole run. Tests on it must not kill, pause or alarm it."""
    with PrivateRabbit(tmp_path_factory.mktemp("rabbit")) as node:
        yield node


@pytest.fixture
def vhost_url(rabbit: PrivateRabbit, request: pytest.FixtureRequest) -> str:
    """The URL of a fresh virtual host on the shared node: nothing of other tests is in it."""
    return rabbit.add_vhost(re.sub(r"\W+", "-", request.node.nodeid)[-100:])


@pytest.fixture(scope="session")
def breakable_rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRabbit]:
    """One node for the whole run to kill, pause and fill: a start costs seconds of processor time."""
    with PrivateRabbit(tmp_path_factory.mktemp("breakable-rabbit")) as node:
        yield node


@pytest.fixture
def own_rabbit(breakable_rabbit: PrivateRabbit) -> Iterator[PrivateRabbit]:
    """A node for the test alone, as if it were new: it runs, whatever the last test did, and `/` is empty."""
    breakable_rabbit.start()
    breakable_rabbit.memory_alarm(on=False)
    breakable_rabbit.eval('rabbit_vhost:delete(<<"/">>, <<"test">>).')
    breakable_rabbit.add_vhost("/")
    yield breakable_rabbit
    if breakable_rabbit.pid is not None:
        breakable_rabbit.resume()
