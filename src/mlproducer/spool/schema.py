"""The tables as the present version has them. How a file got there is in `migrations`."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Column, Float, Integer, LargeBinary, MetaData, RowMapping, Select, Table, Text, literal, select

from mlproducer.ports import DeadLetter, SpoolRow
from mlproducer.task import Envelope

metadata = MetaData()

waiting = Table(
    "waiting",
    metadata,
    Column("task_id", Text, primary_key=True),
    Column("task_type", Text, nullable=False),
    Column("routing_key", Text, nullable=False),
    Column("properties", LargeBinary, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("size", Integer, nullable=False),
    Column("expires_at", Float),
    Column("eta", Float),
    Column("accepted_at", Float, nullable=False),
    Column("due_at", Float, nullable=False),
    # When the row may be leased next: `due_at`, or the end of its lease while somebody holds it. One index serves both.
    Column("free_at", Float, nullable=False),
    Column("token", Text),
    Column("attempts", Integer, nullable=False),
    Column("cause", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("alone", Integer, nullable=False),
)

dead_letters = Table(
    "dead_letters",
    metadata,
    Column("task_id", Text, primary_key=True),
    Column("task_type", Text, nullable=False),
    Column("routing_key", Text, nullable=False),
    Column("properties", LargeBinary, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("size", Integer, nullable=False),
    Column("expires_at", Float),
    Column("eta", Float),
    Column("accepted_at", Float, nullable=False),
    Column("died_at", Float, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("code", Integer),
    Column("text", Text, nullable=False),
)

# One row, kept by the same transactions that change the tables: counting a million rows each second would not do.
totals = Table(
    "totals",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("tasks", Integer, nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("dead", Integer, nullable=False),
)


_ENVELOPE: Final = ("task_id", "task_type", "routing_key", "properties", "body", "size", "expires_at", "eta")
REPLAYED: Final = (*_ENVELOPE, "accepted_at", "due_at", "free_at", "attempts", "cause", "text", "alone")


def replayed(now: float) -> Select[tuple[object, ...]]:
    """Dead letters as waiting rows, in the order of `REPLAYED`: due at `now`, with no attempts spent."""
    kept = (dead_letters.c[name] for name in (*_ENVELOPE, "accepted_at"))
    return select(*kept, *(literal(value) for value in (now, now, 0, "replayed", "", 0)))


def storable(text: str) -> str:
    """Words for people may hold half a character (a lone surrogate, as in a bad file name); no store takes those."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def envelope_columns(envelope: Envelope) -> dict[str, object]:
    return {
        "task_id": envelope.task_id,
        "task_type": envelope.task_type,
        "routing_key": envelope.routing_key,
        "properties": envelope.properties,
        "body": envelope.body,
        "size": envelope.size,
        "expires_at": envelope.expires_at,
        "eta": envelope.eta,
    }


def waiting_columns(row: SpoolRow) -> dict[str, object]:
    return {
        **envelope_columns(row.envelope),
        "accepted_at": row.accepted_at,
        "due_at": row.due_at,
        "free_at": row.due_at,
        "token": None,
        "attempts": row.attempts,
        "cause": row.cause,
        "text": storable(row.text),
        "alone": int(row.alone),
    }


def dead_columns(letter: DeadLetter) -> dict[str, object]:
    return {
        **envelope_columns(letter.envelope),
        "accepted_at": letter.accepted_at,
        "died_at": letter.died_at,
        "attempts": letter.attempts,
        "reason": letter.reason,
        "code": letter.code,
        "text": storable(letter.text),
    }


def row_from(found: RowMapping) -> SpoolRow:
    return SpoolRow(
        _envelope_from(found),
        found["accepted_at"],
        found["due_at"],
        found["attempts"],
        found["cause"],
        found["text"],
        bool(found["alone"]),
    )


def letter_from(found: RowMapping) -> DeadLetter:
    return DeadLetter(
        _envelope_from(found),
        found["accepted_at"],
        found["died_at"],
        found["attempts"],
        found["reason"],
        found["code"],
        found["text"],
    )


def _envelope_from(found: RowMapping) -> Envelope:
    return Envelope(
        found["task_id"],
        found["task_type"],
        found["routing_key"],
        found["properties"],
        found["body"],
        found["expires_at"],
        found["eta"],
    )
