"""The AMQP shell over a real broker, without the engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from making_queues import vhost_of
from mlproducer.amqp.broker import AmqpBroker
from mlproducer.amqp.config import AmqpConfig, Credentials, Endpoint
from mlproducer.envelope.queues import QueuePlan
from mlproducer.errors import BrokerError
from mlproducer.events import Event
from mlproducer.outcome import Outcome
from mlproducer.testing.rabbitmq import PrivateRabbit
from mlproducer.wiring import SystemClock
from scripted_peer import Link


@asynccontextmanager
async def real(
    url: str,
    *queues: str,
    port: int | None = None,
    login: Credentials | None = None,
    named: bool = True,
    channel_max: int = 65_535,
    frame_max: int = 131_072,
) -> AsyncIterator[Link]:
    """A broker's link to a real one, with queues that the settings name; not connected yet."""
    at = urlsplit(url)
    endpoint = Endpoint("127.0.0.1", port or at.port or 0, at.path[1:], login or Credentials("ml", "ml_password"), None)
    plans = tuple(QueuePlan(queue, at_start=named) for queue in queues)
    events: list[Event] = []
    lost: list[BrokerError] = []
    broker = AmqpBroker(
        AmqpConfig((endpoint,), "ml.tasks", plans, channel_max=channel_max, frame_max=frame_max),
        SystemClock(),
        events.append,
        lost.append,
    )
    try:
        yield Link(broker, events, lost)
    finally:
        await broker.close()


async def outcome(link: Link) -> Outcome:
    outcomes = link.publish()
    async with asyncio.timeout(30):
        while not outcomes:  # noqa: ASYNC110  # a list tells no event
            await asyncio.sleep(0.005)
    return outcomes[0]


def add_user(rabbit: PrivateRabbit, url: str, configure: str, write: str, read: str) -> Credentials:
    """A user with these permissions on the virtual host of `url`."""
    user, vhost = f"user-{url[-20:]}", vhost_of(url)
    permissions = ", ".join(f'<<"{each}">>' for each in (configure, write, read))
    rabbit.eval(
        f'rabbit_auth_backend_internal:add_user(<<"{user}">>, <<"a-password">>, <<"test">>), '
        f'rabbit_auth_backend_internal:set_permissions(<<"{user}">>, {vhost}, {permissions}, <<"test">>).'
    )
    return Credentials(user, "a-password")
