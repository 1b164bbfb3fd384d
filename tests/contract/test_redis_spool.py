"""The spool on a real Redis: the contract, alone and as a cluster, and what is special to it in peace."""

from __future__ import annotations

import asyncio
import random
import secrets
import sys
from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import Any, TypeVar

import pytest
import redis
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec.structs import asdict, replace

from depth import histories
from mlproducer.errors import SettingsError, SpoolNotMade, SpoolUnavailable
from mlproducer.ports import Spool
from mlproducer.rows import Again, Bury, DeadEntry, DeadFilter, Done, Lease, SpoolRow, Verdict
from mlproducer.spool.memory import MemorySpool
from mlproducer.spool.redis import RedisSpool
from mlproducer.spool.redis.address import Address, Persistence
from mlproducer.spool.redis.codec import VERSION
from mlproducer.task import Flow
from mlproducer.testing.clock import ManualClock
from mlproducer.testing.counters_contract import CountersContract, MakeCounters
from mlproducer.testing.spool_contract import NOW, MakeSpool, SpoolContract, StoreClock, audit, claim, row
from private_redis import PrivateRedis
from starting import run_together
from store_clocks import RedisClock

T = TypeVar("T")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRedis]:
    """One for the module. Tests on it must not kill, pause or fill it."""
    with PrivateRedis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRedis]:
    """One node with all the slots. The same holds."""
    with PrivateRedis(tmp_path_factory.mktemp("redis-cluster"), cluster=True) as server:
        yield server


@pytest.fixture
def prefix() -> str:
    return secrets.token_hex(4)


@pytest.fixture
async def spool(server: PrivateRedis, prefix: str) -> AsyncIterator[RedisSpool]:
    spool = RedisSpool(server.url(), prefix=prefix)
    await spool.open()
    yield spool
    await spool.close()


async def buried(spool: RedisSpool, *ids: str, died_at: float = NOW, reason: str = "nacked", text: str = "why") -> None:
    """Those of the ids that wait, or are new, as dead letters."""
    await asyncio.gather(*(spool.put(row(each)) for each in ids))
    leases = await spool.lease(len(ids), hold=60)
    assert all(await spool.settle([(lease, Bury(died_at, 3, reason, None, text)) for lease in leases]))


class TestRedis(SpoolContract):
    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> RedisClock:
        return RedisClock(monkeypatch)

    @pytest.fixture
    def make_spool(self, server: PrivateRedis, prefix: str) -> MakeSpool:
        return lambda: RedisSpool(server.url(), prefix=prefix)


class TestRedisCluster(SpoolContract):
    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> RedisClock:
        return RedisClock(monkeypatch)

    @pytest.fixture
    def make_spool(self, cluster: PrivateRedis, prefix: str) -> MakeSpool:
        return lambda: RedisSpool(cluster.url(), prefix=prefix)


class TestRedisCounters(CountersContract):
    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> RedisClock:
        return RedisClock(monkeypatch)

    @pytest.fixture
    def make_spool(self, server: PrivateRedis, prefix: str) -> MakeCounters:
        return lambda: RedisSpool(server.url(), prefix=prefix)


class TestRedisClusterCounters(CountersContract):
    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> RedisClock:
        return RedisClock(monkeypatch)

    @pytest.fixture
    def make_spool(self, cluster: PrivateRedis, prefix: str) -> MakeCounters:
        return lambda: RedisSpool(cluster.url(), prefix=prefix)


# Any history


IDS = st.sampled_from([f"t{n}" for n in range(6)])
TIMES = st.integers(0, 9).map(float)
TEXTS = st.sampled_from(["", "why", "WHY not", "naïve ✓"])
VERDICTS = st.one_of(
    st.builds(Done, TIMES, TIMES),
    st.builds(Again, TIMES, st.integers(0, 3), st.just("nacked"), TEXTS, st.booleans()),
    st.builds(
        Bury, TIMES, st.integers(0, 3), st.sampled_from(["nacked", "returned"]), st.sampled_from([None, 312]), TEXTS
    ),
)
FILTERS = st.builds(
    DeadFilter,
    task_type=st.sampled_from([None, None, "embed_vectors", "other"]),
    reason=st.sampled_from([None, "nacked"]),
    older_than=st.none() | TIMES,
    text=st.sampled_from([None, "why", "✓"]),
    newer_than=st.none() | TIMES,
)


A, B, BT = FLOWS = (Flow("a"), Flow("b"), Flow("b", "t"))
LEASED = st.sampled_from(({}, {"expired": True}, {"shares": {A: 9}}, {"shares": {B: 9, A: 0, BT: 9}}))


class Machine(RuleBasedStateMachine):
    """Whatever is done, both spools say the same; the one in memory is too simple to be wrong."""

    server: PrivateRedis
    clock: RedisClock

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        mine = ManualClock(0.0)
        self.clock.now = 0.0
        self.clocks: tuple[StoreClock, StoreClock] = (mine, self.clock)
        self.model = MemorySpool(mine)
        self.prefix = secrets.token_hex(6)
        self.spool = RedisSpool(self.server.url(), prefix=self.prefix)
        self.client = redis.Redis.from_url(self.server.url().partition("?")[0])
        self.run(self.spool.open())
        self.leases: list[tuple[Lease, Lease]] = []
        self.now = 0.0

    def run(self, call: Awaitable[T]) -> T:
        async def wait() -> T:
            return await call

        return self.runner.run(wait())

    def both(self, method: str, *args: Any, **given: Any) -> None:
        async def ask(spool: Spool) -> Any:
            return await getattr(spool, method)(*args, **given)

        expected = self.runner.run(ask(self.model))
        assert self.runner.run(ask(self.spool)) == expected

    @rule(task_id=IDS, delay=TIMES, eta=st.none() | TIMES, expires_at=st.none() | TIMES, flow=st.sampled_from(FLOWS))
    def put(self, task_id: str, delay: float, eta: float | None, expires_at: float | None, flow: Flow) -> None:
        new = row(task_id, delay=delay, eta=eta)
        told = {"expires_at": expires_at, "routing_key": flow.route, "tenant": flow.tenant}
        self.both("put", replace(new, envelope=replace(new.envelope, **told)))

    @rule(by=TIMES)
    def time_passes(self, by: float) -> None:
        self.now += by / 4
        for clock in self.clocks:
            clock.advance(by / 4)

    @rule(lasting=TIMES, given=LEASED)
    def lease(self, lasting: float, given: dict[str, Any]) -> None:
        """All that there are: which of equals come first is a store's choice."""
        mine, theirs = (
            sorted(self.run(each.lease(10, hold=lasting, **given)), key=lambda lease: lease.row.envelope.task_id)
            for each in (self.spool, self.model)
        )
        assert [lease.row for lease in mine] == [lease.row for lease in theirs]
        self.leases += zip(mine, theirs, strict=True)

    @rule(data=st.data(), verdicts=st.lists(VERDICTS, min_size=1, max_size=4))
    def settle(self, data: st.DataObject, verdicts: list[Verdict]) -> None:
        if self.leases:
            # Also those that were lost or settled long ago, and one of them twice.
            drawn = [(data.draw(st.sampled_from(self.leases[-8:])), verdict) for verdict in verdicts]
            held = self.run(self.model.settle([(theirs, verdict) for (_, theirs), verdict in drawn]))
            assert self.run(self.spool.settle([(mine, verdict) for (mine, _), verdict in drawn])) == held

    @rule()
    def all_die(self) -> None:
        """What is rare by chance, and what replays and purges need."""
        self.time_passes(100.0)
        for each in (self.spool, self.model):
            leases = self.run(each.lease(10, hold=0.0))
            self.run(each.settle([(lease, Bury(self.now, 3, "nacked", 312, "why")) for lease in leases]))

    @rule(ids=st.lists(IDS, min_size=1, max_size=6), action=st.sampled_from(["replay", "purge"]))
    def replay_or_purge(self, ids: list[str], action: str) -> None:
        self.both(action, audit(*ids, at=self.now, action=action))

    @rule(task_id=IDS, token=st.sampled_from(["me", "you"]), lasting=TIMES)
    def claim(self, task_id: str, token: str, lasting: float) -> None:
        self.both("claim", claim(task_id, token=token), hold=lasting)

    @rule(task_id=IDS, keep=TIMES)
    def confirm(self, task_id: str, keep: float) -> None:
        self.both("confirm", claim(task_id), confirmed_at=self.now, keep=keep)

    @rule(task_id=IDS, token=st.sampled_from(["me", "you"]))
    def release(self, task_id: str, token: str) -> None:
        self.both("release", task_id, token)

    @rule()
    def forget(self) -> None:
        self.both("forget", limit=100)

    @rule(where=FILTERS, offset=st.integers(0, 2))
    def dead(self, where: DeadFilter, offset: int) -> None:
        self.both("count_dead", where)
        self.both("dead", where, limit=3, offset=offset)

    @rule()
    def reopened(self) -> None:
        self.run(self.spool.close())
        self.run(self.spool.open())

    @invariant()
    def both_hold_the_same(self) -> None:
        sizes = [self.run(each.measure()) for each in (self.spool, self.model)]
        assert replace(sizes[0], at=None) == sizes[1]
        assert sizes[0].at == self.now
        self.both("waiting", limit=10)
        self.both("audits", limit=10)
        flows = [sorted(self.run(each.flows())) for each in (self.spool, self.model)]
        assert flows[0] == flows[1]

        async def found() -> list[Any]:
            return await asyncio.gather(*(each.find(f"t{n}") for n in range(6) for each in (self.spool, self.model)))

        known = self.run(found())
        assert known[::2] == known[1::2]

    @invariant()
    def each_index_holds_what_it_is_of_and_nothing_else(self) -> None:
        """What one call leaves behind would hold up another: the first of a list that stands for nothing."""
        keys = Keys(self.client, self.prefix)
        rows, dead, records = (keys.of_hash(name) for name in ("rows", "dead", "records"))
        assert keys.of_hash("bodies") == rows | dead
        assert keys.of_hash("tokens") <= rows
        assert [keys.of_zset(name) for name in ("leasable", "due", "accepted")] == [rows] * 3
        assert {member[2 + member[1] + 8 :] for member in keys.of_zset("lanes")} == rows
        assert len(keys.of_zset("lanes")) == len(rows), "each in one lane, once"
        assert keys.of_zset("expires") == self.that_expire()
        assert keys.of_zset("died") == dead
        assert keys.of_zset("kept") == records
        assert keys.of_hash("claims") <= records

    def that_expire(self) -> set[bytes]:
        rows = ((each, held.row.envelope) for each, held in self.model._rows.items())
        return {task_id.encode() for task_id, envelope in rows if envelope.expires_at is not None}

    def teardown(self) -> None:
        self.run(self.spool.close())
        self.client.close()
        self.runner.close()


class Keys:
    """What a spool has in Redis: see `spool.redis.lua`."""

    def __init__(self, client: redis.Redis, prefix: str) -> None:
        self._client = client
        self._prefix = prefix

    def of_hash(self, name: str) -> set[bytes]:
        return set(self._client.hkeys(f"{{{self._prefix}}}:{name}"))  # type: ignore[arg-type]  # it answers at once

    def of_zset(self, name: str) -> set[bytes]:
        return set(self._client.zrange(f"{{{self._prefix}}}:{name}", 0, -1))  # type: ignore[arg-type]  # as above


def test_any_history_of_calls_leaves_what_it_leaves_in_memory(
    server: PrivateRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = type("OnServer", (Machine,), {"server": server, "clock": RedisClock(monkeypatch)}).TestCase()  # type: ignore[attr-defined]
    machine.settings = histories(8, 30)
    machine.runTest()


# What is special to it


async def test_thousands_of_dead_letters_are_listed_and_counted_part_by_part(spool: RedisSpool) -> None:
    ids = [f"t{n:05}" for n in range(2_600)]
    await buried(spool, *ids[:2_500], text="Boom")  # more than one part of a list, and all of one moment
    await buried(spool, *ids[2_500:], died_at=NOW + 1, reason="returned", text="NO_ROUTE É")
    newest_first = ids[2_500:] + ids[:2_500]

    async def listed(where: DeadFilter, limit: int, offset: int) -> list[str]:
        found = await spool.dead(where, limit=limit, offset=offset)
        assert all(isinstance(each, DeadEntry) for each in found)
        return [each.task_id for each in found]

    assert await listed(DeadFilter(), 10_000, 0) == newest_first
    assert await listed(DeadFilter(), 3, 1_099) == newest_first[1_099:1_102]
    assert await listed(DeadFilter(text="bOOM"), 10_000, 0) == ids[:2_500]
    assert await listed(DeadFilter(reason="nacked", task_type="embed_vectors"), 3, 2_498) == ids[2_498:2_500]
    assert await listed(DeadFilter(older_than=NOW + 1), 10_000, 2_000) == ids[2_000:2_500]
    assert await listed(DeadFilter(newer_than=NOW + 1, text="no_route É"), 2, 0) == ids[2_500:2_502]
    assert await listed(DeadFilter(text="é"), 2, 0) == [], "only ASCII letters are equal to their capitals"
    for where, count in (
        (DeadFilter(), 2_600),
        (DeadFilter(text="boom"), 2_500),
        (DeadFilter(newer_than=NOW + 1), 100),
        (DeadFilter(older_than=NOW), 0),
        (DeadFilter(newer_than=NOW, older_than=NOW + 1), 2_500),
    ):
        assert await spool.count_dead(where) == count, asdict(where)


async def test_a_replayed_row_expires_as_it_would_have(spool: RedisSpool, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = RedisClock(monkeypatch)
    await buried(spool, "a")  # row() expires at NOW + 60
    await spool.replay(audit("a", at=NOW + 9_000))
    clock.advance(59)
    assert not await spool.lease(1, hold=60, expired=True)
    clock.advance(1)
    assert len(await spool.lease(1, hold=60, expired=True)) == 1


async def test_very_large_rows_are_leased_a_few_at_a_time(spool: RedisSpool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlproducer.spool.redis.leases.LEASE_BYTES", 3_500)
    await asyncio.gather(*(spool.put(row(f"t{n}", size=1_000)) for n in range(4)))
    first = await spool.lease(10, hold=60)
    assert len(first) == 3
    rest = await spool.lease(10, hold=60)
    assert len({lease.row.envelope.task_id for lease in (*first, *rest)}) == 4


async def test_half_a_character_in_an_error_is_stored_as_a_question_mark(spool: RedisSpool) -> None:
    await spool.put(row("a", text="no \udcff file"))
    found = await spool.find("a")
    assert isinstance(found, SpoolRow)
    assert found.text == "no ? file"


async def test_what_fails_one_call_by_its_content_is_said_and_fails_no_other(spool: RedisSpool) -> None:
    with pytest.raises(UnicodeEncodeError):
        await spool.put(row("a", cause="\udcff"))
    assert await spool.put(row("b"))


async def test_calls_that_are_under_way_are_finished_by_close(server: PrivateRedis, prefix: str) -> None:
    first = RedisSpool(server.url(), prefix=prefix)
    await first.open()
    puts = [asyncio.ensure_future(first.put(row(f"t{n}"))) for n in range(1_500)]
    await asyncio.sleep(0)
    await first.close()
    assert await asyncio.gather(*puts) == [True] * 1_500
    with pytest.raises(SpoolUnavailable, match="not open"):
        await first.put(row("late"))
    await first.open()
    assert (await first.measure()).tasks == 1_500
    await first.close()


async def test_a_loop_over_the_spool_ends_when_it_is_cancelled_at_whatever_moment(spool: RedisSpool) -> None:
    async def loop() -> None:
        while True:
            await spool.measure()

    for turns in range(400):
        work = asyncio.create_task(loop())
        for _ in range(turns % 40):
            await asyncio.sleep(0)
        await asyncio.sleep(random.uniform(0, 0.001))
        work.cancel()
        done, _ = await asyncio.wait([work], timeout=5)
        assert done, turns
        assert work.cancelled()


async def test_spools_of_two_prefixes_know_nothing_of_each_other(server: PrivateRedis, spool: RedisSpool) -> None:
    other = RedisSpool(server.url(prefix=secrets.token_hex(4)))
    await other.open()
    await spool.put(row("a"))
    assert await other.find("a") is None
    await other.close()


async def test_a_spool_of_a_newer_version_is_refused(server: PrivateRedis, prefix: str) -> None:
    server.run("SET", f"{{{prefix}}}:version", str(VERSION + 1))
    with pytest.raises(SpoolUnavailable, match="newer mlproducer"):
        await RedisSpool(server.url(), prefix=prefix).open()


async def test_a_spool_hears_of_rows_that_others_put_or_replay_and_not_of_its_own(
    server: PrivateRedis, prefix: str
) -> None:
    heard = asyncio.Event()
    mine, other = (RedisSpool(server.url(), prefix=prefix) for _ in range(2))
    mine.watch(heard.set)
    await mine.open()
    await other.open()
    async with asyncio.timeout(10):
        await buried(mine, "own")
        await asyncio.sleep(0.1)
        assert not heard.is_set()
        await other.put(row("a"))
        await heard.wait()
        heard.clear()
        await other.replay(audit("own"))
        await heard.wait()
    await mine.close()
    await other.close()


async def test_many_producers_on_one_spool_store_an_id_once(server: PrivateRedis, prefix: str) -> None:
    spools = [RedisSpool(server.url(), prefix=prefix) for _ in range(4)]
    for each in spools:
        await each.open()
    stored = await asyncio.gather(*(each.put(row(f"t{n}")) for n in range(50) for each in spools))
    assert sum(stored) == 50
    for each in spools:
        await each.close()


DRAIN = """
import asyncio, sys
from mlproducer.rows import Done
from mlproducer.spool.redis import RedisSpool
from mlproducer.testing.spool_contract import NOW

async def main(url, prefix):
    spool = RedisSpool(url, prefix=prefix)
    await spool.open()
    print("ready", flush=True)
    sys.stdin.readline()
    while leases := await spool.lease(100, hold=60):
        held = await spool.settle([(lease, Done(NOW, 1)) for lease in leases])
        assert all(held)
        print(*(lease.row.envelope.task_id for lease in leases), sep="\\n")
    await spool.close()

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("processes", "rows"),
    [
        (4, 4_000),
        pytest.param(2, 100_000, marks=pytest.mark.chaos),
        pytest.param(4, 100_000, marks=pytest.mark.chaos),
    ],
)
async def test_processes_that_drain_one_spool_lease_each_row_once(
    server: PrivateRedis, spool: RedisSpool, prefix: str, processes: int, rows: int
) -> None:
    for start in range(0, rows, 4_000):
        await asyncio.gather(*(spool.put(row(f"t{n}")) for n in range(start, start + 4_000)))
    command = [sys.executable, "-c", DRAIN, server.url(), prefix]
    said = await run_together(command, processes)
    leased = [task_id for out in said for task_id in out]
    assert len(leased) == rows
    assert len(set(leased)) == rows
    assert sum(map(bool, said)) == processes, "all of them had their share"
    assert (await spool.measure()).tasks == 0


# The address


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://", "redis://"),
        ("redis://host/one", "number of the database"),
        ("redis://user:sec/ret@host/0", "is written %2F"),
        ("redis://host:port/", "host and port cannot be read"),
        ("redis://host?retry=10", "`retry`"),
        ("redis://host?ssl_ca_certs=/file", "`ssl_ca_certs`"),
        ("rediss://host?ssl_cert_reqs=maybe", "ssl_cert_reqs"),
        ("redis://host?persistence=always,really", "persistence"),
        ("redis://host?prefix={a}", "prefix"),
        ("redis://host?timeout=nan", "timeout"),
    ],
)
def test_a_wrong_url_is_refused_with_what_is_wrong_and_without_its_password(url: str, said: str) -> None:
    with pytest.raises(SettingsError, match="ML_SPOOL_URL") as caught:
        RedisSpool(url)
    assert said in str(caught.value)
    assert "ret" not in str(caught.value).replace("retry", "")


def test_a_url_says_all_that_there_is_to_say() -> None:
    url = "rediss://us%40er:p%2Fw@[::1]:7000/3?persistence=always&prefix=mine&timeout=2&ssl_ca_certs=/ca.pem"
    address = Address.parse(url, prefix="mlproducer")
    assert (address.host, address.port, address.db, address.node) == ("::1", 7000, 3, "[::1]:7000")
    assert (address.user, address.password) == ("us@er", "p/w")
    assert (address.persistence, address.prefix, address.timeout) == (Persistence.ALWAYS, "mine", 2.0)
    assert address.options["ssl"] is True
    assert address.options["ssl_cert_reqs"] == "required"
    assert address.options["ssl_check_hostname"] is True
    assert "p/w" not in repr(address)


def test_without_the_library_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [each for each in sys.modules if each.partition(".")[0] == "redis"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.delitem(sys.modules, "mlproducer.spool.redis.link")
    monkeypatch.delitem(sys.modules, "mlproducer.spool.redis.faults")
    with pytest.raises(SettingsError, match=r"pip install 'mlproducer\[redis\]'"):
        RedisSpool("redis://localhost")


async def test_a_look_makes_no_spool_where_there_is_none(server: PrivateRedis) -> None:
    prefix = secrets.token_hex(6)
    look = RedisSpool(server.url(), prefix=prefix, owner=False)
    with pytest.raises(SpoolNotMade, match="ML_SPOOL_URL"):
        await look.open()
    await look.close()
    owner = RedisSpool(server.url(), prefix=prefix)
    await owner.open()
    again = RedisSpool(server.url(), prefix=prefix, owner=False)
    await again.open()
    assert (await again.measure()).tasks == 0
    await again.close()
    await owner.close()
