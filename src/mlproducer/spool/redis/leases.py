"""What is leased from Redis, by when it is free, or flow by flow. `lua` says what the keys are."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from mlproducer.errors import SpoolUnavailable
from mlproducer.rows import LEASE_BYTES, Lease
from mlproducer.spool.redis import codec
from mlproducer.spool.redis.codec import number
from mlproducer.spool.redis.lua import FLOW, NOW, PAIR, PLACE, Script
from mlproducer.spool.turns import left_over, quotas
from mlproducer.task import Flow

if TYPE_CHECKING:
    from mlproducer.spool.redis.link import Link

_AT_ONCE: Final = 500
"""Rows, or flows, in one script, while which the server does nothing else."""

_TAKE_IN: Final = (
    PLACE
    + FLOW
    + """
local function flow_in(entry)
  return flow_of(cmsgpack.unpack(string.sub(entry, 5, 4 + struct.unpack('>I4', entry))))
end
-- What older producers wrote since, and before this version was: how much of it there was, up to a bound.
local function take_in()
  local found = call('ZRANGE', free, 0, 499, 'WITHSCORES')
  for n = 1, #found, 2 do
    local id, at = found[n], found[n + 1]
    call('ZREM', free, id)
    local entry = call('HGET', rows, id)
    if entry then
      local flow, before = flow_in(entry), call('ZSCORE', leasable, id)
      if before then call('ZREM', lanes, place(flow, before, id)) end
      call('ZADD', leasable, at, id)
      call('ZADD', lanes, 0, place(flow, at, id))
    end
  end
  return #found / 2
end
local older = take_in()
"""
)
TAKE_IN: Final = Script(("rows", "free", "leasable", "lanes"), _TAKE_IN + "return older")

_GIVE: Final = (
    PAIR
    + """
local ends = now + hold
local answer, taken, held, till, late, from, to = {}, {}, {}, {}, {}, {}, {}
local function give(id, entry, content)
  answer[#answer + 1] = struct.pack('>I4I4I4', #id, #entry, #content) .. id .. entry .. content
  taken[#taken + 1] = id
  pair(held, id, token)
  pair(till, ends, id)
  local flow = flow_in(entry)
  from[#from + 1] = place(flow, call('ZSCORE', leasable, id) or 0, id)
  pair(to, 0, place(flow, ends, id))
  local expires_at = call('ZSCORE', expires, id)
  if expires_at and tonumber(expires_at) < ends then pair(late, ends, id) end
end
local function given()
  if #taken > 0 then
    call('HDEL', tokens, unpack(taken))
    call('HSET', tokens, unpack(held))
    call('ZREM', lanes, unpack(from))
    call('ZADD', leasable, unpack(till))
    call('ZADD', lanes, unpack(to))
    if #late > 0 then call('ZADD', expires, unpack(late)) end
    if older > 0 then call('ZREM', free, unpack(taken)) end
  end
  return table.concat(answer)
end
"""
)

_KEYS: Final = ("rows", "bodies", "tokens", "free", "leasable", "lanes", "expires")

LEASE: Final = Script(
    _KEYS,
    NOW
    + "local hold, token, room, limit, by = unpack(args)"
    + _TAKE_IN
    + _GIVE
    + """
local ids = call('ZRANGEBYSCORE', by == 'expires' and expires or leasable, '-inf', now, 'LIMIT', 0, limit)
local size = 0
for _, id in ipairs(ids) do
  local entry = call('HGET', rows, id)
  if not entry then
    call('ZREM', leasable, id)  -- an older producer settled it
  else
    local content = call('HGET', bodies, id)
    size = size + #content
    if size > tonumber(room) and #taken > 0 then break end
    give(id, entry, content)
  end
end
return given()
""",
)
"""args: hold, token, the most bytes of content, limit, 'leasable' or 'expires'.

For each its id, entry and content, behind their lengths; all in one string, since taking an answer apart piece by
piece is what costs the client most.
"""

SHARES: Final = Script(
    _KEYS,
    NOW
    + "local hold, token, room, first = unpack(args, 1, 4)"
    + _TAKE_IN
    + _GIVE
    + """
-- The longest free rows of a flow: id, entry, … . What an older producer moved or settled is dropped here.
local function oldest(flow, most)
  local head = lane(flow)
  local rest = '(' .. head .. struct.pack('>d', now) .. '\\255'
  local found, dropped
  repeat
    found, dropped = {}, false
    for _, there in ipairs(call('ZRANGEBYLEX', lanes, '[' .. head, rest, 'LIMIT', 0, most)) do
      local id = string.sub(there, #head + 9)
      local entry, at = call('HGET', rows, id), call('ZSCORE', leasable, id)
      if entry and at and place(flow, at, id) == there then
        pair(found, id, entry)
      else
        call('ZREM', lanes, there)
        if not entry then call('ZREM', leasable, id) end
        dropped = true
      end
    end
  until not dropped
  return found
end
local left, turn = {}, 1
for n = 5, #args, 2 do left[#left + 1] = oldest(args[n], args[n + 1]) end
while #left > 0 do
  local again = {}
  for _, flow in ipairs(left) do
    local id, entry = flow[turn], flow[turn + 1]
    local size = id and call('HSTRLEN', bodies, id)
    if id and (size <= tonumber(room) or (first == 'first' and #taken == 0)) then
      give(id, entry, call('HGET', bodies, id))
      room = room - size
      again[#again + 1] = flow
    end
  end
  left, turn = again, turn + 2
end
return given()
""",
)
"""args: hold, token, the most bytes of content, 'first' if one row may be larger; then for each flow what it is
called and how many. As `LEASE`, and the flows in turn (see `turns`)."""

FLOWS: Final = Script(
    ("rows", "free", "leasable", "lanes"),
    NOW
    + _TAKE_IN
    + """
local from, limit = unpack(args)
local answer = {}
for _ = 1, limit do
  local there = call('ZRANGEBYLEX', lanes, from, '+', 'LIMIT', 0, 1)[1]
  if not there then return {false, answer} end
  local stop = 2 + struct.unpack('>I2', there)
  if struct.unpack('>d', there, stop + 1) <= now then answer[#answer + 1] = string.sub(there, 3, stop) end
  from = '(' .. string.sub(there, 1, stop) .. '\\255'
end
return {from, answer}
""",
)
"""args: where to begin, and how many flows to look at. Where to go on, if there may be more; those that are due."""


class RedisLeases:
    """`origin` is who leases, apart from all others."""

    def __init__(self, link: Link, origin: str) -> None:
        self._link = link
        self._tokens = (f"{origin}-{n}" for n in itertools.count(1))

    async def take_in(self) -> None:
        """What an older version wrote."""
        while await self._link.run(TAKE_IN, []):
            pass

    async def flows(self) -> Sequence[Flow]:
        found: list[bytes] = []
        from_: bytes | None = b"-"
        while from_ is not None:
            from_, more = await self._link.run(FLOWS, [from_, _AT_ONCE])
            found += more
        return [codec.flow_from(each) for each in found]

    async def oldest(self, limit: int, hold: float, *, expired: bool) -> list[Lease]:
        """With `expired`, those that expired first."""
        token = next(self._tokens)
        by = "expires" if expired else "leasable"
        leases: list[Lease] = []
        room = LEASE_BYTES
        while len(leases) < limit and room > 0:
            asked = min(limit - len(leases), _AT_ONCE)
            found = await self._run(LEASE, [number(hold), token, room, asked, by], leases)
            rows = list(codec.rows_from(found or b""))
            leases += (Lease(row, token) for row in rows)
            room -= len(found or b"")
            if len(rows) < asked:
                break
        return leases

    async def of_flows(self, limit: int, hold: float, shares: Mapping[Flow, int]) -> list[Lease]:
        token = next(self._tokens)
        left = dict(shares)
        leases: list[Lease] = []
        room = LEASE_BYTES
        while room > 0 and (asked := quotas(left, min(limit - len(leases), _AT_ONCE))):
            args: list[str | bytes | int] = [number(hold), token, room, "" if leases else "first"]
            for flow, quota in asked.items():
                args += (codec.flow_name(flow), quota)
            found = await self._run(SHARES, args, leases)
            if found is None:
                break
            rows = list(codec.rows_from(found))
            leases += (Lease(row, token) for row in rows)
            left_over(left, asked, Counter(row.envelope.flow for row in rows))
            room -= len(found)
        return leases

    async def _run(self, script: Script, args: Sequence[str | bytes | int], leases: Sequence[Lease]) -> bytes | None:
        """None after a fault, if this call has leases: they are ours all the same, and the next call meets it again."""
        try:
            found: bytes = await self._link.run(script, args)
        except SpoolUnavailable:
            if leases:
                return None
            raise
        return found
