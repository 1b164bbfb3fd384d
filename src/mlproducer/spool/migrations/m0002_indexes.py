"""Version 2: two questions that read every row, bodies and all, of a large spool are answered from an index."""

from __future__ import annotations

from typing import Final

UPGRADE: Final = (
    # The list of what waits. Not over `task_id` too: ids are random, and each put would touch one more random page
    # for the sake of ties.
    "CREATE INDEX waiting_due_at ON waiting (due_at)",
    # The leases of a dead owner, which end when the file is opened.
    "CREATE INDEX waiting_held ON waiting (token) WHERE token IS NOT NULL",
)
