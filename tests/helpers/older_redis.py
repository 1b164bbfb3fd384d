"""Producers of older versions on a Redis spool: of that before routes, with its scripts, and of that before tenants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from msgspec.structs import replace

from mlproducer.rows import Lease, Settlement, SpoolRow
from mlproducer.spool.redis import RedisSpool, codec
from mlproducer.spool.redis.codec import number
from mlproducer.spool.redis.group import Args
from mlproducer.spool.redis.lua import FLOW, NOW, PAIR, STAMP, TELL, Script
from mlproducer.spool.redis.spool import _verdict
from mlproducer.task import Flow

_ADOPT: Final = Script(
    ("version",),
    """
local found = call('GET', version)
if found then return found end
call('SET', version, args[1])
return args[1]
""",
)
_PUT: Final = Script(
    ("rows", "bodies", "free", "due", "accepted", "expires", "dead", "records", "claims", "kept", "bytes", "added"),
    TELL
    + PAIR
    + NOW
    + STAMP
    + """
local answer, new, size = {}, {}, 0
local content, entry, at, expires_at, claimed = {}, {}, {}, {}, {}
for n = 2, #args, 6 do
  local id = args[n]
  local record = call('HEXISTS', records, id) == 1
  local there = new[id] or call('HEXISTS', rows, id) == 1 or call('HEXISTS', dead, id) == 1
    or (record and call('HEXISTS', claims, id) == 0)
  answer[#answer + 1] = there and 0 or 1
  if not there then
    new[id] = true
    local due_at = now + args[n + 3]
    if args[n + 5] ~= '' then due_at = math.max(due_at, tonumber(args[n + 5])) end
    pair(entry, id, stamped(args[n + 1], due_at))
    pair(content, id, args[n + 2])
    pair(at, due_at, id)
    if args[n + 4] ~= '' then pair(expires_at, args[n + 4], id) end
    if record then claimed[#claimed + 1] = id end
    size = size + #args[n + 2] - 4
  end
end
if #entry > 0 then
  call('HSET', bodies, unpack(content))
  call('HSET', rows, unpack(entry))
  call('ZADD', free, unpack(at))
  call('ZADD', due, unpack(at))
  call('ZADD', accepted, unpack(at))
  if #expires_at > 0 then call('ZADD', expires, unpack(expires_at)) end
  if #claimed > 0 then
    call('HDEL', records, unpack(claimed))
    call('HDEL', claims, unpack(claimed))
    call('ZREM', kept, unpack(claimed))
  end
  call('INCRBY', bytes, size)
  tell(args[1])
end
return answer
""",
)
_LEASE: Final = Script(
    ("rows", "bodies", "tokens", "free", "expires"),
    PAIR
    + NOW
    + """
local limit, hold, token, by, most = unpack(args)
local ends = now + hold
local ids = call('ZRANGEBYSCORE', by == 'expires' and expires or free, '-inf', now, 'LIMIT', 0, limit)
local answer, taken, held, till, late, size = {}, {}, {}, {}, {}, 0
for _, id in ipairs(ids) do
  local content = call('HGET', bodies, id)
  size = size + #content
  if size > tonumber(most) and #taken > 0 then break end
  local entry = call('HGET', rows, id)
  answer[#answer + 1] = struct.pack('>I4I4I4', #id, #entry, #content) .. id .. entry .. content
  taken[#taken + 1] = id
  pair(held, id, token)
  pair(till, ends, id)
  local expires_at = call('ZSCORE', expires, id)
  if expires_at and tonumber(expires_at) < ends then pair(late, ends, id) end
end
if #taken > 0 then
  call('HDEL', tokens, unpack(taken))
  call('HSET', tokens, unpack(held))
  call('ZADD', free, unpack(till))
  if #late > 0 then call('ZADD', expires, unpack(late)) end
end
return table.concat(answer)
""",
)
_SETTLE: Final = Script(
    ("rows", "bodies", "tokens", "free", "due", "accepted", "expires", "dead", "died", "records", "kept", "bytes"),
    PAIR
    + NOW
    + STAMP
    + """
local answer, held, place, gone, done, size = {}, {}, {}, {}, {}, 0
for n = 1, #args, 6 do
  local verdict, id, token = unpack(args, n, n + 2)
  local ours = not place[id] and call('HGET', tokens, id) == token  -- a lease settles once
  answer[#answer + 1] = ours and 1 or 0
  if ours then
    held[#held + 1], place[id] = id, n
    if verdict == 'done' then done[#done + 1] = id end
    if verdict ~= 'again' then
      gone[#gone + 1] = id
      size = size + call('HSTRLEN', bodies, id) - 4
    end
  end
end
if #held == 0 then return answer end
call('HDEL', tokens, unpack(held))
if #gone > 0 then
  call('HDEL', rows, unpack(gone))
  for _, set in ipairs({free, due, accepted, expires}) do call('ZREM', set, unpack(gone)) end
  call('DECRBY', bytes, size)
end
if #done > 0 then call('HDEL', bodies, unpack(done)) end
local record, keep = {}, {}
for _, id in ipairs(held) do
  local verdict, _, _, value, by, expires_at = unpack(args, place[id], place[id] + 5)
  if verdict == 'done' then
    pair(record, id, value)
    pair(keep, now + by, id)
  elseif verdict == 'bury' then
    call('HSET', dead, id, value)
    call('ZADD', died, by, id)
  else
    call('HSET', rows, id, stamped(value, now + by))
    call('ZADD', free, now + by, id)
    call('ZADD', due, now + by, id)
    if expires_at ~= '' then call('ZADD', expires, expires_at, id) end
  end
end
if #done > 0 then
  call('HSET', records, unpack(record))
  call('ZADD', kept, unpack(keep))
end
return answer
""",
)


class OlderRedisSpool(RedisSpool):
    """It puts, leases (all that there is room for in one script) and settles as version 1 did."""

    async def _adopt(self) -> None:
        version = int(await self._link.run(_ADOPT, [1]))
        assert version == 1, "an older one is refused"

    async def _put_together(self, group: Sequence[Args]) -> Sequence[bool]:
        stored = await self._link.run(_PUT, [self._origin, *(value for args in group for value in args[:6])])
        return list(map(bool, stored))

    async def older_lease(self, limit: int, *, hold: float, by: str = "free") -> list[Lease]:
        token = f"{self._origin}-older-{limit}"
        found = await self._link.run(_LEASE, [limit, number(hold), token, by, 1_000_000])
        return [Lease(each, token) for each in codec.rows_from(found)]

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[bool]:
        args = [value for each in settlements for value in _verdict(each)[:6]]
        return list(map(bool, await self._link.run(_SETTLE, args)))


class BeforeTenants(RedisSpool):
    """One that was open before the spool came to this version: it takes a flow for a routing key, knows of no tenant in
    what it reads, and loses it in what it writes back.
    """

    async def open(self) -> None:
        await super().open()
        run = self._link.run

        async def as_it_was(script: Script, *args: Any) -> Any:
            return await run(Script(script.keys, script.body.replace(FLOW, _FLOW)), *args)

        link: Any = self._link
        link.run = as_it_was

    async def flows(self) -> Sequence[Flow]:
        return [Flow(codec.flow_name(each).decode()) for each in await super().flows()]

    async def lease(self, limit: int, **given: Any) -> Sequence[Lease]:
        return [replace(each, row=_without_tenant(each.row)) for each in await super().lease(limit, **given)]


_FLOW: Final = "local function flow_of(task) return task[5] end"


def _without_tenant(row: SpoolRow) -> SpoolRow:
    return replace(row, envelope=replace(row.envelope, tenant=""))
