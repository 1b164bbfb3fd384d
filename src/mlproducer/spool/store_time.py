"""The one time that a database's spool has, whichever database it is (docs/adr/0015)."""

from __future__ import annotations

from typing import Any, Final, Protocol

from sqlalchemy import ColumnElement, Connection, Double, Engine, literal_column

SERVER_TIME: Final = "extract(epoch FROM statement_timestamp())::float8"
"""PostgreSQL's own clock, in Unix seconds. One moment for the whole of a statement, so an index can serve a comparison
with it, and two columns get the same. A statement that waits for a lock has the moment at which it was asked: whoever
asked counts from before that, so to him his lease is over first."""
SERVER_NOW: Final[ColumnElement[float]] = literal_column(SERVER_TIME, Double)


class StoreTime(Protocol):
    """`FileTime` of a SQLite file, `ServerTime` of PostgreSQL."""

    def now(self) -> Any:  # noqa: ANN401  # a number, or an expression; SQLAlchemy's operators take either
        """For statements about delays, leases, claims, and how long something is kept."""
        ...

    def utc(self) -> Any:  # noqa: ANN401  # as above
        """For statements about an `expires_at`."""
        ...

    def after(self, span: float) -> float:
        """The moment in `span` seconds, as `bulk` takes it: on a server that is the span, to which it adds its time."""
        ...

    def due(self, delay: float, eta: float | None) -> float:
        """As `after`, but not before the eta."""
        ...

    def told(self, moment: float) -> float:
        """A stored moment, for people: Unix seconds."""
        ...

    def look(self, writing: Engine) -> None:
        """Before a transaction, in one of its own: put right what was upset because the wall clock was set."""
        ...

    def note(self, connection: Connection) -> None:
        """Within a transaction: how far time has come."""
        ...


class ServerTime:
    """The server's clock decides, in each statement. An eta is compared as it is: it is UTC, and so is that clock."""

    def now(self) -> ColumnElement[float]:
        return SERVER_NOW

    def utc(self) -> ColumnElement[float]:
        return SERVER_NOW

    def after(self, span: float) -> float:
        return span

    def due(self, delay: float, eta: float | None) -> float:  # noqa: ARG002  # the statement sees the eta
        return delay

    def told(self, moment: float) -> float:
        return moment

    def look(self, writing: Engine) -> None:
        """Nobody sets it for us."""

    def note(self, connection: Connection) -> None:
        """It needs no notes."""
