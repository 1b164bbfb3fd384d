"""Between the port's values and the tables' columns, both ways."""

from __future__ import annotations

from typing import Final

import msgspec
from sqlalchemy import RowMapping

from mlproducer.rows import Audit, DeadEntry, DeadLetter, History, NewRow, Record, SpoolRow, WaitingEntry
from mlproducer.spool.schema import dead_letters, waiting
from mlproducer.spool.store_time import StoreTime
from mlproducer.task import Envelope

record_values: Final = msgspec.structs.astuple
"""Of a `Record`, in the order of `schema.records`, which is that of its fields."""
_encode_json: Final = msgspec.json.Encoder().encode
_decode_history: Final = msgspec.json.Decoder(History).decode
_decode_ids: Final = msgspec.json.Decoder(tuple[str, ...]).decode


def storable(text: str) -> str:
    """Words for people may hold half a character (a lone surrogate, as in a bad file name) or a NUL; not every store
    takes those.
    """
    if text.isascii() and "\0" not in text:
        return text
    return text.encode("utf-8", "replace").decode().replace("\0", "?")


def _envelope_values(task: Envelope) -> tuple[object, ...]:
    """In the order of `schema`'s columns of an envelope."""
    return (
        task.task_id,
        task.task_type,
        task.routing_key,
        task.properties,
        task.body,
        task.size,
        task.expires_at,
        task.eta,
    )


def waiting_values(row: NewRow, due_at: float, *, counted: bool = True) -> tuple[object, ...]:
    """In the order of `schema.waiting`: one of them is made for every task of an outage. `due_at` is what
    `StoreTime.due` gave; `counted=False` is for the outbox: see `outbox_columns`.
    """
    return (
        *_envelope_values(row.envelope),
        row.accepted_at,
        due_at,
        due_at,  # free_at
        None,  # token
        row.attempts,
        row.cause,
        storable(row.text),
        int(row.alone),
        history_text(row.history),
        int(counted),
        due_at,  # first_due_at
        row.envelope.tenant,
    )


def outbox_columns(envelope: Envelope, now: float) -> dict[str, object]:
    """For an INSERT into `schema.waiting` inside the user's own transaction: every column, by its name and "_",
    not counted yet. `now`, of the wall clock, is when it is accepted; when it is due is the statement's to say.

    The totals must be left alone; on PostgreSQL, `pg_notify(schema.CHANNEL, '')` in the same transaction wakes the
    drains when it commits.
    """
    values = waiting_values(NewRow(envelope, now, cause="outbox"), now, counted=False)
    return {f"{name}_": value for name, value in zip(waiting.c.keys(), values, strict=True)}


def dead_columns(letter: DeadLetter) -> dict[str, object]:
    values = (
        *_envelope_values(letter.envelope),
        letter.accepted_at,
        letter.died_at,
        letter.attempts,
        letter.reason,
        letter.code,
        storable(letter.text),
        history_text(letter.history),
        letter.envelope.tenant,
    )
    return dict(zip(dead_letters.c.keys(), values, strict=True))


def audit_columns(audit: Audit, found: tuple[str, ...]) -> dict[str, object]:
    """`found`: the ids that were there."""
    return {
        "at": audit.at,
        "who": storable(audit.by),
        "action": audit.action,
        "detail": storable(audit.detail),
        "task_ids": _encode_json(found).decode(),
    }


def history_text(history: History) -> str:
    """JSON; empty for none, which is what most rows have."""
    if not history:
        return ""
    return _encode_json([msgspec.structs.replace(each, text=storable(each.text)) for each in history]).decode()


def row_from(found: RowMapping, time: StoreTime) -> SpoolRow:
    return SpoolRow(
        _envelope_from(found),
        found["accepted_at"],
        time.told(found["due_at"]),
        found["attempts"],
        found["cause"],
        found["text"],
        bool(found["alone"]),
        _history_from(found["history"]),
    )


def letter_from(found: RowMapping, _time: StoreTime) -> DeadLetter:
    return DeadLetter(
        _envelope_from(found),
        found["accepted_at"],
        found["died_at"],
        found["attempts"],
        found["reason"],
        found["code"],
        found["text"],
        _history_from(found["history"]),
    )


def token_of(who: str, token: str) -> str:
    """As it is stored: with whose it is, so that others can end what a dead process held."""
    return f"{who}-{token}"


def record_from(found: RowMapping, time: StoreTime) -> Record:
    held_until = found["held_until"]
    return Record(
        found["task_id"],
        found["task_type"],
        found["digest"],
        found["accepted_at"],
        time.told(found["keep_until"]),
        found["confirmed_at"],
        found["attempts"],
        None if held_until is None else time.told(held_until),
        found["token"].rpartition("-")[2],  # as the claim had it; older versions stored nothing before it
    )


def audit_from(found: RowMapping) -> Audit:
    return Audit(found["at"], found["who"], found["action"], found["detail"], _decode_ids(found["task_ids"]))


WAITING_SHOWN: Final = tuple(WaitingEntry.__struct_fields__)
DEAD_SHOWN: Final = tuple(DeadEntry.__struct_fields__)
"""The columns of a list entry have the names of its fields."""


def waiting_entry(found: RowMapping, time: StoreTime) -> WaitingEntry:
    told = {"due_at": time.told(found["due_at"]), "history": _history_from(found["history"])}
    return WaitingEntry(**{**found, **told})


def dead_entry(found: RowMapping) -> DeadEntry:
    return DeadEntry(**{**found, "history": _history_from(found["history"])})


def _history_from(text: str) -> History:
    return _decode_history(text) if text else ()


def _envelope_from(found: RowMapping) -> Envelope:
    return Envelope(
        found["task_id"],
        found["task_type"],
        found["routing_key"],
        found["properties"],
        found["body"],
        found["expires_at"],
        found["eta"],
        found["tenant"],
    )
