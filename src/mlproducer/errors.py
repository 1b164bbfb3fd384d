"""Every error mlproducer raises, under one root.

    MLProducerError
    ├── RefusedTask                nothing was accepted
    │   ├── InvalidTask            unknown type, missing or wrong field, a value JSON cannot carry
    │   │   └── TaskTooLarge       the envelope is over `ML_MAX_MESSAGE_BYTES`
    │   ├── SpoolFull              over the spool's limits; has `retry_after`
    │   ├── SpoolUnavailable       the spool cannot be written: disk full, read-only, locked
    │   │   └── SpoolNotMade       it is not there yet, and only looked for
    │   ├── BlobStoreUnavailable   the store of large payloads cannot be written; has `retry_after`
    │   ├── TaskConflict           the task id is known with other content
    │   ├── NoTransaction          the outbox was given a connection that commits each statement by itself
    │   ├── NotInTime              the deadline came before the task was safe; publish again with the same id
    │   └── NotAccepting           the producer is not started, or is stopping
    ├── BrokerError                about the connection; publishing callers never see these, they get `spooled`
    │   ├── BrokerUnreachable      no TCP connection, or no answer in time
    │   ├── BrokerRefused          wrong password, vhost or permission; not an AMQP server
    │   ├── TlsFailed              certificate not trusted, expired, wrong name
    │   └── ConnectionLost         a working connection ended
    ├── WorkerError                in a worker, from `mlproducer.worker`
    │   ├── PayloadUnavailable     the store of large payloads cannot be read now: worth a retry
    │   ├── PayloadMissing         the store has no such payload
    │   ├── PayloadDamaged         what the store has is not what was published
    │   └── OnceUnavailable        nobody can say whether this task was done before
    ├── WrongLoop                  a producer is used in another process, thread or event loop than it was started in
    ├── SettingsError              a setting is wrong; names it
    └── NotFound                   no such task, share, dead letter or payload

Each message says what happened, the likely cause, and the setting to change.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from mlproducer.redact import clean, redact_text

MAX_FAULTS: Final = 20
"""Faults that one error names. A vector of a million NaN is one mistake, and nobody reads a million lines."""


class ErrorType(StrEnum):
    """The closed set of `ml_producer_connection_errors_total{error_type}`; never a message's text."""

    REFUSED = "refused"
    TIMEOUT = "timeout"
    DNS = "dns"
    AUTH = "auth"
    VHOST = "vhost"
    LIMIT = "limit"
    """A limit of the broker's: of connections or channels."""
    TLS = "tls"
    PROTOCOL = "protocol"
    HEARTBEAT = "heartbeat"
    CLOSED_BY_BROKER = "closed_by_broker"
    LOST = "lost"
    TOPOLOGY = "topology"
    INTERNAL = "internal"
    """An error in mlproducer, or in the code of the application that it called."""
    OTHER = "other"


class MLProducerError(Exception):
    """The root of every error raised here. Its text holds no secret that we know of."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(redact_text(each) if isinstance(each, str) else each for each in args))
        # The error that is handled now becomes the context of this one, and mostly its cause: a driver's text may hold
        # the URL that it was given.
        clean(sys.exc_info()[1])


class RefusedTask(MLProducerError):
    """The task was not accepted; it is nowhere."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One wrong field: its dotted path, such as `payload.options.temperature`, and what is wrong with it. The path is
    empty where the fault is of the whole.
    """

    field: str
    problem: str

    def __str__(self) -> str:
        return f"{self.field}: {self.problem}" if self.field else self.problem


class InvalidTask(RefusedTask):
    """`faults` are all that is wrong; `field` and `problem` are those of the first. `field` is its dotted path, such as
    `payload.options.temperature`; None where the fault is of the whole.
    """

    def __init__(self, message: str, *, field: str | None = None, others: Sequence[Fault] = ()) -> None:
        self.faults = (Fault(field or "", message), *others)
        super().__init__("; ".join(map(str, self.faults)))
        self.field = field
        self.problem = message

    @classmethod
    def of(cls, faults: Sequence[Fault]) -> InvalidTask:
        """Of one fault or more; the first `MAX_FAULTS` are named, and that there are more."""
        first, *others = faults[:MAX_FAULTS]
        if len(faults) > MAX_FAULTS:
            others.append(Fault("", "and there are more faults"))
        return cls(first.problem, field=first.field or None, others=others)


class TaskTooLarge(InvalidTask):
    """The envelope is over the limit."""


class SpoolFull(RefusedTask):
    """The spool is over its limit. `retry_after` is in seconds."""

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class SpoolUnavailable(RefusedTask):
    """The spool cannot be written now. `retry_after` is in seconds."""

    def __init__(self, message: str, *, retry_after: float = 5.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class SpoolNotMade(SpoolUnavailable):
    """There is no spool yet, or its tables are of an older version: a producer that starts makes it. Looks do not."""


class BlobStoreUnavailable(RefusedTask):
    """The store of large payloads cannot be used now. `retry_after` is in seconds."""

    def __init__(self, message: str, *, retry_after: float = 5.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class TaskConflict(RefusedTask):
    """This task id was accepted before with other content."""


class NoTransaction(RefusedTask):
    """The outbox adds within a transaction of the caller's, and there is none."""


class NotInTime(RefusedTask):
    """The caller's deadline, or ML_ACCEPT_TIMEOUT, came before the task was safe.

    Nothing was promised, but an attempt or a commit may have been under way: publish again with the same task id,
    which gives the receipt if it is safe by then, and never runs twice what was accepted once.
    """


class NotAccepting(RefusedTask):
    """The producer is not started, or is stopping."""


class BrokerError(MLProducerError):
    """About the connection to the broker. `error_type` is the metric's label."""

    error_type: ErrorType = ErrorType.OTHER

    def __init__(self, message: str, *, error_type: ErrorType | None = None) -> None:
        super().__init__(message)
        if error_type is not None:
            self.error_type = error_type


class BrokerUnreachable(BrokerError):
    error_type = ErrorType.REFUSED


class BrokerRefused(BrokerError):
    error_type = ErrorType.AUTH


class TlsFailed(BrokerError):
    error_type = ErrorType.TLS


class ConnectionLost(BrokerError):
    error_type = ErrorType.LOST


def unexpected(where: str, error: Exception) -> ConnectionLost:
    """For a connection that ended by what nobody thought of. `where` is a node, never a URL with a password."""
    clean(error)
    lost = ConnectionLost(
        f"{where}: an error in mlproducer itself ended the connection ({type(error).__name__}: {error}): the log says "
        "where; please report it",
        error_type=ErrorType.INTERNAL,
    )
    lost.__cause__ = error
    return lost


class WorkerError(MLProducerError):
    """In a worker: its task cannot run as it should."""


class PayloadUnavailable(WorkerError):
    """The store of large payloads cannot be read now; later it may."""


class PayloadMissing(WorkerError):
    """The store has no such payload: removed too early, or another store."""


class PayloadDamaged(WorkerError):
    """Size or checksum differ from what was published, or the reference is none of ours."""


class OnceUnavailable(WorkerError):
    """The memory of done tasks cannot be asked now."""


class WrongLoop(MLProducerError):
    """A producer is used elsewhere than it was started: nothing was done. It is a fault of the program, and no refusal
    of a task: the message names the right way.
    """


class SettingsError(MLProducerError):
    """A setting is wrong or missing; the message names it."""


class NotFound(MLProducerError):
    """No such task, share, dead letter or payload."""
