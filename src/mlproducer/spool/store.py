"""What the spool needs to know of a database that is open, whichever it is."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from sqlalchemy import Engine

from mlproducer.errors import SpoolUnavailable
from mlproducer.spool.store_time import StoreTime


class Store(Protocol):
    """An open and migrated database. `SqliteStore` and `PostgresStore` are these."""

    @property
    def name(self) -> str:
        """For people: never a password."""
        ...

    @property
    def writing(self) -> Engine:
        """Of one connection, for the one thread that writes."""
        ...

    @property
    def reading(self) -> Engine:
        """Its transactions see one moment of the database."""
        ...

    @property
    def time(self) -> StoreTime:
        """By which all of it is decided."""
        ...

    @property
    def slot(self) -> int:
        """Which row of the totals this writer adds to."""
        ...

    @property
    def who(self) -> str:
        """This instance, apart from all others of now and before."""
        ...

    @property
    def patience(self) -> float | None:
        """Seconds after which a call is `cut`; None if the store itself ends what takes too long."""
        ...

    @property
    def overdue(self) -> float:
        """Seconds: who waited longer than that while a try failed is told of it, and not made to wait for another."""
        ...

    def turn(self) -> AbstractContextManager[None]:
        """What to hold while a transaction writes. Blocks for a bounded time."""
        ...

    def cut(self, engine: Engine) -> None:
        """Break the engine's connections, so that the threads that wait on them wake with an error."""
        ...

    def refusal(self) -> str | None:
        """Why nothing new may be committed now: it would not be found again, or leave no room to take it out."""
        ...

    def explain(self, error: Exception) -> SpoolUnavailable:
        """What the store said, the likely cause, and the setting to change; never what was to be stored.

        Its `__cause__` is the error, unless that one might quote a row.
        """
        ...

    def blames_the_store(self, error: Exception) -> bool:
        """True for what would fail any other row as well: a full disk, a lost server, damage."""
        ...

    def may_pass(self, error: Exception) -> bool:
        """True if the same transaction, run again at once, may go through: it lost to another one."""
        ...

    def close(self) -> None:
        """Blocks. Lets go of all that `open` took."""
        ...
