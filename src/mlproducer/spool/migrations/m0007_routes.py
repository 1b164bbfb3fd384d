"""Version 7: the rows of one route are found without reading those of another."""

from __future__ import annotations

from typing import Final

UPGRADE: Final = {
    # Over `size` too, so that it is known from the index alone: in the row it lies behind the content.
    "sqlite": ("CREATE INDEX mlproducer_waiting_route ON mlproducer_waiting (routing_key, free_at, size)",),
    "postgresql": (
        # By their bytes, as ids: an index by the rules of a language is wrong when the system's next release has
        # others.
        'ALTER TABLE mlproducer_waiting ALTER COLUMN routing_key TYPE TEXT COLLATE "C"',
        "CREATE INDEX mlproducer_waiting_route ON mlproducer_waiting (routing_key, free_at)",
    ),
}
