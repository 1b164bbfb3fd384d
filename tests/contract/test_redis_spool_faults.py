"""What happens to the spool when Redis is killed, paused, full, not durable, or not what it was."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from certificates import Authority
from mlproducer.core.digest import content_digest
from mlproducer.errors import SpoolUnavailable
from mlproducer.rows import Done, Lease
from mlproducer.spool.redis import RedisSpool
from mlproducer.spool.redis.address import Persistence
from mlproducer.spool.redis.look import Facts, read_facts, refusal, warning
from mlproducer.testing.rabbitmq import free_port
from mlproducer.testing.spool_contract import (
    DONE,
    NOW,
    audit,
    claim,
    confirm,
    is_as_put,
    is_confirmed,
    row,
    settle,
    waits,
)
from private_redis import DURABLE, PrivateRedis

Start = Callable[..., PrivateRedis]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts servers of the test's own, to kill, pause and fill."""
    with contextlib.ExitStack() as stack:

        def started(config: dict[str, str] = DURABLE, *, password: str = "", cluster: bool = False) -> PrivateRedis:
            folder = tmp_path / secrets.token_hex(4)
            folder.mkdir()
            return stack.enter_context(PrivateRedis(folder, config, password=password, cluster=cluster))

        yield started


@contextlib.asynccontextmanager
async def opened(server: PrivateRedis, **options: object) -> AsyncIterator[RedisSpool]:
    spool = RedisSpool(server.url(**{"timeout": 1, **options}))
    await spool.open()
    try:
        yield spool
    finally:
        await spool.close()


async def until_it_works(spool: RedisSpool, task_id: str) -> None:
    """By itself: nobody opens it again."""
    async with asyncio.timeout(20):
        while True:
            try:
                await spool.put(row(task_id))
            except SpoolUnavailable:
                await asyncio.sleep(0.05)
            else:
                return


async def eventually(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while True:
            if holds():
                return
            await asyncio.sleep(0.02)


async def every_call_fails(spool: RedisSpool, match: str) -> None:
    calls = [
        spool.put(row("new")),
        spool.claim(claim("new"), hold=10),
        confirm(spool, "new"),
        spool.release("new", "me"),
        spool.lease(10, hold=60),
        spool.settle([(Lease(waits(row("a")), "token"), DONE)]),
        spool.measure(),
        spool.find("a"),
        spool.waiting(limit=10),
        spool.replay(audit("a")),
        spool.audits(limit=10),
        spool.forget(limit=10),
    ]
    began = time.monotonic()
    for answer in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(answer, SpoolUnavailable), answer
        assert match in str(answer)
        assert "ML_SPOOL_URL" in str(answer)
    assert time.monotonic() - began < 10, "each is bounded by twice the timeout of 1 s"


@pytest.mark.parametrize("cluster", [False, True])
async def test_a_killed_server_fails_each_call_and_a_started_one_serves_again(start: Start, *, cluster: bool) -> None:
    server = start(cluster=cluster)
    async with opened(server) as spool:
        await spool.put(row("a"))
        server.kill()
        await every_call_fails(spool, "does it run")
        await asyncio.to_thread(server.start)
        await until_it_works(spool, "b")
        assert is_as_put(await spool.find("a"), row("a"))


@pytest.mark.parametrize("cluster", [False, pytest.param(True, marks=pytest.mark.chaos)])
async def test_a_paused_server_fails_each_call_in_bounded_time(start: Start, *, cluster: bool) -> None:
    server = start(cluster=cluster)
    async with opened(server) as spool:
        await spool.put(row("a"))
        server.pause()
        await every_call_fails(spool, "is it paused")
        server.resume()
        await until_it_works(spool, "b")
        assert is_as_put(await spool.find("a"), row("a"))


async def test_thousands_who_wait_for_a_paused_server_are_all_told_within_one_timeout(start: Start) -> None:
    server = start()
    async with opened(server) as spool:
        server.pause()
        answers = await asyncio.gather(*(spool.put(row(f"t{n}")) for n in range(3_000)), return_exceptions=True)
        assert all(isinstance(each, SpoolUnavailable) for each in answers)
        server.resume()
        await until_it_works(spool, "last")
        assert (await spool.measure()).tasks <= 501, "only one group was ever sent, and not one after the other"


async def test_what_is_repeated_after_a_lost_answer_finds_what_the_first_call_did(start: Start) -> None:
    server = start()
    async with opened(server) as spool:
        await asyncio.gather(spool.put(row("b")), spool.put(row("c")))
        lease, other = await spool.lease(2, hold=60)
        await settle(spool, other, DONE)  # so that the server knows the script
        for call in (spool.put(row("a")), spool.settle([(lease, DONE)])):
            server.pause()  # what is sent now waits in the kernel, and is done when nobody listens any more
            with pytest.raises(SpoolUnavailable, match="no answer within 1 s"):
                await call
            server.resume()
            await until_it_works(spool, "last")
        assert not await spool.put(row("a")), "it is there already, and safe"
        assert not await settle(spool, lease, DONE), "the lease is gone with the row"
        assert is_as_put(await spool.find("a"), row("a"))
        assert is_confirmed(await spool.find("b"), "b", attempts=1)


async def test_what_was_answered_is_there_after_kill_9_at_any_moment(start: Start) -> None:
    server = start()
    put, trying, done = set[str](), set[str](), set[str]()

    async def putting(spool: RedisSpool, name: str) -> None:
        for n in range(1_000_000):
            with contextlib.suppress(SpoolUnavailable):
                if await spool.put(row(f"{name}-{n}", size=200)):
                    put.add(f"{name}-{n}")

    async def draining(spool: RedisSpool) -> None:
        while True:
            with contextlib.suppress(SpoolUnavailable):
                leases = [each for each in await spool.lease(20, hold=60) if random.random() < 0.7]
                ids = [lease.row.envelope.task_id for lease in leases]
                trying.update(ids)
                held = await spool.settle([(lease, Done(NOW, 100)) for lease in leases])
                done.update(task_id for task_id, ours in zip(ids, held, strict=True) if ours)
            await asyncio.sleep(0)

    async with opened(server) as spool:
        work = [asyncio.create_task(putting(spool, str(n))) for n in range(20)]
        work.append(asyncio.create_task(draining(spool)))
        for _ in range(5):
            await asyncio.sleep(random.uniform(0.1, 0.3))
            server.kill()
            await asyncio.to_thread(server.start)
        for each in work:
            each.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        await until_it_works(spool, "last")

        assert put
        assert done
        waiting = {each.task_id for each in await spool.waiting(limit=1_000_000)}
        assert put - trying <= waiting, "no row that put() answered is lost"
        assert not done & waiting, "what was settled does not come back"
        for task_id in random.sample(sorted(done), min(len(done), 50)):
            digest = content_digest(row(task_id, size=200).envelope)
            assert is_confirmed(await spool.find(task_id), task_id, attempts=1, confirmed_at=NOW, digest=digest)
        size = await spool.measure()
        assert size.tasks == len(waiting)
        assert size.bytes == (len(waiting) - 1) * row("a", size=200).envelope.size + row("last").envelope.size


async def test_a_full_server_takes_nothing_new_and_can_be_emptied(start: Start) -> None:
    server = start()
    async with opened(server) as spool:
        await asyncio.gather(*(spool.put(row(f"t{n}", size=1_000)) for n in range(200)))
        await spool.claim(claim("mine"), hold=10)
        server.run("CONFIG", "SET", "maxmemory", "1")
        for call in (spool.put(row("new")), spool.claim(claim("other"), hold=10)):
            with pytest.raises(SpoolUnavailable, match="maxmemory"):
                await call
        assert await spool.find("new") is None
        await confirm(spool, "mine")
        assert is_confirmed(await spool.find("mine"), "mine"), "it is confirmed, and must be remembered as such"
        while leases := await spool.lease(50, hold=60):
            assert all(await spool.settle([(lease, Done(NOW, keep=0)) for lease in leases]))
        size = await spool.measure()
        assert (size.tasks, size.bytes) == (0, 0)
        assert await spool.forget(limit=1_000) == 200
        server.run("CONFIG", "SET", "maxmemory", "0")
        assert await spool.put(row("new"))


async def test_a_server_that_loads_its_data_is_waited_for(start: Start) -> None:
    slow = {"key-load-delay": "500", "loading-process-events-interval-bytes": "1024", "enable-debug-command": "yes"}
    server = start({**DURABLE, **slow})
    async with opened(server) as spool:
        await spool.put(row("a"))
        server.run("DEBUG", "POPULATE", "2000", "other", "2000")
        server.run("BGREWRITEAOF")  # what is loaded with that delay is the compact part of the file
        await eventually(lambda: b"aof_rewrite_in_progress:0" in server.run("INFO", "persistence"))
        server.kill()
        starting = asyncio.create_task(asyncio.to_thread(server.start))
        said = set()
        while not starting.done():
            try:
                await spool.find("a")
            except SpoolUnavailable as error:
                said.add(str(error))
            await asyncio.sleep(0.01)
        await starting
        assert any("loads its data" in each for each in said), said
        assert is_as_put(await spool.find("a"), row("a"))


@pytest.mark.parametrize("given", ["", "wr0ng-secret"])
async def test_a_wrong_password_is_said_and_not_shown(start: Start, given: str) -> None:
    server = start(password="s3cret")
    login = f":{given}@" if given else ""
    with pytest.raises(SpoolUnavailable, match="are user and password right") as caught:
        await RedisSpool(f"redis://{login}127.0.0.1:{server.port}").open()
    assert "s3cret" not in str(caught.value)
    assert "wr0ng" not in str(caught.value)
    async with opened(server) as spool:
        assert await spool.put(row("a"))


async def test_a_user_without_rights_is_told_which_are_needed(start: Start) -> None:
    server = start()
    server.run("ACL", "SETUSER", "ml", "on", ">pw", "~{mlproducer}:*", "+@all", "-@scripting", "-@dangerous", "+info")
    url = f"redis://ml:pw@127.0.0.1:{server.port}"
    with pytest.raises(SpoolUnavailable, match="needs EVALSHA"):
        await RedisSpool(url).open()
    # No CONFIG, and no channels, as on a managed service: it works all the same.
    server.run("ACL", "SETUSER", "ml", "+@scripting", "resetchannels")
    spool = RedisSpool(url)
    spool.watch(lambda: None)
    await spool.open()
    assert await spool.put(row("a"))
    assert "does not tell how often" in spool.warnings[0]
    await spool.close()
    with pytest.raises(SpoolUnavailable, match="no word of it"):
        await RedisSpool(f"{url}?persistence=always").open()


async def test_a_server_that_became_a_replica_is_told_apart(start: Start) -> None:
    master, server = start(), start()
    async with opened(server) as spool:
        await spool.put(row("a"))
        server.run("REPLICAOF", "127.0.0.1", str(master.port))
        for _ in range(2):  # on the connection that there was, and on a new one
            with pytest.raises(SpoolUnavailable, match="read-only replica: name its master"):
                await spool.put(row("b"))
        with pytest.raises(SpoolUnavailable, match="read-only replica"):
            await RedisSpool(server.url()).open()
        server.run("REPLICAOF", "NO", "ONE")
        await until_it_works(spool, "c")


async def test_tls_is_verified_unless_told(start: Start, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    certificate, key = authority.sign("redis", "localhost")
    port = free_port()
    files = {"tls-cert-file": str(certificate), "tls-key-file": str(key), "tls-auth-clients": "no"}
    server = start({**DURABLE, "tls-port": str(port), **files})
    with pytest.raises(SpoolUnavailable, match="ssl_ca_certs names the authority"):
        await RedisSpool(f"rediss://localhost:{port}").open()
    with pytest.raises(SpoolUnavailable, match="for another host"):
        await RedisSpool(f"rediss://127.0.0.1:{port}?ssl_ca_certs={authority.file}").open()
    for url in (f"rediss://localhost:{server.port}?timeout=1", f"redis://localhost:{port}"):
        with pytest.raises(SpoolUnavailable, match="TLS"):
            await RedisSpool(url).open()
    for options in (f"ssl_ca_certs={authority.file}", "ssl_cert_reqs=none"):
        spool = RedisSpool(f"rediss://localhost:{port}?{options}")
        await spool.open()
        await spool.put(row("a"))
        assert is_as_put(await spool.find("a"), row("a"))
        await spool.close()


@pytest.mark.chaos  # seconds for two nodes to agree
async def test_a_slot_that_moves_to_another_node_is_followed(start: Start) -> None:
    first, second = start(cluster=True), start(cluster=True)
    second.run("CLUSTER", "FLUSHSLOTS")
    second.run("CLUSTER", "MEET", "127.0.0.1", str(first.port), str(first.bus_port))
    names = [server.run("CLUSTER", "MYID").decode() for server in (first, second)]
    for server, other in ((first, names[1]), (second, names[0])):
        await eventually(lambda server=server, other=other: other in server.run("CLUSTER", "NODES").decode())  # type: ignore[misc]  # a lambda's defaults
    await eventually(lambda: b"cluster_state:ok" in second.run("CLUSTER", "INFO"))
    async with opened(first) as spool:
        await spool.put(row("a"))
        slot = str(first.run("CLUSTER", "KEYSLOT", "{mlproducer}"))
        second.run("CLUSTER", "SETSLOT", slot, "IMPORTING", names[0])
        first.run("CLUSTER", "SETSLOT", slot, "MIGRATING", names[1])
        keys = [key.decode() for key in first.run("CLUSTER", "GETKEYSINSLOT", slot, "100")]
        first.run("MIGRATE", "127.0.0.1", str(second.port), "", "0", "5000", "KEYS", *keys)
        for server in (second, first):
            server.run("CLUSTER", "SETSLOT", slot, "NODE", names[1])
        assert await spool.put(row("b"))
        assert (await spool.measure()).tasks == 2
        assert second.run("HLEN", "{mlproducer}:rows") == 2


async def test_a_spool_whose_server_was_restarted_hears_of_others_again(start: Start) -> None:
    server = start()
    heard = asyncio.Event()
    spool = RedisSpool(server.url(timeout=1))
    spool.watch(heard.set)
    await spool.open()
    server.kill()
    await asyncio.to_thread(server.start)
    async with asyncio.timeout(20):
        await heard.wait()  # what may have been said meanwhile
        heard.clear()
        async with opened(server) as other:
            await other.put(row("a"))
            await heard.wait()
    await spool.close()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"appendonly": "no"}, "set `appendonly yes`"),
        ({**DURABLE, "maxmemory-policy": "allkeys-lru"}, "set `maxmemory-policy noeviction`"),
        ({**DURABLE, "appendfsync": "no"}, "set `appendfsync always`"),
    ],
)
async def test_a_server_that_may_lose_what_it_accepted_is_refused_unless_told(
    start: Start, config: dict[str, str], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = start(config)
    with pytest.raises(SpoolUnavailable, match=words) as caught:
        await RedisSpool(server.url()).open()
    assert "?persistence=unsafe" in str(caught.value)
    with caplog.at_level(logging.WARNING, "mlproducer"):
        async with opened(server, persistence="unsafe") as spool:
            assert await spool.put(row("a"))
            assert "may be lost" in spool.warnings[0]
    assert "may be lost" in caplog.text


async def test_a_server_that_syncs_each_second_is_warned_of_once(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    server = start({**DURABLE, "appendfsync": "everysec"})
    with caplog.at_level(logging.WARNING, "mlproducer"):
        async with opened(server) as spool:
            await asyncio.gather(*(spool.measure() for _ in range(20)))  # several connections
            assert "in the last 1 to 2 s" in spool.warnings[0]
    assert len(caplog.records) == 1
    with pytest.raises(SpoolUnavailable, match="asks for `appendfsync always`"):
        await RedisSpool(server.url(persistence="always")).open()


async def test_a_server_that_comes_back_without_its_file_is_refused_until_it_has_it_again(start: Start) -> None:
    server = start()
    async with opened(server) as spool:
        await spool.put(row("a"))
        server.kill()
        server.config["appendonly"] = "no"
        await asyncio.to_thread(server.start)
        with pytest.raises(SpoolUnavailable, match="no append-only file"):
            await spool.put(row("b"))
        server.kill()
        server.config["appendonly"] = "yes"
        await asyncio.to_thread(server.start)
        await until_it_works(spool, "c")
        assert is_as_put(await spool.find("a"), row("a"))


SOUND = Facts(aof=True, fsync="always", eviction="noeviction", cluster=False, replica=False)


def test_a_sound_server_is_neither_refused_nor_warned_of() -> None:
    for each in Persistence:
        assert refusal(SOUND, each) is None
        assert warning(SOUND, each) is None


def test_a_server_that_does_not_tell_is_refused_unless_told() -> None:
    silent = read_facts("# Server\r\nredis_version:7\r\n", None)
    assert silent == Facts(aof=None, fsync=None, eviction=None, cluster=False, replica=False)
    assert "does not tell" in (refusal(silent, Persistence.AOF) or "")
    assert refusal(silent, Persistence.UNSAFE) is None
    assert warning(silent, Persistence.UNSAFE) is not None


def test_a_server_that_loads_its_file_is_not_taken_for_one_without() -> None:
    told = "loading:1\r\naof_enabled:0\r\nmaxmemory_policy:noeviction\r\n"
    assert "loads its data" in (refusal(read_facts(told, "always"), Persistence.AOF) or "")


def test_a_replica_is_refused_whatever_was_told_but_in_a_cluster() -> None:
    told = "role:slave\r\naof_enabled:1\r\nmaxmemory_policy:noeviction\r\ncluster_enabled:"
    assert "replica" in (refusal(read_facts(told + "0\r\n", "always"), Persistence.UNSAFE) or "")
    assert refusal(read_facts(told + "1\r\n", "always"), Persistence.AOF) is None
