"""One transaction of a spool: the connection, and what it adds to the totals when all else is done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, text

from mlproducer.spool.bulk import is_postgresql
from mlproducer.spool.schema import CHANNEL
from mlproducer.spool.store_time import StoreTime

_COUNT: Final = text("""
    INSERT INTO mlproducer_totals (slot, tasks, bytes, dead) VALUES (:slot, :tasks, :size, :dead)
    ON CONFLICT (slot) DO UPDATE SET tasks = mlproducer_totals.tasks + excluded.tasks,
        bytes = mlproducer_totals.bytes + excluded.bytes, dead = mlproducer_totals.dead + excluded.dead
""")
_COUNT_AND_TELL: Final = text(f"{_COUNT.text} RETURNING pg_notify(:channel, :who)")
"""On PostgreSQL: one statement, and so one way there and back."""


@dataclass(slots=True)
class Transaction:
    """Statements run on `connection` and `count` what they change; `finish` is the last thing before the commit."""

    connection: Connection
    time: StoreTime
    tasks: int = 0
    size: int = 0
    dead: int = 0
    added: bool = False
    """Rows were added that any drain may take."""

    def count(self, *, tasks: int = 0, size: int = 0, dead: int = 0) -> None:
        self.tasks += tasks
        self.size += size
        self.dead += dead

    def take_in(self, other: Transaction) -> None:
        """What was done within a savepoint, and stays."""
        self.count(tasks=other.tasks, size=other.size, dead=other.dead)
        self.added = self.added or other.added

    def finish(self, slot: int, who: str) -> None:
        """Add to the totals, in the slot of this writer, and tell others of new rows.

        Last, and once: two writers whose slots are one (it is a hash) wait for each other only from here to the
        commit, and neither holds the slot while it waits for a row that the other has.
        """
        self.time.note(self.connection)
        given = {"slot": slot, "tasks": self.tasks, "size": self.size, "dead": self.dead}
        if self.added and is_postgresql(self.connection):
            self.connection.execute(_COUNT_AND_TELL, {**given, "channel": CHANNEL, "who": who})
        elif self.tasks or self.size or self.dead:
            self.connection.execute(_COUNT, given)
