"""Version 8: the rows of one tenant on a route are found without reading those of another.

One index, as before: where nobody has a tenant, it is as large as it was and asked as it was.
"""

from __future__ import annotations

from typing import Final


def _upgrade(kind: str, index: str) -> tuple[str, ...]:
    return (
        # With a default: producers and outboxes of older versions go on inserting without it.
        f"ALTER TABLE mlproducer_waiting ADD COLUMN tenant {kind} NOT NULL DEFAULT ''",
        f"ALTER TABLE mlproducer_dead_letters ADD COLUMN tenant {kind} NOT NULL DEFAULT ''",
        # Under the name that it had: a producer of version 7 that is running asks SQLite for it by name.
        "DROP INDEX mlproducer_waiting_route",
        f"CREATE INDEX mlproducer_waiting_route ON mlproducer_waiting ({index})",
    )


UPGRADE: Final = {
    "sqlite": _upgrade("TEXT", "routing_key, tenant, free_at, size"),
    "postgresql": _upgrade('TEXT COLLATE "C"', "routing_key, tenant, free_at"),
}
