"""The counters of each store against the one contract. Redis is in `test_redis_spool`, with its servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlproducer.spool.memory import MemorySpool
from mlproducer.spool.sql import PostgresSpool, SqliteSpool
from mlproducer.testing.clock import ManualClock
from mlproducer.testing.counters_contract import CountersContract, MakeCounters
from private_postgres import PrivatePostgres
from store_clocks import PostgresClock


class TestMemory(CountersContract):
    durable = shared = False

    @pytest.fixture
    def make_spool(self, clock: ManualClock) -> MakeCounters:
        return lambda: MemorySpool(clock)


class TestSqlite(CountersContract):
    shared = False

    @pytest.fixture
    def make_spool(self, tmp_path: Path, clock: ManualClock) -> MakeCounters:
        return lambda: SqliteSpool(tmp_path / "spool.db", clock=clock)


class TestPostgres(CountersContract):
    @pytest.fixture
    def clock(self, postgres: PrivatePostgres) -> PostgresClock:
        return PostgresClock(postgres)

    @pytest.fixture
    def make_spool(self, clock: PostgresClock) -> MakeCounters:
        return lambda: PostgresSpool(clock.url)
