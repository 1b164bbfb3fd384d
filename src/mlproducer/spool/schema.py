"""The tables as the present version has them. How a database got there, and its indexes, are in `migrations`.

Each name has a prefix, because the tables may live in the user's own database: there the outbox writes to them in the
user's own transactions.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
)

SPAN: Final = {"span": True}
"""Of a column that is written as a span, to which a server adds its time: see `store_time`."""
CHANNEL: Final = "mlproducer_waiting"
"""PostgreSQL: who commits rows for others to drain says so here, with `pg_notify(CHANNEL, who)`."""

metadata = MetaData()


def _envelope() -> tuple[Column[object], ...]:
    return (
        Column("task_id", Text, primary_key=True),
        Column("task_type", Text, nullable=False),
        Column("routing_key", Text, nullable=False),
        Column("properties", LargeBinary, nullable=False),
        Column("body", LargeBinary, nullable=False),
        Column("size", Integer, nullable=False),
        Column("expires_at", Double),
        Column("eta", Double),
    )


waiting = Table(
    "mlproducer_waiting",
    metadata,
    *_envelope(),
    Column("accepted_at", Double, nullable=False),
    Column("due_at", Double, nullable=False, info=SPAN),
    # When the row may be leased next: `due_at`, or the end of its lease while somebody holds it. One index serves both.
    Column("free_at", Double, nullable=False, info=SPAN),
    Column("token", Text),
    Column("attempts", Integer, nullable=False),
    Column("cause", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("alone", Integer, nullable=False),
    Column("history", Text, nullable=False),
    # 0: not in the totals yet. The outbox inserts so: a totals row changed in the user's transaction would be locked
    # for as long as that lasts. `measure` adds what is not counted, and the first lease of a row counts it in.
    Column("counted", Integer, nullable=False),
    # When it was due for the first time. Null: an outbox of an older version put it, when it was accepted.
    Column("first_due_at", Double, info=SPAN),
    Column("tenant", Text, nullable=False),
)

dead_letters = Table(
    "mlproducer_dead_letters",
    metadata,
    *_envelope(),
    Column("accepted_at", Double, nullable=False),
    Column("died_at", Double, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("code", Integer),
    Column("text", Text, nullable=False),
    Column("history", Text, nullable=False),
    Column("tenant", Text, nullable=False),
)

# Claims (`confirmed_at` is null) and confirmed tasks, without content.
records = Table(
    "mlproducer_records",
    metadata,
    Column("task_id", Text, primary_key=True),
    Column("task_type", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("accepted_at", Double, nullable=False),
    Column("keep_until", Double, nullable=False, info=SPAN),
    Column("confirmed_at", Double),
    Column("attempts", Integer, nullable=False),
    Column("held_until", Double, info=SPAN),
    Column("token", Text, nullable=False),
)
UNCONFIRMED: Final = records.c.confirmed_at.is_(None)
"""It is a claim."""

audits = Table(
    "mlproducer_audits",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("at", Double, nullable=False),
    Column("who", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("task_ids", Text, nullable=False),
)

# Sums by hour, to which all instances add. See `rows.CountKey`.
counts = Table(
    "mlproducer_counts",
    metadata,
    Column("hour", BigInteger, primary_key=True, autoincrement=False),
    Column("task_type", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("label", Text, primary_key=True),
    Column("total", BigInteger, nullable=False),
)

# The ids of what was added to them, so that it is added once.
counted = Table(
    "mlproducer_counted",
    metadata,
    Column("id", Text, primary_key=True),
    Column("keep_until", Double, nullable=False, info=SPAN),
)

# Of a SQLite file alone, one row: see `file_time`.
clock = Table(
    "mlproducer_clock",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("origin", Double, nullable=False),
    Column("skew", Double, nullable=False),
    Column("mark", Double, nullable=False),
)

# Kept by the same transactions that change the tables: counting a million rows each second would not do. One row a
# slot, a slot for each writer: one row for all would make many producers' commits wait for each other. Only the sums
# mean something; a slot whose rows others settled goes below zero.
totals = Table(
    "mlproducer_totals",
    metadata,
    Column("slot", Integer, primary_key=True, autoincrement=False),
    Column("tasks", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("dead", BigInteger, nullable=False),
)
