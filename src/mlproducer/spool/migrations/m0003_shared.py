"""Version 3: tables that may live in the user's own database, on SQLite and PostgreSQL; records, histories, audits.

New databases begin here, with `NEW`; `UPGRADE` brings a SQLite file of version 2 to the same.
"""

from __future__ import annotations

from typing import Final

_INDEXES: Final = (
    "CREATE INDEX mlproducer_waiting_free_at ON mlproducer_waiting (free_at)",
    "CREATE INDEX mlproducer_waiting_accepted_at ON mlproducer_waiting (accepted_at)",
    "CREATE INDEX mlproducer_waiting_due_at ON mlproducer_waiting (due_at)",
    "CREATE INDEX mlproducer_waiting_expires_at ON mlproducer_waiting (expires_at) WHERE expires_at IS NOT NULL",
    # What the outbox put and nobody leased yet. Over `size`, so that their sum is read from the index alone.
    "CREATE INDEX mlproducer_waiting_uncounted ON mlproducer_waiting (size) WHERE counted = 0",
    "CREATE INDEX mlproducer_dead_letters_died_at ON mlproducer_dead_letters (died_at)",
    "CREATE INDEX mlproducer_records_keep_until ON mlproducer_records (keep_until)",
)

_SQLITE_ADDED: Final = (
    # Clustered by id: a record is hardly larger than an entry of the index that it would need besides.
    """
    CREATE TABLE mlproducer_records (
        task_id TEXT PRIMARY KEY NOT NULL, task_type TEXT NOT NULL, digest BLOB NOT NULL, accepted_at REAL NOT NULL,
        keep_until REAL NOT NULL, confirmed_at REAL, attempts INTEGER NOT NULL, held_until REAL, token TEXT NOT NULL
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE mlproducer_audits (
        id INTEGER PRIMARY KEY, at REAL NOT NULL, who TEXT NOT NULL, action TEXT NOT NULL, detail TEXT NOT NULL,
        task_ids TEXT NOT NULL
    )
    """,
    """
    CREATE TABLE mlproducer_totals (
        slot INTEGER PRIMARY KEY, tasks INTEGER NOT NULL, bytes INTEGER NOT NULL, dead INTEGER NOT NULL
    )
    """,
    *_INDEXES,
    # The leases of a dead owner, which end when the file is opened.
    "CREATE INDEX mlproducer_waiting_held ON mlproducer_waiting (token) WHERE token IS NOT NULL",
)

_SQLITE_NEW: Final = (
    """
    CREATE TABLE mlproducer_waiting (
        task_id TEXT PRIMARY KEY NOT NULL, task_type TEXT NOT NULL, routing_key TEXT NOT NULL,
        properties BLOB NOT NULL, body BLOB NOT NULL, size INTEGER NOT NULL, expires_at REAL, eta REAL,
        accepted_at REAL NOT NULL, due_at REAL NOT NULL, free_at REAL NOT NULL, token TEXT,
        attempts INTEGER NOT NULL, cause TEXT NOT NULL, text TEXT NOT NULL, alone INTEGER NOT NULL,
        history TEXT NOT NULL DEFAULT '', counted INTEGER NOT NULL DEFAULT 1
    )
    """,
    """
    CREATE TABLE mlproducer_dead_letters (
        task_id TEXT PRIMARY KEY NOT NULL, task_type TEXT NOT NULL, routing_key TEXT NOT NULL,
        properties BLOB NOT NULL, body BLOB NOT NULL, size INTEGER NOT NULL, expires_at REAL, eta REAL,
        accepted_at REAL NOT NULL, died_at REAL NOT NULL, attempts INTEGER NOT NULL, reason TEXT NOT NULL,
        code INTEGER, text TEXT NOT NULL, history TEXT NOT NULL DEFAULT ''
    )
    """,
    *_SQLITE_ADDED,
)

_POSTGRESQL_NEW: Final = (
    # Ids compare by their bytes, whatever the language of the database: lists are in one order on every store.
    # PostgreSQL would take NaN for a time later than all others; SQLite refuses it as a null.
    """
    CREATE TABLE mlproducer_waiting (
        task_id TEXT COLLATE "C" PRIMARY KEY, task_type TEXT NOT NULL, routing_key TEXT NOT NULL,
        properties BYTEA NOT NULL, body BYTEA NOT NULL, size INTEGER NOT NULL,
        expires_at DOUBLE PRECISION, eta DOUBLE PRECISION, accepted_at DOUBLE PRECISION NOT NULL,
        due_at DOUBLE PRECISION NOT NULL CHECK (due_at <> 'NaN'), free_at DOUBLE PRECISION NOT NULL,
        token TEXT, attempts INTEGER NOT NULL, cause TEXT NOT NULL, text TEXT NOT NULL, alone INTEGER NOT NULL,
        history TEXT NOT NULL DEFAULT '', counted INTEGER NOT NULL DEFAULT 1
    )
    """,
    """
    CREATE TABLE mlproducer_dead_letters (
        task_id TEXT COLLATE "C" PRIMARY KEY, task_type TEXT NOT NULL, routing_key TEXT NOT NULL,
        properties BYTEA NOT NULL, body BYTEA NOT NULL, size INTEGER NOT NULL,
        expires_at DOUBLE PRECISION, eta DOUBLE PRECISION, accepted_at DOUBLE PRECISION NOT NULL,
        died_at DOUBLE PRECISION NOT NULL CHECK (died_at <> 'NaN'), attempts INTEGER NOT NULL, reason TEXT NOT NULL,
        code INTEGER, text TEXT NOT NULL, history TEXT NOT NULL DEFAULT ''
    )
    """,
    """
    CREATE TABLE mlproducer_records (
        task_id TEXT COLLATE "C" PRIMARY KEY, task_type TEXT NOT NULL, digest BYTEA NOT NULL,
        accepted_at DOUBLE PRECISION NOT NULL, keep_until DOUBLE PRECISION NOT NULL, confirmed_at DOUBLE PRECISION,
        attempts INTEGER NOT NULL, held_until DOUBLE PRECISION, token TEXT NOT NULL
    )
    """,
    """
    CREATE TABLE mlproducer_audits (
        id BIGSERIAL PRIMARY KEY, at DOUBLE PRECISION NOT NULL, who TEXT NOT NULL, action TEXT NOT NULL,
        detail TEXT NOT NULL, task_ids TEXT NOT NULL
    )
    """,
    """
    CREATE TABLE mlproducer_totals (
        slot INTEGER PRIMARY KEY, tasks BIGINT NOT NULL, bytes BIGINT NOT NULL, dead BIGINT NOT NULL
    )
    """,
    *_INDEXES,
)

NEW: Final = {"sqlite": _SQLITE_NEW, "postgresql": _POSTGRESQL_NEW}

UPGRADE: Final = (
    "ALTER TABLE schema_version RENAME TO mlproducer_schema_version",
    "DROP INDEX waiting_free_at",
    "DROP INDEX waiting_accepted_at",
    "DROP INDEX waiting_due_at",
    "DROP INDEX waiting_held",
    "DROP INDEX dead_letters_died_at",
    "ALTER TABLE waiting RENAME TO mlproducer_waiting",
    "ALTER TABLE mlproducer_waiting ADD COLUMN history TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE mlproducer_waiting ADD COLUMN counted INTEGER NOT NULL DEFAULT 1",
    "ALTER TABLE dead_letters RENAME TO mlproducer_dead_letters",
    "ALTER TABLE mlproducer_dead_letters ADD COLUMN history TEXT NOT NULL DEFAULT ''",
    *_SQLITE_ADDED,
    "INSERT INTO mlproducer_totals SELECT 0, tasks, bytes, dead FROM totals",
    "DROP TABLE totals",
)
