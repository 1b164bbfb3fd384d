"""What an error of Redis or of the way to it means: what happened, the likely cause, the setting to change.

Never a password, and never what was to be stored: Redis quotes arguments when it does not know a command.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import Final

from redis import exceptions

from mlproducer.core.certificates import CertificateFault, certificate_fault
from mlproducer.errors import SpoolUnavailable

_MOST_WORDS: Final = 200

_RIGHTS: Final = "its user needs EVALSHA, EVAL, INFO and the keys of the spool's prefix (see ACL)"
_NO_ANSWER: Final = "is it paused, overloaded, cut off by a firewall, or is TLS (rediss://) on at one end only?"
_NO_WAY: Final = "does it run, is the address right, and TLS (rediss://) on at both ends or at none?"
_CERTIFICATES: Final = {
    CertificateFault.AUTHORITY: "is its certificate trusted? ssl_ca_certs names the authority",
    CertificateFault.NAME: "is its certificate for another host? See rediss:// and ssl_check_hostname",
    CertificateFault.DATES: "renew its certificate, or correct the clock of this machine",
    CertificateFault.FORM: (
        "its certificate, or its authority's, is not made by the rules of RFC 5280, which Python 3.13 and newer check: "
        "issue it anew with what is missing"
    ),
    CertificateFault.OTHER: "is its certificate trusted? See rediss:// and ssl_ca_certs",
}
_FULL: Final = "it is over its maxmemory: give it more, or let the drain empty it"
_REPLICA: Final = "it became a read-only replica: name its master"

_BY_TYPE: Final[tuple[tuple[type[BaseException], str], ...]] = (
    (
        ssl.SSLError,
        "is TLS on at the other end, and its certificate trusted? See rediss://, ssl_ca_certs, ssl_password for a key",
    ),
    (exceptions.BusyLoadingError, "it loads its data after a start, and will answer when that is done"),
    (exceptions.NoPermissionError, _RIGHTS),
    (exceptions.AuthorizationError, _RIGHTS),
    (exceptions.AuthenticationError, "are user and password right?"),
    (exceptions.OutOfMemoryError, _FULL),
    (exceptions.ReadOnlyError, _REPLICA),
    (exceptions.ClusterError, "parts of the cluster are down: see CLUSTER INFO"),
    (exceptions.TimeoutError, _NO_ANSWER),
    (TimeoutError, _NO_ANSWER),
    (exceptions.ConnectionError, _NO_WAY),
    (OSError, _NO_WAY),
)
_BY_WORDS: Final = (
    # Inside a script, older servers wrap the error of a command, and its type is lost.
    ("OOM", _FULL),
    ("READONLY", _REPLICA),
    ("MISCONF", "it cannot write to its disk: is that full?"),
    ("MASTERDOWN", "it lost its master"),
    ("NOREPLICAS", "it waits for its replicas (min-replicas-to-write)"),
    ("BUSY", "another script keeps it busy"),
    ("WRONGTYPE", "another program uses these keys: give the spool another ?prefix="),
    ("unknown command", "it does not allow what the spool needs (EVALSHA, EVAL, INFO): see its rename-command"),
)


class Refused(exceptions.RedisError):
    """Raised as a connection is made: the server is not what a spool can rest on."""


def explain(node: str, error: BaseException, timeout: float) -> SpoolUnavailable:
    """`node` is the server as it may be shown; `timeout` the seconds that it had."""
    chain = list(_chain(error))
    refused = next((each for each in chain if isinstance(each, Refused)), None)
    if refused is not None:
        return SpoolUnavailable(f"the Redis spool at {node} cannot be used: {refused} (see ML_SPOOL_URL)")
    said, hint = _said(error, timeout), _hint(chain)
    return SpoolUnavailable(
        f"the Redis spool at {node} cannot be used ({said}): {hint or 'see its log'} (ML_SPOOL_URL)"
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it came from, the innermost first: that one knows best."""
    if error is not None:
        yield from _chain(error.__cause__ or error.__context__)
        yield error


def _hint(chain: list[BaseException]) -> str | None:
    for each in chain:
        if isinstance(each, ssl.SSLCertVerificationError):
            return _CERTIFICATES[certificate_fault(each.verify_code)]
    for kind, words in _BY_TYPE:
        if any(isinstance(each, kind) for each in chain):
            return words
    text = " ".join(map(str, chain))
    return next((words for sign, words in _BY_WORDS if sign in text), None)


def _said(error: BaseException, timeout: float) -> str:
    text = str(error).split(" script: ")[0]
    if isinstance(error, exceptions.TimeoutError | TimeoutError):
        return f"no answer within {timeout:g} s"
    if not text or "unknown command" in text:
        return type(error).__name__
    return text[:_MOST_WORDS].rstrip(".")
