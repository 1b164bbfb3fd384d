"""Clocks of servers that stand still until a test moves them, each a `testing.spool_contract.StoreClock`.

What is tested is all of a store but whose clock it asks; that is tested with servers that have their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
import pytest

from mlproducer.spool.redis import lua
from mlproducer.spool.redis.link import Link
from mlproducer.spool.redis.lua import Script
from mlproducer.testing.spool_contract import NOW
from private_postgres import PrivatePostgres


class PostgresClock:
    """In a schema of its own, whose `statement_timestamp` is found before the server's. A `schema` that is named is made
    anew, with all that is in it.
    """

    def __init__(
        self, server: PrivatePostgres, now: float = NOW, *, database: str = "postgres", schema: str = ""
    ) -> None:
        schema = schema or f"clock{next(server.schemas)}"
        server.sql(f"DROP SCHEMA IF EXISTS {schema} CASCADE", database)
        server.sql(f"CREATE SCHEMA {schema}", database)
        self.url = server.url(database, options=f"-csearch_path%3D{schema},pg_catalog")
        self.sql("CREATE TABLE clock (at float8)")
        self.sql("INSERT INTO clock VALUES (%s)", now)
        self.sql(
            "CREATE FUNCTION statement_timestamp() RETURNS timestamptz STABLE LANGUAGE sql"
            " AS 'SELECT to_timestamp(at) FROM clock'"
        )

    def advance(self, seconds: float) -> None:
        self.sql("UPDATE clock SET at = at + %s", seconds)

    def set(self, now: float) -> None:
        self.sql("UPDATE clock SET at = %s", now)

    def sql(self, statement: str, *given: float) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement.encode(), given or None)


class RedisClock:
    """Of the scripts of this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, now: float = NOW) -> None:
        self.now = now
        evaluate = Link._evaluate

        async def at_this_time(link: Link, client: Any, script: Script, args: Any, more: Sequence[str]) -> Any:
            stopped = Script(script.keys, script.body.replace(lua.NOW, f"local now = {self.now!r}\n"))
            return await evaluate(link, client, stopped, args, more)

        monkeypatch.setattr(Link, "_evaluate", at_this_time)

    def advance(self, seconds: float) -> None:
        self.now += seconds
