"""Version 5: when a row was due for the first time, which is where its age is counted from. Not from its acceptance: a
task that waits for its eta, or that was dead for long and is replayed, is not late.
"""

from __future__ import annotations

from typing import Final

_INDEX: Final = (
    "CREATE INDEX mlproducer_waiting_first_due_at ON mlproducer_waiting (coalesce(first_due_at, accepted_at))"
)


def _upgrade(kind: str) -> tuple[str, ...]:
    return (
        # No default and not required: outboxes of older applications go on inserting without it.
        f"ALTER TABLE mlproducer_waiting ADD COLUMN first_due_at {kind}",
        "UPDATE mlproducer_waiting SET first_due_at = eta WHERE eta > accepted_at",
        "DROP INDEX mlproducer_waiting_accepted_at",
        _INDEX,
    )


UPGRADE: Final = {"sqlite": _upgrade("REAL"), "postgresql": _upgrade("DOUBLE PRECISION")}
