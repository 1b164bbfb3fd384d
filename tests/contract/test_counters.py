"""Every store's counters against the one contract; Redis also as a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from mlproducer.spool.memory import MemorySpool
from mlproducer.spool.redis import RedisSpool
from mlproducer.spool.sql import PostgresSpool, SqliteSpool
from mlproducer.testing.counters_contract import CountersContract, MakeCounters
from private_redis import PrivateRedis

_prefixes = count(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRedis]:
    with PrivateRedis(tmp_path_factory.mktemp("redis")) as node:
        yield node


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRedis]:
    with PrivateRedis(tmp_path_factory.mktemp("cluster"), cluster=True) as node:
        yield node


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


class TestRedis(CountersContract):
    @pytest.fixture
    def make_spool(self, server: PrivateRedis) -> MakeCounters:
        prefix = f"counters-{next(_prefixes)}"
        return lambda: RedisSpool(server.url(), prefix=prefix)


class TestRedisCluster(CountersContract):
    @pytest.fixture
    def make_spool(self, cluster: PrivateRedis) -> MakeCounters:
        prefix = f"counters-{next(_prefixes)}"
        return lambda: RedisSpool(cluster.url(), prefix=prefix)
