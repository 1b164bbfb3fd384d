"""Version 2: two questions that read every row, bodies and all, of a large spool are answered from an index."""

from __future__ import annotations

from sqlalchemy import Connection


def upgrade(connection: Connection) -> None:
    # The list of what waits. Not over `task_id` too: ids are random, and each put would touch one more random page
    # for the sake of ties.
    connection.exec_driver_sql("CREATE INDEX waiting_due_at ON waiting (due_at)")
    # The leases of a dead owner, which end when the file is opened.
    connection.exec_driver_sql("CREATE INDEX waiting_held ON waiting (token) WHERE token IS NOT NULL")
