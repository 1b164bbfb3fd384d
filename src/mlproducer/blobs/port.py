"""What the claim check, the workers and the cleaning need of a store. All calls block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

FRESH: Final = 3600.0
"""Seconds. `put` leaves a blob of the same key alone if it was written in the last hour, and else writes it again, so
that it is young again for the cleaning: a payload that is published again must not be removed for its first time."""

MIN_AGE: Final = 2 * FRESH
"""Seconds. The least age at which cleaning may remove: `put` vouches for a blob of up to `FRESH`, and the message that
refers to it still needs time to be published."""


@dataclass(frozen=True, slots=True)
class Blob:
    """One stored payload; `written_at` is Unix seconds, by the store's clock."""

    key: str
    size: int
    written_at: float


class BlobStore(Protocol):
    """Blobs by key. Keys are `envelope.reference.key_of`, so what is under a key never changes.

    Every method raises `BlobStoreUnavailable`, if the store cannot be used now.
    """

    def put(self, key: str, data: bytes | memoryview) -> None:
        """Store the blob whole, or nothing. Durable on return. The same key may be put at the same time by others."""
        ...

    def get(self, key: str, limit: int) -> bytes:
        """The blob, or its first `limit` bytes (one or more). Raises: NotFound."""
        ...

    def delete(self, key: str, *, older_than: float) -> bool:
        """Remove the blob, if it is there and was written before `older_than` (Unix seconds), as is looked up anew."""
        ...

    def older_than(self, moment: float) -> Iterator[Blob]:
        """The blobs written before `moment` (Unix seconds), in no certain order; foreign files are not ours to list."""
        ...
