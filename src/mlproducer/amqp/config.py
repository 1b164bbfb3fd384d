"""What the AMQP shell needs to know, made from the settings and checked before the first connect."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

from mlproducer.amqp.certificates import load_client, trust
from mlproducer.envelope.queues import QueuePlan
from mlproducer.errors import SettingsError, TlsFailed
from mlproducer.redact import remember
from mlproducer.settings import Settings
from mlproducer.urls.brokers import PLAIN_PORT, TLS_PORT, Broker
from mlproducer.urls.parts import Host


@dataclass(frozen=True, slots=True)
class Credentials:
    """A login. The password stays out of `repr`."""

    user: str
    password: str = field(repr=False)

    def __post_init__(self) -> None:
        remember(self.password)


GetCredentials = Callable[[], Awaitable[Credentials]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One broker of the list."""

    host: str
    port: int
    vhost: str
    credentials: Credentials
    tls: ssl.SSLContext | None = field(repr=False)
    """As the files were when the settings were read. For a connect, see `fresh_tls`."""
    server_name: str | None = None
    """What to ask for in TLS and to find in the certificate, where that is not the host."""
    own: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `AmqpConfig` that are otherwise for this broker, from its URL."""
    read_tls: Callable[[], ssl.SSLContext] | None = field(default=None, repr=False)
    """Reads the files again."""

    @property
    def node(self) -> str:
        return Host(self.host, self.port).shown(self.port)

    async def fresh_tls(self) -> ssl.SSLContext | None:
        """With the certificates and the key that the files hold now: they are renewed while we run.

        Raises: TlsFailed, if one of them cannot be used, such as while somebody puts new ones in their place.
        """
        if self.read_tls is None:
            return self.tls
        try:
            return await asyncio.to_thread(self.read_tls)
        except SettingsError as error:
            raise TlsFailed(f"{self.node}: {error}") from None


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
    late_for: float = 0.0
    """For how long after its time an attempt is listened for."""
    frame_max: int = 131_072
    channel_max: int = 65_535
    """A channel number is two octets on the wire."""
    connection_name: str = ""
    get_credentials: GetCredentials | None = field(default=None, repr=False)

    def name(self) -> str:
        """What the broker is to call this connection, for people who look at its list. A child that was forked has a
        process id of its own.
        """
        return self.connection_name or f"{_program()} {socket.gethostname()} {os.getpid()}"

    def of(self, endpoint: Endpoint) -> AmqpConfig:
        """With what the endpoint's own URL says."""
        return replace(self, **endpoint.own)

    @classmethod
    def from_settings(
        cls, settings: Settings, queues: tuple[QueuePlan, ...], *, credentials: GetCredentials | None = None
    ) -> Self:
        """Raises: SettingsError, if a certificate file cannot be used."""
        return cls(
            endpoints=tuple(_endpoint(broker, settings) for broker in settings.brokers),
            exchange=settings.ml_exchange,
            queues=queues,
            declare=settings.ml_declare_topology,
            mechanism=settings.rabbitmq_auth.upper(),
            heartbeat=settings.rabbitmq_heartbeat,
            connection_timeout=settings.rabbitmq_connection_timeout / 1000,
            check_timeout=settings.ml_health_timeout,
            connection_name=settings.ml_connection_name,
            late_for=settings.ml_confirm_cap,
            get_credentials=credentials,
        )


def _program() -> str:
    """Of this process, as somebody started it: `python -m shop` is shop."""
    path = Path(sys.argv[0] if sys.argv else "")
    return (path.parent.name if path.stem == "__main__" else path.stem) or "python"


def _endpoint(broker: Broker, settings: Settings) -> Endpoint:
    secure = broker.secure or settings.rabbitmq_use_ssl
    login, given = broker.url, broker.words
    user, password = ("guest" if part is None else part for part in (login.user, login.password))
    own: dict[str, Any] = {name: value for name, value in broker.numbers.items() if name != "connection_timeout"}
    if "connection_timeout" in broker.numbers:
        own["connection_timeout"] = broker.numbers["connection_timeout"] / 1000
    if "auth_mechanism" in given:
        own["mechanism"] = given["auth_mechanism"].upper()
    read_tls = partial(_tls, settings, given) if secure else None
    return Endpoint(
        host=login.host.name,
        port=login.host.port or (TLS_PORT if secure else PLAIN_PORT),
        vhost=broker.vhost,
        credentials=Credentials(user, password),
        tls=read_tls() if read_tls is not None else None,
        server_name=given.get("server_name_indication"),
        own=own,
        read_tls=read_tls,
    )


def _tls(settings: Settings, given: Mapping[str, str]) -> ssl.SSLContext:
    """Peers are verified (RABBITMQ_SSL_CACERT, or the system's authorities) unless RABBITMQ_VERIFY_PEER=false; what the
    URL gives goes before the settings.
    """
    if "cacertfile" in given:
        context = trust(Path(given["cacertfile"]), "RABBITMQ_URL: cacertfile")
    else:
        context = trust(settings.rabbitmq_ssl_cacert, "RABBITMQ_SSL_CACERT")
    if not (given["verify"] == "verify_peer" if "verify" in given else settings.rabbitmq_verify_peer):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    certificate, key = settings.rabbitmq_ssl_certfile, settings.rabbitmq_ssl_keyfile
    names = ("RABBITMQ_SSL_CERTFILE", "RABBITMQ_SSL_KEYFILE")
    if "certfile" in given:
        certificate, key = Path(given["certfile"]), Path(given["keyfile"])
        names = ("RABBITMQ_URL: certfile", "RABBITMQ_URL: keyfile")
    if certificate is not None and key is not None:
        load_client(context, certificate, key, settings.rabbitmq_ssl_key_password.get_secret_value(), names)
    return context
