"""Version 1: the retry queue, the dead letter queue and their totals."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection

_DDL: Final = (
    """
    CREATE TABLE waiting (
        task_id TEXT PRIMARY KEY NOT NULL, task_type TEXT NOT NULL, routing_key TEXT NOT NULL,
        properties BLOB NOT NULL, body BLOB NOT NULL, size INTEGER NOT NULL, expires_at REAL, eta REAL,
        accepted_at REAL NOT NULL, due_at REAL NOT NULL, free_at REAL NOT NULL, token TEXT,
        attempts INTEGER NOT NULL, cause TEXT NOT NULL, text TEXT NOT NULL, alone INTEGER NOT NULL
    )
    """,
    "CREATE INDEX waiting_free_at ON waiting (free_at)",
    "CREATE INDEX waiting_accepted_at ON waiting (accepted_at)",
    """
    CREATE TABLE dead_letters (
        task_id TEXT PRIMARY KEY NOT NULL, task_type TEXT NOT NULL, routing_key TEXT NOT NULL,
        properties BLOB NOT NULL, body BLOB NOT NULL, size INTEGER NOT NULL, expires_at REAL, eta REAL,
        accepted_at REAL NOT NULL, died_at REAL NOT NULL, attempts INTEGER NOT NULL, reason TEXT NOT NULL,
        code INTEGER, text TEXT NOT NULL
    )
    """,
    "CREATE INDEX dead_letters_died_at ON dead_letters (died_at)",
    """
    CREATE TABLE totals (
        id INTEGER PRIMARY KEY, tasks INTEGER NOT NULL, bytes INTEGER NOT NULL, dead INTEGER NOT NULL
    )
    """,
    "INSERT INTO totals VALUES (1, 0, 0, 0)",
)


def upgrade(connection: Connection) -> None:
    for statement in _DDL:
        connection.exec_driver_sql(statement)
