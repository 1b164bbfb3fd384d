"""Every spool against the one contract."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mlproducer.spool.memory import MemorySpool
from mlproducer.spool.sql import PostgresSpool, SqliteSpool
from mlproducer.testing.clock import ManualClock
from mlproducer.testing.spool_contract import MakeSpool, SpoolContract
from private_pgbouncer import PrivatePgBouncer
from private_postgres import PrivatePostgres
from store_clocks import PostgresClock


class TestMemory(SpoolContract):
    @pytest.fixture
    def make_spool(self, clock: ManualClock) -> MakeSpool:
        return lambda: MemorySpool(clock)


class TestSqlite(SpoolContract):
    @pytest.fixture
    def make_spool(self, tmp_path: Path, clock: ManualClock) -> MakeSpool:
        return lambda: SqliteSpool(tmp_path / "spool.db", clock=clock)


class TestPostgres(SpoolContract):
    @pytest.fixture
    def clock(self, postgres: PrivatePostgres) -> PostgresClock:
        return PostgresClock(postgres)

    @pytest.fixture
    def make_spool(self, clock: PostgresClock) -> MakeSpool:
        return lambda: PostgresSpool(clock.url)


@pytest.fixture(scope="module")
def pooler(postgres: PrivatePostgres) -> Iterator[PrivatePgBouncer]:
    database = postgres.new_database()
    postgres.sql(f"ALTER DATABASE {database} SET search_path = clock, pg_catalog")
    with PrivatePgBouncer(postgres, database, connections=2) as pooler:
        yield pooler


class TestPostgresBehindAPooler(SpoolContract):
    """Each transaction may have another of two sessions. A pooler refuses `options`, so the database itself says where
    the clock is found.
    """

    @pytest.fixture
    def clock(self, postgres: PrivatePostgres, pooler: PrivatePgBouncer) -> PostgresClock:
        return PostgresClock(postgres, database=pooler.database, schema="clock")

    @pytest.fixture
    def make_spool(self, clock: PostgresClock, pooler: PrivatePgBouncer) -> MakeSpool:
        del clock  # it is there before the spool
        return lambda: PostgresSpool(pooler.url)
