"""How tasks are written in Redis: msgpack in places where only we look, and two lengths that the scripts know too.

An **entry** is all of a task but its content: four bytes of length, that many bytes of what is *kept* from one life of
the task to the next, and what is *told* of the present one. So a script can replay a dead letter by replacing the
latter, and a list can be shown without reading content.

**Content** is four bytes of the properties' length, the properties, the body: `Envelope.size` and four.

Arrays, not maps, since there may be a million of them; a field that a later version needs goes to the end.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Final

from msgspec import Struct, msgpack, structs

from mlproducer.core.digest import content_digest
from mlproducer.rows import (
    Attempted,
    Audit,
    Bury,
    Claim,
    DeadEntry,
    DeadFilter,
    DeadLetter,
    Done,
    History,
    Known,
    NewRow,
    Record,
    SpoolRow,
    WaitingEntry,
)
from mlproducer.spool.redis.lua import BEFORE_TENANT, CONTENT_HEAD
from mlproducer.task import Envelope, Flow

_LENGTHS: Final = struct.Struct(">III")

VERSION: Final = 3
"""Of the layout here and in `lua`; a spool of a newer one is refused. 2: routes. 3: tenants."""


class _Kept(Struct, array_like=True, frozen=True):
    """The scripts look at the first three, the fifth and the last."""

    task_type: str
    accepted_at: float
    expires_at: float | None
    eta: float | None
    routing_key: str
    size: int
    history: list[tuple[float, str, int | None, str]]
    tenant: str = ""


class _Waits(Struct, array_like=True, frozen=True):
    due_at: float
    attempts: int
    cause: str
    text: str
    alone: bool


class _Died(Struct, array_like=True, frozen=True):
    """The scripts look at the third and the fourth."""

    died_at: float
    attempts: int
    reason: str
    text: str
    code: int | None


class _Audited(Struct, array_like=True, frozen=True):
    at: float
    by: str
    action: str
    detail: str


_encoder: Final = msgpack.Encoder()
_kept: Final = msgpack.Decoder(_Kept)
_waits: Final = msgpack.Decoder(_Waits)
_died: Final = msgpack.Decoder(_Died)
_record: Final = msgpack.Decoder(Record)
_audited: Final = msgpack.Decoder(_Audited)
_ids: Final = msgpack.Decoder(tuple[str, ...])


def number(value: float) -> str:
    """A time as scores and scripts take it: no digit is lost."""
    return repr(float(value))


def optional(value: float | None) -> str:
    return "" if value is None else number(value)


def pack(value: object) -> bytes:
    return _encoder.encode(value)


def content(envelope: Envelope) -> bytes:
    return b"".join((len(envelope.properties).to_bytes(CONTENT_HEAD), envelope.properties, envelope.body))


def flow_name(flow: Flow) -> bytes:
    """As the scripts call it."""
    route = flow.route.encode()
    return route + BEFORE_TENANT + flow.tenant.encode() if flow.tenant else route


def flow_from(name: bytes) -> Flow:
    route, _, tenant = name.partition(BEFORE_TENANT)
    return Flow(route.decode(), tenant.decode())


def row_entry(row: NewRow) -> bytes:
    return _entry(row.envelope, row.accepted_at, row.history, told_of(row.attempts, row.cause, row.text, row.alone))


def told_of(attempts: int, cause: str, text: str, alone: bool) -> bytes:  # noqa: FBT001  # fields of a row
    """Of a row, without when it is due: that is the script's to put in, as the first of the array, a double."""
    return pack(_Waits(0.0, attempts, cause, storable(text), alone))


def letter_entry(row: SpoolRow, verdict: Bury) -> bytes:
    told = _Died(verdict.died_at, verdict.attempts, verdict.reason, storable(verdict.text), verdict.code)
    return _entry(row.envelope, row.accepted_at, verdict.history, pack(told))


def done_record(row: SpoolRow, verdict: Done) -> bytes:
    task = row.envelope
    claim = Claim(task.task_id, task.task_type, content_digest(task), row.accepted_at)
    return record(claim, verdict.confirmed_at, row.attempts)


def record(claim: Claim, confirmed_at: float | None = None, attempts: int = 0) -> bytes:
    """Without its ends, which are in `kept` and `claims`."""
    end, token = 0.0, claim.token if confirmed_at is None else ""
    return pack(
        Record(
            claim.task_id,
            claim.task_type,
            claim.digest,
            claim.accepted_at,
            end,
            confirmed_at,
            attempts,
            held_until=end if confirmed_at is None else None,
            token=token,
        )
    )


def audit_head(audit: Audit) -> bytes:
    """All but the ids, which the script adds when it knows which were found."""
    return pack(_Audited(audit.at, storable(audit.by), audit.action, storable(audit.detail)))


def storable(text: str) -> str:
    """Words for people may hold half a character (a lone surrogate, as in a bad file name); no store takes those."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def row_from(task_id: str, entry: bytes, content: bytes) -> SpoolRow:
    kept, rest = _split(entry)
    told = _waits.decode(rest)
    return SpoolRow(
        _envelope(task_id, kept, content),
        kept.accepted_at,
        told.due_at,
        told.attempts,
        told.cause,
        told.text,
        told.alone,
        _history(kept),
    )


def rows_from(leased: bytes) -> Iterator[SpoolRow]:
    """The answer of `changes.LEASE`."""
    at = 0
    while at < len(leased):
        of_id, of_entry, of_content = _LENGTHS.unpack_from(leased, at)
        entry = at + _LENGTHS.size + of_id
        content = entry + of_entry
        task_id = leased[at + _LENGTHS.size : entry].decode()
        at = content + of_content
        yield row_from(task_id, leased[entry:content], leased[content:at])


def known_from(task_id: str, found: list[bytes] | None) -> Known | None:
    """What the scripts' `known` answered."""
    if found is None:
        return None
    if found[0] == b"row":
        return row_from(task_id, found[1], found[2])
    if found[0] == b"dead":
        kept, rest = _split(found[1])
        told = _died.decode(rest)
        return DeadLetter(
            _envelope(task_id, kept, found[2]),
            kept.accepted_at,
            told.died_at,
            told.attempts,
            told.reason,
            told.code,
            told.text,
            _history(kept),
        )
    _, packed, keep_until, claim = found
    held = claim.partition(b" ")[0]
    return structs.replace(
        _record.decode(packed), keep_until=float(keep_until), held_until=float(held) if held else None
    )


def waiting_entry(task_id: str, entry: bytes) -> WaitingEntry:
    kept, rest = _split(entry)
    told = _waits.decode(rest)
    return WaitingEntry(
        task_id,
        kept.task_type,
        kept.routing_key,
        kept.size,
        kept.accepted_at,
        told.due_at,
        told.attempts,
        told.cause,
        told.text,
        _history(kept),
    )


def dead_entry(task_id: str, entry: bytes) -> DeadEntry:
    kept, rest = _split(entry)
    told = _died.decode(rest)
    return DeadEntry(
        task_id,
        kept.task_type,
        kept.routing_key,
        kept.size,
        kept.accepted_at,
        told.died_at,
        told.attempts,
        told.reason,
        told.code,
        told.text,
        _history(kept),
    )


def audit_from(stored: bytes) -> Audit:
    head, rest = _parts(stored)
    told = _audited.decode(head)
    return Audit(told.at, told.by, told.action, told.detail, _ids.decode(rest))


def wanted(where: DeadFilter) -> dict[str, Any]:
    """What a script must look into dead letters for; empty if their times say enough. Small letters are ASCII's."""
    text = None if where.text is None else storable(where.text).encode().lower().decode()
    looked_for = {"type": where.task_type, "reason": where.reason, "text": text}
    return {name: value for name, value in looked_for.items() if value is not None}


def _entry(envelope: Envelope, accepted_at: float, history: History, told: bytes) -> bytes:
    kept = pack(
        _Kept(
            envelope.task_type,
            accepted_at,
            envelope.expires_at,
            envelope.eta,
            envelope.routing_key,
            envelope.size,
            [(each.at, each.outcome, each.code, storable(each.text)) for each in history],
            envelope.tenant,
        )
    )
    return b"".join((len(kept).to_bytes(4), kept, told))


def _parts(stored: bytes) -> tuple[memoryview, memoryview]:
    view = memoryview(stored)
    end = 4 + int.from_bytes(view[:4])
    return view[4:end], view[end:]


def _split(entry: bytes) -> tuple[_Kept, memoryview]:
    kept, told = _parts(entry)
    return _kept.decode(kept), told


def _envelope(task_id: str, kept: _Kept, content: bytes) -> Envelope:
    end = CONTENT_HEAD + int.from_bytes(content[:CONTENT_HEAD])
    properties, body = content[CONTENT_HEAD:end], content[end:]
    told = (kept.expires_at, kept.eta, kept.tenant)
    return Envelope(task_id, kept.task_type, kept.routing_key, properties, body, *told)


def _history(kept: _Kept) -> History:
    return tuple(Attempted(*each) for each in kept.history)
