"""Version 6: a SQLite file has a time of its own, and finds the rows that have an eta."""

from __future__ import annotations

from typing import Final

UPGRADE: Final = (
    """
    CREATE TABLE mlproducer_clock (
        id INTEGER PRIMARY KEY CHECK (id = 1), origin REAL NOT NULL, skew REAL NOT NULL, mark REAL NOT NULL
    )
    """,
    "CREATE INDEX mlproducer_waiting_eta ON mlproducer_waiting (eta) WHERE eta IS NOT NULL",
)
