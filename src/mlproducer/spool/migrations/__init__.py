"""Numbered, forward-only steps. A database of an older version is brought up with its rows kept; a newer one is
refused.

Each step is literal DDL, for each dialect where they differ: it must do tomorrow what it did on the day it was
written, whatever `schema` has become.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection

from mlproducer.errors import SpoolNotMade, SpoolUnavailable
from mlproducer.spool.migrations import (
    m0002_indexes,
    m0003_shared,
    m0004_counters,
    m0005_first_due,
    m0006_clock,
    m0007_routes,
    m0008_tenants,
)

FIRST: Final = 3
"""The version at which new databases begin. What is older is a SQLite file that had the tables for itself alone."""
NEW: Final = m0003_shared.NEW
STEPS: Final[dict[str, tuple[tuple[str, ...], ...]]] = {
    "sqlite": (
        m0002_indexes.UPGRADE,
        m0003_shared.UPGRADE,
        m0004_counters.UPGRADE["sqlite"],
        m0005_first_due.UPGRADE["sqlite"],
        m0006_clock.UPGRADE,
        m0007_routes.UPGRADE["sqlite"],
        m0008_tenants.UPGRADE["sqlite"],
    ),
    "postgresql": (
        (),
        (),
        m0004_counters.UPGRADE["postgresql"],
        m0005_first_due.UPGRADE["postgresql"],
        (),
        m0007_routes.UPGRADE["postgresql"],
        m0008_tenants.UPGRADE["postgresql"],
    ),
}
"""From version 1 to 2, from 2 to 3, …"""
VERSION: Final = len(STEPS["sqlite"]) + 1

_LOCK: Final = 0x6D6C_7072_6F64
"""The advisory lock under which a PostgreSQL database is migrated."""


def migrate(connection: Connection) -> None:
    """Bring the database up to `VERSION`, within the caller's transaction. Raises: SpoolUnavailable if it is newer."""
    dialect = connection.dialect.name
    if dialect == "postgresql":
        # Instances that start together: the first makes the tables, the others wait here until it committed, and then
        # find them. SQLite's transaction is exclusive as it is.
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
    found = version_of(connection)
    check(found)
    if found == VERSION:
        return  # nothing is written: a role that may not make tables can use those that are there
    if found == 0:
        connection.exec_driver_sql("CREATE TABLE mlproducer_schema_version (version INTEGER NOT NULL)")
        steps = (NEW[dialect], *STEPS[dialect][FIRST - 1 :])
    else:
        steps = STEPS[dialect][found - 1 :]
    for step in steps:
        for statement in step:
            connection.exec_driver_sql(statement)
    connection.exec_driver_sql("DELETE FROM mlproducer_schema_version")
    connection.exec_driver_sql(f"INSERT INTO mlproducer_schema_version VALUES ({VERSION})")  # noqa: S608  # a number


def version_of(connection: Connection) -> int:
    """0 if there are no tables of ours."""
    if connection.dialect.name == "postgresql":
        # Not `to_regclass`: within a transaction it goes on answering that there is none, whatever others committed.
        query = "SELECT count(*) FROM pg_class WHERE relname = 'mlproducer_schema_version' AND pg_table_is_visible(oid)"
        return _highest(connection, "mlproducer_schema_version") if connection.exec_driver_sql(query).scalar() else 0
    columns = connection.exec_driver_sql(
        "SELECT m.name, i.name FROM sqlite_master AS m, pragma_table_info(m.name) AS i WHERE m.type = 'table'"
    )
    found = {(table, column) for table, column in columns}
    if ("mlproducer_schema_version", "version") in found:
        return _highest(connection, "mlproducer_schema_version")
    # The names of versions 1 and 2 are anybody's: in a user's own database they may be the user's tables.
    if {
        ("schema_version", "version"),
        ("waiting", "free_at"),
        ("dead_letters", "died_at"),
        ("totals", "dead"),
    } <= found:
        return _highest(connection, "schema_version")
    return 0


def check(found: int) -> None:
    """Raises: SpoolUnavailable."""
    if found > VERSION:
        raise SpoolUnavailable(
            f"the spool was written by a newer mlproducer (its schema is version {found}, this one knows {VERSION}): "
            "update mlproducer, or name another store in ML_SPOOL_URL"
        )


def check_for_visitor(found: int) -> None:
    """A visitor changes no tables, so they must be of this very version. Raises: SpoolUnavailable."""
    check(found)
    if found == 0:
        raise SpoolNotMade("it is no spool, or no producer has opened it yet: see ML_SPOOL_URL")
    if found < VERSION:
        raise SpoolNotMade(
            f"the spool was written by an older mlproducer (its schema is version {found}, this one needs {VERSION}): "
            "start the producer of this version once on ML_SPOOL_URL, it brings the tables up to date"
        )


def _highest(connection: Connection, table: str) -> int:
    return int(connection.exec_driver_sql(f"SELECT max(version) FROM {table}").scalar() or 0)  # noqa: S608  # our name
