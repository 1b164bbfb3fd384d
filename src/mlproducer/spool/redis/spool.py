"""`ports.CountingSpool` on a Redis server, alone or as a cluster."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, assert_never

from mlproducer.errors import SettingsError, SpoolNotMade, SpoolUnavailable
from mlproducer.rows import (
    Again,
    Audit,
    Bury,
    Claim,
    Counts,
    DeadEntry,
    DeadFilter,
    Done,
    Known,
    Lease,
    NewRow,
    Settlement,
    SpoolSize,
    Tally,
    WaitingEntry,
)
from mlproducer.spool.redis import changes, codec, queries
from mlproducer.spool.redis.address import Address
from mlproducer.spool.redis.codec import number, optional
from mlproducer.spool.redis.counters import RedisCounters
from mlproducer.spool.redis.group import Args, Group
from mlproducer.spool.redis.leases import RedisLeases
from mlproducer.spool.redis.lua import Script
from mlproducer.spool.turns import check_shares
from mlproducer.task import Flow

if TYPE_CHECKING:
    from mlproducer.spool.redis.link import Link
    from mlproducer.spool.redis.watch import Watch

_AT_ONCE: Final = 500
"""Rows in one script, while which the server does nothing else."""
_LOOKED_AT: Final = 1_000
"""Entries of a list that one script looks at."""
_FOUND: Final = 50
"""Tasks whose content is asked for in one script."""
_ALL: Final = "inf"
_NONE: Final = "-inf"


class RedisSpool:
    """Many producers may share one spool: each call is one script, which the server runs alone and whole.

    A spool is one hash slot (`{prefix}:…`): a script may only touch keys of one slot, and moving a task from one
    place to another must be one script. So one spool lives on one node of a cluster, and does not grow with it; other
    prefixes are other spools, and other slots.

    What was answered is in the server's append-only file; `open` refuses a server that has none (`look.refusal`). Two
    things are outside of the promise: a replica that takes over without the last commits, since we wait for none
    (WAIT), and a server that somebody reconfigures under way, since we look when a connection is made.

    `url` is `redis://[user:password@]host:port/db`, or `rediss://` for TLS; options: `persistence` (`aof`, `always`,
    `unsafe`), `prefix`, `timeout` (seconds), `client_name`, and `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile`,
    `ssl_password`, `ssl_cert_reqs`, `ssl_check_hostname`.

    `owner=False` looks, replays and purges, and makes no spool where there is none.

    Raises: SettingsError, for a wrong URL, or where the `redis` library is not installed.
    """

    def __init__(self, url: str, *, prefix: str = "mlproducer", owner: bool = True) -> None:
        self._owner = owner
        self._address = Address.parse(url, prefix=prefix)
        self._link: Link = _link(self._address)
        self._counters = RedisCounters(self._link)
        self._origin = secrets.token_hex(8)
        """Who we are: in the tokens of our leases, and in what we say on the channel."""
        self._leases = RedisLeases(self._link, self._origin)
        self._added: Callable[[], None] | None = None
        self._watch: Watch | None = None
        self._puts: Group[bool] = Group(self._put_together)
        self._claims: Group[Any] = Group(lambda group: self._run(changes.CLAIM, group))
        self._finds: Group[Any] = Group(lambda group: self._run(queries.FIND, group), largest=_FOUND)
        self._confirms: Group[None] = Group(lambda group: self._run_silent(changes.CONFIRM, group))
        self._releases: Group[None] = Group(lambda group: self._run_silent(changes.RELEASE, group))

    def __repr__(self) -> str:
        return f"<RedisSpool {self._address.node}/{self._address.db} {self._address.prefix}>"

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is less safe at the server than it could be; logged too, once."""
        return self._link.warnings

    async def open(self) -> None:
        """Raises: SpoolUnavailable, if the server cannot be used, or is not durable."""
        await self._link.open()
        try:
            await self._adopt()
            if self._added is not None:
                await self._listen(self._added)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Finish what is under way, then let go of the connections."""
        watch, self._watch = self._watch, None
        if watch is not None:
            await watch.end()
        for group in (self._puts, self._claims, self._finds, self._confirms, self._releases):
            await group.end()
        await self._link.close()

    def watch(self, added: Callable[[], None]) -> None:
        self._added = added

    def put(self, row: NewRow) -> asyncio.Future[bool]:
        """After an answer that was lost, a second put finds the row of the first, and says False: it is safe."""
        task = row.envelope
        return self._puts.ask(
            task.task_id,
            codec.row_entry(row),
            codec.content(task),
            number(row.delay),
            optional(task.expires_at),
            optional(task.eta),
            codec.flow_name(task.flow),
        )

    async def claim(self, claim: Claim, *, hold: float) -> Known | None:
        """After an answer that was lost, a second one finds our own claim, and returns it; its token says so."""
        found = await self._claims.ask(claim.task_id, number(hold), codec.record(claim), claim.token)
        return codec.known_from(claim.task_id, found)

    async def confirm(self, claim: Claim, *, confirmed_at: float, keep: float) -> None:
        await self._confirms.ask(claim.task_id, codec.record(claim, confirmed_at), number(keep))

    async def release(self, task_id: str, token: str) -> None:
        await self._releases.ask(task_id, token)

    async def flows(self) -> Sequence[Flow]:
        return await self._leases.flows()

    async def lease(
        self, limit: int, *, hold: float, expired: bool = False, shares: Mapping[Flow, int] | None = None
    ) -> Sequence[Lease]:
        check_shares(shares, expired=expired)
        if shares is None:
            leases = await self._leases.oldest(limit, hold, expired=expired)
        else:
            leases = await self._leases.of_flows(limit, hold, shares)
        return sorted(leases, key=lambda lease: lease.row.due_at)

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[bool]:
        """One script, and so one transaction, for each 500.

        After an answer that was lost, a second settle says False of what the first one settled: the lease is gone.
        """
        held: list[bool] = []
        for at in range(0, len(settlements), _AT_ONCE):
            args = [_verdict(settlement) for settlement in settlements[at : at + _AT_ONCE]]
            held += map(bool, await self._run(changes.SETTLE, args))
        return held

    async def measure(self) -> SpoolSize:
        tasks, size, first_due, dead, next_due, now = await self._link.run(queries.MEASURE, [])
        return SpoolSize(
            tasks,
            int(size),
            None if first_due is None else float(first_due),
            dead,
            None if next_due is None else float(next_due),
            at=float(now),
        )

    async def find(self, task_id: str) -> Known | None:
        return codec.known_from(task_id, await self._finds.ask(task_id))

    async def waiting(self, *, limit: int, offset: int = 0) -> Sequence[WaitingEntry]:
        found: dict[str, bytes] = {}  # by id: a row may move between two pages
        async for _, page in self._pages(queries.WAITING, ["first", _NONE, offset], _ALL, "all", b"", limit):
            found.update((task_id.decode(), entry) for task_id, entry in page)
            if len(found) >= limit:
                break
        return [codec.waiting_entry(*each) for each in itertools.islice(found.items(), limit)]

    async def dead(self, where: DeadFilter, *, limit: int, offset: int = 0) -> Sequence[DeadEntry]:
        """A filter for more than time looks at one letter after the other, a thousand in a script, newest first."""
        wanted = codec.wanted(where)
        start, last = _between(where)
        skip = offset if wanted else 0
        first: list[str | int] = ["first", start, 0 if wanted else offset]
        found: dict[str, bytes] = {}  # by id: a letter may move between two pages
        if limit > 0:
            asked = _LOOKED_AT if wanted else limit
            pages = self._pages(queries.DEAD, first, last, "some" if wanted else "all", codec.pack(wanted), asked)
            async for _, page in pages:
                found.update((task_id.decode(), entry) for task_id, entry in page)
                if len(found) >= skip + limit:
                    break
        return [codec.dead_entry(*each) for each in itertools.islice(found.items(), skip, skip + limit)]

    async def count_dead(self, where: DeadFilter) -> int:
        wanted = codec.wanted(where)
        start, last = _between(where)
        if not wanted:
            after = start if start == _NONE else f"({start}"
            return int(await self._link.run(queries.COUNT_DEAD, [after, last]))
        pages = self._pages(queries.DEAD, ["first", start, 0], last, "count", codec.pack(wanted), _LOOKED_AT)
        return sum([count async for count, _ in pages])

    async def replay(self, audit: Audit) -> int:
        """One script, and so one transaction, however many ids: about 100,000 of them keep the server for a second."""
        how = (self._origin, codec.told_of(0, "replayed", "", alone=False))
        ids = dict.fromkeys(audit.task_ids)
        return int(await self._link.run(changes.REPLAY, [codec.audit_head(audit), *how, *ids]))

    async def purge(self, audit: Audit) -> int:
        """As `replay`."""
        ids = dict.fromkeys(audit.task_ids)
        return int(await self._link.run(changes.PURGE, [codec.audit_head(audit), *ids]))

    async def audits(self, *, limit: int, offset: int = 0) -> Sequence[Audit]:
        if limit <= 0:
            return []
        return [codec.audit_from(each) for each in await self._link.run(queries.AUDITS, [offset, offset + limit - 1])]

    async def forget(self, *, limit: int) -> int:
        gone = 0
        while gone < limit:
            asked = min(limit - gone, _AT_ONCE)
            found = int(await self._link.run(changes.FORGET, [asked]))
            gone += found
            if found < asked:
                break
        return gone

    async def count(self, tallies: Sequence[Tally]) -> Sequence[bool]:
        return await self._counters.count(tallies)

    async def counts(self, *, since: int, until: int, hourly: bool) -> Counts:
        return await self._counters.counts(since=since, until=until, hourly=hourly)

    async def forget_counts(self, *, before: int, limit: int) -> int:
        return await self._counters.forget_counts(before=before, limit=limit)

    async def _put_together(self, group: Sequence[Args]) -> Sequence[bool]:
        stored: list[int] = await self._link.run(changes.PUT, [self._origin, *itertools.chain.from_iterable(group)])
        return list(map(bool, stored))

    async def _run(self, script: Script, group: Sequence[Args]) -> Sequence[Any]:
        answers: list[Any] = await self._link.run(script, list(itertools.chain.from_iterable(group)))
        return answers

    async def _run_silent(self, script: Script, group: Sequence[Args]) -> Sequence[None]:
        await self._link.run(script, list(itertools.chain.from_iterable(group)))
        return [None] * len(group)

    async def _pages(
        self, script: Script, place: list[Any], last: str, want: str, wanted: bytes, limit: int
    ) -> AsyncIterator[tuple[int, list[tuple[bytes, bytes]]]]:
        """Part after part of a list, from `place`. Whoever has enough stops asking."""
        while True:
            asked = min(limit, _LOOKED_AT)
            if asked <= 0:
                return
            score, task_id, count, page = await self._link.run(script, [*place, last, asked, want, wanted])
            yield count, page
            if task_id is None:
                return
            place = ["after", score, task_id]

    async def _adopt(self) -> None:
        """Make the spool, or bring an older one up. Race: we are stopped in between. Then who leases next goes on."""
        version = int(await self._link.run(changes.ADOPT if self._owner else queries.VERSION, [codec.VERSION]) or 0)
        if not version:
            raise SpoolNotMade(
                f"there is no spool at {self._address.node}, or no producer has opened it yet: see ML_SPOOL_URL"
            )
        if version < codec.VERSION:
            raise SpoolNotMade(
                f"the Redis spool at {self._address.node} is of an older mlproducer (version {version}, here "
                f"{codec.VERSION}): start a producer of this version once on ML_SPOOL_URL, it brings it up to date"
            )
        if version > codec.VERSION:
            raise SpoolUnavailable(
                f"the Redis spool at {self._address.node} is of a newer mlproducer (version {version}, here "
                f"{codec.VERSION}): update this one, or name another prefix in ML_SPOOL_URL"
            )
        if self._owner:
            await self._leases.take_in()

    async def _listen(self, added: Callable[[], None]) -> None:
        from mlproducer.spool.redis.watch import Watch  # noqa: PLC0415  # needs the extra, see `_link`

        self._watch = Watch(self._address, f"{{{self._address.prefix}}}:added", self._origin, added)
        await self._watch.start()


def _link(address: Address) -> Link:
    try:
        from mlproducer.spool.redis.link import Link  # noqa: PLC0415  # redis is an extra: most spools do without
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "redis":
            raise
        raise SettingsError("ML_SPOOL_URL: redis:// needs more packages: pip install 'mlproducer[redis]'") from error
    return Link(address)


def _between(where: DeadFilter) -> tuple[str, str]:
    """The scores of dead letters, -`died_at`, by time: up to the first is too new, after the second too old."""
    start = _NONE if where.older_than is None else number(-where.older_than)
    return start, _ALL if where.newer_than is None else number(-where.newer_than)


def _verdict(settlement: Settlement) -> Args:
    lease, verdict = settlement
    row = lease.row
    task = row.envelope
    match verdict:
        case Done(keep=keep):
            said: Args = ("done", codec.done_record(row, verdict), number(keep), "")
        case Again(delay, attempts, cause, text, alone, history):
            again = NewRow(task, row.accepted_at, delay, attempts, cause, text, alone, history)
            said = ("again", codec.row_entry(again), number(delay), optional(task.expires_at))
        case Bury(died_at=died_at):
            said = ("bury", codec.letter_entry(row, verdict), number(-died_at), "")
        case _:
            assert_never(verdict)
    kind, value, by, expires_at = said
    told = (codec.flow_name(task.flow), number(row.accepted_at))
    return kind, task.task_id, lease.token, value, by, expires_at, *told
