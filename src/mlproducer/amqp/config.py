"""What the AMQP shell needs to know, made from the settings and checked before the first connect."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import unquote, urlsplit

from mlproducer.envelope.queues import QueuePlan
from mlproducer.errors import SettingsError
from mlproducer.settings import Settings

PLAIN_PORT = 5672
TLS_PORT = 5671


@dataclass(frozen=True, slots=True)
class Credentials:
    """A login. The password stays out of `repr`."""

    user: str
    password: str = field(repr=False)


GetCredentials = Callable[[], Awaitable[Credentials]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One broker of the list."""

    host: str
    port: int
    vhost: str
    credentials: Credentials
    tls: ssl.SSLContext | None = field(repr=False)

    @property
    def node(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class AmqpConfig:
    """Durations in seconds, `frame_max` in bytes. `mechanism` is PLAIN or EXTERNAL."""

    endpoints: tuple[Endpoint, ...]
    exchange: str
    queues: tuple[QueuePlan, ...]
    declare: bool = True
    mechanism: str = "PLAIN"
    heartbeat: int = 60
    connection_timeout: float = 10.0
    check_timeout: float = 5.0
    frame_max: int = 131_072
    get_credentials: GetCredentials | None = field(default=None, repr=False)

    @classmethod
    def from_settings(
        cls, settings: Settings, queues: tuple[QueuePlan, ...], *, credentials: GetCredentials | None = None
    ) -> Self:
        """Raises: SettingsError, if a certificate file cannot be used."""
        return cls(
            endpoints=tuple(_endpoint(url, settings) for url in settings.broker_urls),
            exchange=settings.ml_exchange,
            queues=queues,
            declare=settings.ml_declare_topology,
            mechanism=settings.rabbitmq_auth.upper(),
            heartbeat=settings.rabbitmq_heartbeat,
            connection_timeout=settings.rabbitmq_connection_timeout / 1000,
            check_timeout=settings.ml_health_timeout,
            get_credentials=credentials,
        )


def _endpoint(url: str, settings: Settings) -> Endpoint:
    parts = urlsplit(url)
    secure = parts.scheme == "amqps" or settings.rabbitmq_use_ssl
    return Endpoint(
        host=unquote(parts.hostname or "localhost"),
        port=parts.port or (TLS_PORT if secure else PLAIN_PORT),
        # The AMQP URI scheme: no path, or a single slash, is the default virtual host.
        vhost=unquote(parts.path[1:]) or "/",
        credentials=Credentials(unquote(parts.username or "guest"), unquote(parts.password or "guest")),
        tls=_tls(settings) if secure else None,
    )


def _tls(settings: Settings) -> ssl.SSLContext:
    """Peers are verified (RABBITMQ_SSL_CACERT, or the system's authorities) unless RABBITMQ_VERIFY_PEER=false."""
    authority = settings.rabbitmq_ssl_cacert
    try:
        context = ssl.create_default_context(cafile=None if authority is None else str(authority))
    except (OSError, ssl.SSLError) as exc:
        raise SettingsError(f"RABBITMQ_SSL_CACERT: {authority} cannot be used: {exc}") from exc
    if not settings.rabbitmq_verify_peer:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if settings.rabbitmq_ssl_certfile is not None:
        try:
            context.load_cert_chain(settings.rabbitmq_ssl_certfile, settings.rabbitmq_ssl_keyfile)
        except (OSError, ssl.SSLError) as exc:
            raise SettingsError(
                f"RABBITMQ_SSL_CERTFILE, RABBITMQ_SSL_KEYFILE: {settings.rabbitmq_ssl_certfile} cannot be used: {exc}"
            ) from exc
    return context
