"""The claim check: a body that is too large for the broker becomes a payload to store and a small body. Pure.

    body                                                  substitute
    [[], {"share_id": "7", "content": "…8 MiB…"}, {…}]    [[], {"share_id": "7", "ml_claim_check": {…}}, {…}]
         └─────────────── payload ───────────────┘

Ids, route, headers and priority stay. Small values at the top level stay visible beside the reference, for people who
look at a queue; the worker takes all of them from the payload. Equal bodies give equal substitutes, byte for byte,
so a task published again is known as the same task.
"""

from __future__ import annotations

from typing import Final

import msgspec

from mlproducer.envelope.reference import KEYWORD, Reference, refer_to
from mlproducer.errors import InvalidTask
from mlproducer.task import Envelope

SHOWN_VALUE: Final = 128
"""Bytes of JSON that one value may have to stay visible: an id, a number, not a text."""
SHOWN_TOTAL: Final = 2048
"""Bytes of all that stays visible, names included."""

# The layout that `envelope.encode` writes; a test holds the two together.
_HEAD: Final = b"[[],"
_TAIL: Final = b',{"callbacks":null,"errbacks":null,"chain":null,"chord":null}]'

_Fields = dict[str, msgspec.Raw]
_NESTED: Final = (b"{", b"[")


def needs_claim_check(size: int, threshold: int) -> bool:
    """`size` is the envelope's; `threshold` is `ML_CLAIM_CHECK_BYTES`."""
    return size > threshold


class Checked(msgspec.Struct, frozen=True):
    """Store `payload` under `reference.key`, then publish `envelope`."""

    payload: memoryview
    reference: Reference
    envelope: Envelope


def check_in(envelope: Envelope) -> Checked:
    """Take the payload out of an envelope. Scans and hashes the whole body: not for an event loop.

    Raises: InvalidTask, if the payload has a field of the reference's name.
    """
    payload = _payload(envelope.body)
    fields = msgspec.json.decode(payload, type=_Fields)
    if KEYWORD in fields:
        raise InvalidTask("the name is taken: it holds the reference to a stored payload", field=f"payload.{KEYWORD}")
    reference = refer_to(payload)
    told = msgspec.json.encode({**_shown(fields), KEYWORD: reference.as_json()})
    return Checked(payload, reference, msgspec.structs.replace(envelope, body=_HEAD + told + _TAIL))


def _payload(body: bytes) -> memoryview:
    if not (body.startswith(_HEAD) and body.endswith(_TAIL)):
        raise ValueError("the body has not the layout that the encoder writes")
    return memoryview(body)[len(_HEAD) : -len(_TAIL)]


def _shown(fields: _Fields) -> _Fields:
    """Scalars of few bytes, in their order, as long as there is room."""
    shown: _Fields = {}
    room = SHOWN_TOTAL
    for name, value in fields.items():
        raw = bytes(memoryview(value)[: SHOWN_VALUE + 1])
        cost = len(name.encode()) + len(raw)
        if len(raw) <= SHOWN_VALUE and not raw.startswith(_NESTED) and cost <= room:
            shown[name] = value
            room -= cost
    return shown
