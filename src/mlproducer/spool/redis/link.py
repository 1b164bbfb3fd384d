"""The way to the server: one client, or a cluster's, whose every new connection looks at the server first.

**No retries.** A script whose answer was lost may have run: sent again by a client that thinks nothing of it, a put
would answer "it was there already" for a row that it has just stored itself. So the client's own retries are off, and
each doubt reaches the caller as `SpoolUnavailable`. What the engine does about it is in `ports.Spool`: the call is
made again by one who knows that it may find what it did the first time.

Only what was certainly not run is tried again: a connection that was found closed before anything was sent on it, a
script that the server does not know yet, and MOVED.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Final

from redis import exceptions
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from mlproducer.errors import SpoolUnavailable
from mlproducer.loggers import get_logger
from mlproducer.spool.redis.address import Address
from mlproducer.spool.redis.faults import Refused, explain
from mlproducer.spool.redis.look import Facts, read_facts, refusal, warning
from mlproducer.spool.redis.lua import Script

_AT_ONCE: Final = 16
"""Calls under way, and so connections: a server works through them one by one, more would only wait there."""

Args = Sequence[str | bytes | float]

FAULTS: Final = (exceptions.RedisError, exceptions.RedisClusterException, OSError, TimeoutError)

_LOGGER: Final = get_logger("mlproducer")


class Link:
    """Runs scripts at an address. After a fault it works again as soon as the server does."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._client: Redis | RedisCluster | None = None
        self._facts: Facts | None = None
        self._room = asyncio.Semaphore(_AT_ONCE)
        self.warnings: tuple[str, ...] = ()
        """What the last look at the server found to be less safe than it could be."""

    async def open(self) -> None:
        """Raises: SpoolUnavailable; then nothing stays open."""
        if self._client is not None:
            return
        self.warnings = ()
        try:
            async with asyncio.timeout(2 * self.address.timeout):
                with _cancellable():
                    await self._connect()
        except FAULTS as error:
            await self.close()
            raise self._explained(error) from error
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await close_client(client)

    async def run(self, script: Script, args: Args, more: Sequence[str] = ()) -> Any:  # noqa: ANN401  # the script's own
        """The script's answer; `more` are names of keys behind its own ones.

        Raises: SpoolUnavailable, within twice the timeout; it may have run all the same.
        """
        client = self._client
        if client is None:
            raise SpoolUnavailable(f"the Redis spool at {self.address.node} is not open")
        try:
            async with asyncio.timeout(2 * self.address.timeout), self._room:
                with _cancellable():
                    return await self._evaluate(client, script, args, more)
        except FAULTS as error:
            if isinstance(client, Redis) and isinstance(error, exceptions.ReadOnlyError):
                # The master's name may lead to another server by now: look for it anew.
                await client.connection_pool.disconnect(inuse_connections=False)
            raise self._explained(error) from error

    async def _evaluate(self, client: Redis | RedisCluster, script: Script, args: Args, more: Sequence[str]) -> Any:  # noqa: ANN401  # as above
        keys = [f"{{{self.address.prefix}}}:{name}" for name in (*script.keys, *more)]
        try:
            return await client.execute_command("EVALSHA", script.sha, len(keys), *keys, *args)
        except exceptions.NoScriptError:  # not run, for certain
            return await client.execute_command("EVAL", script.text, len(keys), *keys, *args)

    async def _connect(self) -> None:
        client = self._client = plain_client(self.address, redis_connect_func=self._look)
        await client.ping()
        if self._facts is not None and self._facts.cluster:
            await self._open_cluster(client)

    async def _open_cluster(self, client: Redis) -> None:
        if self.address.db:
            raise Refused("it is a cluster, and those have database 0 only: leave the number out")
        await close_client(client)
        cluster = RedisCluster(self.address.host, self.address.port, **_options(self.address))
        self._client = cluster
        # The constructor has no argument for it. Nodes found later are made from the former, the first from the latter.
        cluster.connection_kwargs["redis_connect_func"] = self._look
        for node in cluster.nodes_manager.startup_nodes.values():
            node.connection_kwargs["redis_connect_func"] = self._look
        await cluster.initialize()

    async def _look(self, connection: AbstractConnection) -> None:
        """On each new connection, before anything else is sent on it: a restarted server may be another one."""
        await connection.on_connect()
        info = await _ask(connection, "INFO")
        if info is None:
            raise Refused("it does not allow INFO, which says what it is")
        fsync = await _ask(connection, "CONFIG", "GET", "appendfsync")
        facts = self._facts = read_facts(info.decode(), fsync[1].decode() if fsync else None)
        refused = refusal(facts, self.address.persistence)
        if refused is not None:
            raise Refused(refused)
        words = warning(facts, self.address.persistence)
        if words is not None and words not in self.warnings:
            self.warnings = (*self.warnings, words)
            _LOGGER.warning("the Redis spool at %s: %s", self.address.node, words)

    def _explained(self, error: BaseException) -> SpoolUnavailable:
        return explain(self.address.node, error, self.address.timeout)


@contextlib.contextmanager
def _cancellable() -> Iterator[None]:
    """Race: the caller is cancelled in the very turn in which the client's write or answer is done. Python 3.11's
    `wait_for`, in the client, then gives the result, and the cancellation is forgotten: a loop that was to end would
    go on. So we look whether one came.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    try:
        yield
    finally:
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError


def plain_client(address: Address, **options: Any) -> Redis:  # noqa: ANN401  # the client's own
    """A client of the server itself, with nothing opened yet."""
    return Redis(host=address.host, port=address.port, db=address.db, **_options(address), **options)


async def close_client(client: Redis | RedisCluster) -> None:
    with contextlib.suppress(exceptions.RedisError, OSError):  # not politely, then: it is closed all the same
        await client.aclose()
        if isinstance(client, RedisCluster):
            # After a fault the client counts as not initialized, and its `aclose` leaves connections open.
            await client.nodes_manager.aclose()
            await client.nodes_manager.aclose("startup_nodes")


def _options(address: Address) -> dict[str, Any]:
    """Bounded in time, and without retries."""
    return {
        "username": address.user,
        "password": address.password,
        "socket_timeout": address.timeout,
        "socket_connect_timeout": address.timeout,
        "socket_keepalive": True,
        "max_connections": 4 * _AT_ONCE,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,  # answers to scripts are the same in 3, which would only add notifications to be turned off
        **address.options,
    }


async def _ask(connection: AbstractConnection, *command: str) -> Any:  # noqa: ANN401  # the command's own answer
    """None if the server does not allow it."""
    await connection.send_command(*command)
    try:
        return await connection.read_response()
    except exceptions.ResponseError:
        return None
