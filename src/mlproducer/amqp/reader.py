"""A connection for reading from the same brokers, through aio-pika: our own channels only publish."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from mlproducer.amqp.config import AmqpConfig
from mlproducer.errors import SettingsError

if TYPE_CHECKING:
    from aio_pika.abc import AbstractConnection


def reader(config: AmqpConfig) -> Callable[[int], Awaitable[AbstractConnection]]:
    """A function that connects, to one host after the other. Raises: SettingsError, if aio-pika is not
    installed or cannot do what the URL asks for.
    """
    try:
        from aio_pika import connect  # noqa: PLC0415  # only who reads events needs it
        from aio_pika.connection import make_url  # noqa: PLC0415  # as above
    except ModuleNotFoundError as error:
        raise SettingsError(
            "ML_CELERY_EVENTS: to read Celery's events needs more packages: pip install 'mlproducer[events]'"
        ) from error

    if any(endpoint.server_name for endpoint in config.endpoints):
        raise SettingsError(
            "ML_CELERY_EVENTS: the client that reads events takes no `server_name_indication` (RABBITMQ_URL): leave it "
            "out, and name the broker by a host that is in its certificate"
        )

    async def connected(tries: int) -> AbstractConnection:
        endpoint = config.endpoints[tries % len(config.endpoints)]
        own = config.of(endpoint)
        login = endpoint.credentials if config.get_credentials is None else await config.get_credentials()
        url = make_url(
            host=endpoint.host,
            port=endpoint.port,
            login=login.user,
            password=login.password,
            virtualhost=endpoint.vhost,
            ssl=endpoint.tls is not None,
            auth=own.mechanism.lower(),
            heartbeat=own.heartbeat,
            name=f"{own.name()} events",
        )
        return await connect(url, ssl_context=await endpoint.fresh_tls(), timeout=own.connection_timeout)

    return connected
