"""What went wrong with a connection, in words that guess the cause and name the setting. Never a password."""

from __future__ import annotations

import socket
import ssl
from typing import Final

from mlproducer.errors import BrokerError, BrokerRefused, BrokerUnreachable, ConnectionLost, ErrorType, TlsFailed

ACCESS_REFUSED: Final = 403
NOT_FOUND: Final = 404
PRECONDITION_FAILED: Final = 406
CONNECTION_FORCED: Final = 320
NOT_ALLOWED: Final = 530


class ChannelClosed(Exception):
    """The broker closed a channel: `code` and `text` as it gave them. Stays within this package."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code} {text}")
        self.code = code
        self.text = text


def connect_failed(node: str, exc: BaseException, *, tls: bool) -> BrokerError:  # noqa: PLR0911  # one a cause
    """The error for a connect that raised `exc`."""
    match exc:
        case BrokerError():
            return exc
        case ssl.SSLCertVerificationError():
            return TlsFailed(
                f"{node}: its certificate is not accepted: {exc.verify_message}. RABBITMQ_SSL_CACERT names the "
                "authority to trust; the URL's host must be a name in the certificate"
            )
        case ssl.SSLError():
            return TlsFailed(
                f"{node}: the TLS handshake failed ({exc.reason or exc}): is TLS on at the other end's port, and does "
                "it want a client certificate (RABBITMQ_SSL_CERTFILE, RABBITMQ_SSL_KEYFILE)?"
            )
        case TimeoutError():
            return BrokerUnreachable(
                f"{node}: no answer in time (RABBITMQ_CONNECTION_TIMEOUT): is the broker overloaded or paused, or a "
                "firewall in between?",
                error_type=ErrorType.TIMEOUT,
            )
        case socket.gaierror():
            return BrokerUnreachable(
                f"{node}: the host name is not known ({exc.strerror}): see RABBITMQ_URL", error_type=ErrorType.DNS
            )
        case ConnectionRefusedError():
            return BrokerUnreachable(f"{node}: connection refused: does RabbitMQ run there? See RABBITMQ_URL")
        case _:
            hint = "" if tls else ": does that port want TLS (amqps://, RABBITMQ_USE_SSL)?"
            return BrokerUnreachable(
                f"{node}: the connection failed ({type(exc).__name__}: {exc}){hint}", error_type=ErrorType.LOST
            )


def closed_by_broker(node: str, code: int, text: str) -> BrokerError:
    """The error for a connection.close from the broker."""
    if code == ACCESS_REFUSED:
        return BrokerRefused(f"{node}: the broker refuses the login ({text}): see user and password in RABBITMQ_URL")
    if code == NOT_ALLOWED:
        return BrokerRefused(
            f"{node}: the virtual host is not there or not open to this user ({text}): see the path of RABBITMQ_URL",
            error_type=ErrorType.VHOST,
        )
    kind = ErrorType.CLOSED_BY_BROKER if code == CONNECTION_FORCED else ErrorType.PROTOCOL
    return ConnectionLost(f"{node}: the broker closed the connection: {code} {text}", error_type=kind)


def ended(node: str, exc: BaseException | None) -> BrokerError:
    """The error for a connection that just ended."""
    if isinstance(exc, BrokerError):
        return exc
    why = f"{type(exc).__name__}: {exc}" if exc is not None else "closed by the other end"
    return ConnectionLost(f"{node}: the connection was lost ({why})")


def silent(node: str, seconds: float) -> BrokerError:
    return ConnectionLost(
        f"{node}: nothing heard for {seconds:g} s (RABBITMQ_HEARTBEAT): the broker or the network is gone",
        error_type=ErrorType.HEARTBEAT,
    )


def not_amqp(node: str, first: bytes) -> BrokerError:
    """What answered does not speak AMQP 0-9-1."""
    guess = "it answered with TLS: use amqps:// or RABBITMQ_USE_SSL" if first[:1] == b"\x15" else "see RABBITMQ_URL"
    return BrokerRefused(f"{node} does not speak AMQP 0-9-1: {guess}", error_type=ErrorType.PROTOCOL)
