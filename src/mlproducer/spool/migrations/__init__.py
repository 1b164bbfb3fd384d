"""Numbered, forward-only steps. A file of an older version is brought up with its rows kept; a newer one is refused.

Each step is literal DDL: it must do tomorrow what it did on the day it was written, whatever `schema` has become.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sqlalchemy import Connection

from mlproducer.errors import SpoolUnavailable
from mlproducer.spool.migrations import m0001_initial, m0002_indexes

STEPS: Final[tuple[Callable[[Connection], None], ...]] = (m0001_initial.upgrade, m0002_indexes.upgrade)
VERSION: Final = len(STEPS)


def migrate(connection: Connection) -> None:
    """Bring the database up to `VERSION`, within the caller's transaction. Raises: SpoolUnavailable if it is newer."""
    connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)")
    found = version_of(connection)
    check(found)
    for number, step in enumerate(STEPS[found:], start=found + 1):
        step(connection)
        connection.exec_driver_sql("DELETE FROM schema_version")
        connection.exec_driver_sql("INSERT INTO schema_version VALUES (?)", (number,))


def version_of(connection: Connection) -> int:
    found = connection.exec_driver_sql("SELECT max(version) FROM schema_version").scalar()
    return int(found or 0)


def check(found: int) -> None:
    """Raises: SpoolUnavailable."""
    if found > VERSION:
        raise SpoolUnavailable(
            f"the spool was written by a newer mlproducer (its schema is version {found}, this one knows {VERSION}): "
            "update mlproducer, or name another file in ML_SPOOL_URL"
        )


def check_for_visitor(found: int) -> None:
    """A visitor changes no tables, so the file must be of this very version. Raises: SpoolUnavailable."""
    check(found)
    if found < VERSION:
        raise SpoolUnavailable(
            f"the spool was written by an older mlproducer (its schema is version {found}, this one needs {VERSION}): "
            "start the producer of this version once on ML_SPOOL_URL, it brings the file up to date"
        )
