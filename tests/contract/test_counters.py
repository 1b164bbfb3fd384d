"""The counters of each store against the one contract. Redis is in `test_redis_spool`, with its servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlproducer.spool.memory import MemorySpool
from mlproducer.spool.sql import PostgresSpool, SqliteSpool
from mlproducer.testing.counters_contract import CountersContract, MakeCounters


class TestMemory(CountersContract):
    durable = shared = False

    @pytest.fixture
    def make_spool(self) -> MakeCounters:
        return MemorySpool


class TestSqlite(CountersContract):
    shared = False

    @pytest.fixture
    def make_spool(self, tmp_path: Path) -> MakeCounters:
        return lambda: SqliteSpool(tmp_path / "spool.db")


class TestPostgres(CountersContract):
    @pytest.fixture
    def make_spool(self, postgres_schema_url: str) -> MakeCounters:
        return lambda: PostgresSpool(postgres_schema_url)
