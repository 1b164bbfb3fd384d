"""Version 4: counters by hour, and the ids of what was counted."""

from __future__ import annotations

from typing import Final

_KEEP_UNTIL: Final = "CREATE INDEX mlproducer_counted_keep_until ON mlproducer_counted (keep_until)"

UPGRADE: Final = {
    "sqlite": (
        # Clustered by their keys: the rows are hardly larger than those.
        """
        CREATE TABLE mlproducer_counts (
            hour INTEGER NOT NULL, task_type TEXT NOT NULL, kind TEXT NOT NULL, label TEXT NOT NULL,
            total INTEGER NOT NULL, PRIMARY KEY (hour, task_type, kind, label)
        ) WITHOUT ROWID
        """,
        "CREATE TABLE mlproducer_counted (id TEXT PRIMARY KEY NOT NULL, keep_until REAL NOT NULL) WITHOUT ROWID",
        _KEEP_UNTIL,
    ),
    "postgresql": (
        """
        CREATE TABLE mlproducer_counts (
            hour BIGINT NOT NULL, task_type TEXT COLLATE "C" NOT NULL, kind TEXT COLLATE "C" NOT NULL,
            label TEXT COLLATE "C" NOT NULL, total BIGINT NOT NULL, PRIMARY KEY (hour, task_type, kind, label)
        )
        """,
        """
        CREATE TABLE mlproducer_counted (
            id TEXT COLLATE "C" PRIMARY KEY, keep_until DOUBLE PRECISION NOT NULL CHECK (keep_until <> 'NaN')
        )
        """,
        _KEEP_UNTIL,
    ),
}
