"""`RABBITMQ_URL`: one broker, or several separated by commas or, as Celery has it, by semicolons.

    amqp[s]://user:password@host:port/vhost?parameters

That is RabbitMQ's URI, with two things of our own: without a path, and with a path of one slash, the virtual host is
the default one, `/`; and `//`, which Celery writes, is that one too. `pyamqp://` is Celery's other name for `amqp://`.

| parameter | means | else |
|---|---|---|
| `heartbeat` | seconds | `RABBITMQ_HEARTBEAT` |
| `connection_timeout` | milliseconds | `RABBITMQ_CONNECTION_TIMEOUT` |
| `channel_max` | channels at most | as many as the broker allows |
| `frame_max` | bytes of a frame at most | 131,072 |
| `auth_mechanism` | `plain` or `external` | `RABBITMQ_AUTH` |
| `cacertfile`, `certfile`, `keyfile` | paths | `RABBITMQ_SSL_CACERT`, `…CERTFILE`, `…KEYFILE` |
| `verify` | `verify_peer` or `verify_none` | `RABBITMQ_VERIFY_PEER` |
| `server_name_indication` | the name to ask for and to find in the certificate | the host |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from mlproducer.urls.parts import BadUrl, Url, choice, decoded, number, read_url, several

LIKE: Final = "amqp://user:password@host:5672/vhost, or amqps:// for TLS"
PLAIN_PORT: Final = 5672
TLS_PORT: Final = 5671

_SCHEMES: Final = ("amqp", "amqps", "pyamqp")
_NUMBERS: Final = {
    "heartbeat": (0, 3_600),
    "connection_timeout": (50, 600_000),
    "channel_max": (1, 65_535),
    "frame_max": (4_096, 2**31 - 1),
}
_OF_TLS: Final = ("cacertfile", "certfile", "keyfile", "verify", "server_name_indication")
_CHOICES: Final = {"verify": ("verify_peer", "verify_none"), "auth_mechanism": ("plain", "external")}
_PARAMETERS: Final = (*_NUMBERS, "auth_mechanism", *_OF_TLS)
_LONGEST: Final = 255
"""Bytes of a virtual host's name: AMQP's short string."""


@dataclass(frozen=True, slots=True)
class Broker:
    """One URL of the setting. What its parameters do not say is None, and the settings say it."""

    url: Url
    vhost: str
    numbers: Mapping[str, int]
    """`heartbeat` … `frame_max`, those that are given."""
    words: Mapping[str, str]
    """The other parameters that are given."""

    @property
    def secure(self) -> bool:
        return self.url.scheme == "amqps"

    def node(self, *, secure: bool) -> str:
        """`host:port`: for logs and people."""
        return self.url.host.shown(TLS_PORT if secure else PLAIN_PORT)


def read_brokers(text: str, *, secure: bool = False) -> tuple[Broker, ...]:
    """`secure` is `RABBITMQ_USE_SSL`: TLS for all of them. Raises: BadUrl."""
    urls = several(text)
    if not urls:
        raise BadUrl(f"it is empty; it must look like {LIKE}")
    found = []
    for place, url in enumerate(urls, 1):
        try:
            found.append(_broker(url, secure=secure))
        except BadUrl as error:
            raise BadUrl(f"URL {place} of {len(urls)}: {error}" if len(urls) > 1 else str(error)) from None
    return tuple(found)


def _broker(text: str, *, secure: bool) -> Broker:
    url = read_url(text, _SCHEMES, like=LIKE)
    if not url.host.name:
        raise BadUrl(f"it names no host; it must look like {LIKE}")
    given = url.parameters(_PARAMETERS)
    words = {name: value for name, value in given.items() if name not in _NUMBERS}
    _check_words(words, secure=secure or url.scheme == "amqps")
    numbers = {name: number(given[name], name, *limits) for name, limits in _NUMBERS.items() if name in given}
    return Broker(url, _vhost(url.path), numbers, words)


def _check_words(words: Mapping[str, str], *, secure: bool) -> None:
    for name, value in words.items():
        if name in _OF_TLS and not secure:
            raise BadUrl(f"`{name}` is of TLS alone: say amqps://, or RABBITMQ_USE_SSL=yes")
        if name in _CHOICES:
            choice(value, name, _CHOICES[name])
        if not value:
            raise BadUrl(f"`{name}` is empty")
    if ("certfile" in words) != ("keyfile" in words):
        raise BadUrl("`certfile` and `keyfile` go together")
    if words.get("server_name_indication") == "disable":
        raise BadUrl("`server_name_indication` cannot be turned off: leave it out, or give a name")


def _vhost(path: str) -> str:
    if path in {"", "/", "//"}:
        return "/"
    name = path[1:]
    if "/" in name:
        raise BadUrl("there is a second / in its path: in the name of a virtual host it is written %2F")
    vhost = decoded(name, "virtual host")
    if len(vhost.encode()) > _LONGEST:
        raise BadUrl(f"the name of its virtual host has more than {_LONGEST} bytes")
    return vhost
