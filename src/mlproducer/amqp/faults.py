"""What went wrong with a connection, in words that guess the cause and name the setting. Never a password."""

from __future__ import annotations

import errno
import socket
import ssl
from typing import Final, Literal

from mlproducer.amqp.not_allowed import not_allowed
from mlproducer.core.certificates import CertificateFault, certificate_fault
from mlproducer.errors import BrokerError, BrokerRefused, BrokerUnreachable, ConnectionLost, ErrorType, TlsFailed

ACCESS_REFUSED: Final = 403
NOT_FOUND: Final = 404
PRECONDITION_FAILED: Final = 406
CONNECTION_FORCED: Final = 320
NOT_ALLOWED: Final = 530

LEAST_FRAME: Final = 8_192
"""Bytes of a frame: with less, RabbitMQ from 4.1 on ends the connection, and tells only its log why."""

_CERTIFICATES: Final = {
    CertificateFault.AUTHORITY: "RABBITMQ_SSL_CACERT names the authority to trust",
    CertificateFault.NAME: "The host in RABBITMQ_URL must be a name in the certificate",
    CertificateFault.DATES: "Renew it at the broker, or correct the clock of this machine",
    CertificateFault.FORM: (
        "It, or its authority's, is not made by the rules of RFC 5280, which Python 3.13 and newer check; trusting "
        "another authority does not help. Issue it anew with what is missing (for a missing authority key identifier, "
        "OpenSSL's authorityKeyIdentifier=keyid)"
    ),
    CertificateFault.OTHER: (
        "RABBITMQ_SSL_CACERT names the authority to trust; the host in RABBITMQ_URL must be a name in the certificate"
    ),
}


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
                f"{node}: its certificate is not accepted: {exc.verify_message}. "
                f"{_CERTIFICATES[certificate_fault(exc.verify_code)]}"
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
        case OSError() if _all_refused(exc):
            return BrokerUnreachable(f"{node}: connection refused: does RabbitMQ run there? See RABBITMQ_URL")
        case ChannelClosed(code=code, text=text):
            return BrokerRefused(
                f"{node}: the broker closed a channel as it was opened: {code} {text}", error_type=ErrorType.PROTOCOL
            )
        case UnicodeError():
            return BrokerUnreachable(f"{node}: that is not a host name: see RABBITMQ_URL", error_type=ErrorType.DNS)
        case OSError():
            hint = "" if tls else ": does that port want TLS (amqps://, RABBITMQ_USE_SSL)?"
            return BrokerUnreachable(
                f"{node}: the connection failed ({type(exc).__name__}: {exc}){hint}", error_type=ErrorType.LOST
            )
        case _:
            # Such as a user or virtual host that AMQP cannot carry: the text of the error may hold the login.
            return BrokerUnreachable(
                f"{node}: the connect failed with {type(exc).__name__}: see RABBITMQ_URL", error_type=ErrorType.OTHER
            )


def no_credentials(node: str, exc: Exception) -> BrokerError:
    """The credentials callback failed. Only the kind of its error is told: its text may hold a secret."""
    return BrokerRefused(f"{node}: the application's credentials callback failed with {type(exc).__name__}")


def closed_by_broker(node: str, code: int, text: str) -> BrokerError:
    """The error for a connection.close from the broker."""
    if code == ACCESS_REFUSED:
        return BrokerRefused(f"{node}: the broker refuses the login ({text}): see user and password in RABBITMQ_URL")
    if code == NOT_ALLOWED:
        return not_allowed(node, text)
    kind = ErrorType.CLOSED_BY_BROKER if code == CONNECTION_FORCED else ErrorType.PROTOCOL
    return ConnectionLost(f"{node}: the broker closed the connection: {code} {text}", error_type=kind)


def ended(node: str, exc: BaseException | None) -> BrokerError:
    """The error for a connection that just ended."""
    match exc:
        case BrokerError():
            return exc
        case ssl.SSLError():  # TLS 1.3 tells a client that its certificate is refused only after the handshake
            return connect_failed(node, exc, tls=True)
        case _:
            pass
    why = f"{type(exc).__name__}: {exc}" if exc is not None else "closed by the other end"
    return ConnectionLost(f"{node}: the connection was lost ({why})")


def silent_end(error: ConnectionLost, node: str, stage: Literal["greeting", "login"]) -> BrokerError:
    """The error for a connection that ended in the handshake without a word of the broker's."""
    if error.error_type is not ErrorType.LOST:
        return error
    match stage:
        case "greeting":
            return BrokerUnreachable(
                f"{node}: it took the connection and closed it without a word: does that port want TLS (amqps://, "
                "RABBITMQ_USE_SSL), or is RabbitMQ just starting or stopping?",
                error_type=ErrorType.LOST,
            )
        case "login":
            return BrokerRefused(
                f"{node}: it closed the connection at the login without a word, as old brokers do for a wrong user or "
                "password: see RABBITMQ_URL"
            )


def after_tuning(error: ConnectionLost, node: str, frame_max: int) -> BrokerError:
    """The error for a connection that ended as its virtual host was opened, with no limit of ours left to agree on."""
    if error.error_type is not ErrorType.LOST or frame_max >= LEAST_FRAME:
        return error
    return BrokerRefused(
        f"{node}: it closed the connection after the login without a word. Its frame_max is {frame_max:,} bytes, and "
        f"RabbitMQ 4.1 and newer take none below {LEAST_FRAME:,}: set frame_max in its rabbitmq.conf, best to the "
        "default of 131,072, and leave it out of RABBITMQ_URL",
        error_type=ErrorType.PROTOCOL,
    )


def _all_refused(exc: OSError) -> bool:
    """True for one refused address, or for a host name of which each address refused (such as ::1 and 127.0.0.1)."""
    # asyncio joins the errors of several addresses into one text: "Multiple exceptions: [Errno 111] …, [Errno 111] …".
    text = str(exc)
    numbers = text.count("[Errno ")
    return isinstance(exc, ConnectionRefusedError) or (
        numbers > 0 and numbers == text.count(f"[Errno {errno.ECONNREFUSED}]")
    )


def silent(node: str, seconds: float) -> BrokerError:
    return ConnectionLost(
        f"{node}: nothing heard for {seconds:g} s (RABBITMQ_HEARTBEAT): the broker or the network is gone",
        error_type=ErrorType.HEARTBEAT,
    )


def broken(node: str, exc: Exception) -> BrokerError:
    """What arrived is no frame of AMQP 0-9-1."""
    return ConnectionLost(
        f"{node}: a broken frame arrived ({type(exc).__name__}: {exc})", error_type=ErrorType.PROTOCOL
    )


def not_amqp(node: str, first: bytes) -> BrokerError:
    """What answered does not speak AMQP 0-9-1."""
    guess = "it answered with TLS: use amqps:// or RABBITMQ_USE_SSL" if first[:1] == b"\x15" else "see RABBITMQ_URL"
    return BrokerRefused(f"{node} does not speak AMQP 0-9-1: {guess}", error_type=ErrorType.PROTOCOL)
