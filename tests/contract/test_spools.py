"""Every spool against the one contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlproducer.spool.memory import MemorySpool
from mlproducer.spool.sql import PostgresSpool, SqliteSpool
from mlproducer.testing.spool_contract import MakeSpool, SpoolContract


class TestMemory(SpoolContract):
    @pytest.fixture
    def make_spool(self) -> MakeSpool:
        return MemorySpool


class TestSqlite(SpoolContract):
    @pytest.fixture
    def make_spool(self, tmp_path: Path) -> MakeSpool:
        return lambda: SqliteSpool(tmp_path / "spool.db")


class TestPostgres(SpoolContract):
    @pytest.fixture
    def make_spool(self, postgres_schema_url: str) -> MakeSpool:
        return lambda: PostgresSpool(postgres_schema_url)
