"""The stores that `once` may use: Redis, PostgreSQL, SQLite; each a real one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from private_postgres import PrivatePostgres
from private_redis import PrivateRedis

STORES = ("redis", "sqlite", "postgresql")


@pytest.fixture(scope="session")
def redis_for_claims(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRedis]:
    """For tests that leave it running."""
    with PrivateRedis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_for_claims(postgres: PrivatePostgres) -> str:
    return postgres.url(postgres.new_database())


@pytest.fixture(params=STORES)
def claims_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a store; tests share the servers, and use task ids of their own."""
    match request.param:
        case "redis":
            server: PrivateRedis = request.getfixturevalue("redis_for_claims")
            return server.url()
        case "postgresql":
            url: str = request.getfixturevalue("postgres_for_claims")
            return url
        case _:
            return f"sqlite:///{tmp_path / 'once.db'}"
