"""Every spool against the one contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlproducer.spool.memory import MemorySpool
from mlproducer.spool.sql import PostgresSpool, SqliteSpool
from mlproducer.testing.clock import ManualClock
from mlproducer.testing.spool_contract import MakeSpool, SpoolContract
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
