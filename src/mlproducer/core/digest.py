"""Equal content, equal digest: in every process, on every machine, in every version."""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from mlproducer.task import Envelope

DIGEST_SIZE: Final = 16
"""Bytes. 128 bits: two contents that meet by chance are not to be expected, and an id with other content is refused,
never mixed up."""


def content_digest(envelope: Envelope) -> bytes:
    """Of what the worker is given: the route and the body. Not of headers such as `traceparent`, priority or times:
    a caller who asks again with a new trace means the same task.
    """
    route = envelope.routing_key.encode()
    return blake2b(len(route).to_bytes(2) + route + envelope.body, digest_size=DIGEST_SIZE).digest()
