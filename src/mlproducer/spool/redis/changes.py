"""The scripts that change something, each one a transaction. `lua` says what the keys are, and what to write first."""

from __future__ import annotations

from typing import Final

from mlproducer.spool.redis.lua import EXACT, FLOW, KNOWN, NOW, PAIR, PLACE, STAMP, TELL, Script

ADOPT: Final = Script(
    ("version",),
    """
local found = call('GET', version)
if found and tonumber(found) >= tonumber(args[1]) then return found end
call('DEL', version)  -- see "Memory limits" in `lua`
call('SET', version, args[1])
return args[1]
""",
)
"""args: our version. The version of what is there, which is ours if nothing or an older one was."""

PUT: Final = Script(
    (
        *("rows", "bodies", "leasable", "lanes", "due", "accepted", "expires"),
        *("dead", "records", "claims", "kept", "bytes", "added"),
    ),
    TELL
    + PAIR
    + NOW
    + STAMP
    + PLACE
    + """
local answer, new, size = {}, {}, 0
local content, entry, at, places, expires_at, claimed = {}, {}, {}, {}, {}, {}
for n = 2, #args, 7 do
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
    pair(places, 0, place(args[n + 6], due_at, id))
    if args[n + 4] ~= '' then pair(expires_at, args[n + 4], id) end
    if record then claimed[#claimed + 1] = id end
    size = size + #args[n + 2] - 4
  end
end
if #entry > 0 then
  call('HSET', bodies, unpack(content))
  call('HSET', rows, unpack(entry))
  call('ZADD', leasable, unpack(at))
  call('ZADD', lanes, unpack(places))
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
"""args: who puts; then for each row: id, entry, content, delay, expires_at or '', eta or '', flow. 1 for each
stored."""

CLAIM: Final = Script(
    ("rows", "bodies", "dead", "records", "claims", "kept"),
    KNOWN
    + NOW
    + EXACT
    + """
local answer = {}
for n = 1, #args, 4 do
  local id, hold, record, token = unpack(args, n, n + 3)
  local found = known(id)
  if found and found[1] == 'record' then
    local ends = string.match(call('HGET', claims, id) or '', '^%S+')
    if ends and tonumber(ends) <= now then found = false end
  end
  if not found then
    local ends = now + hold
    call('HSET', records, id, record)
    call('HSET', claims, id, exact(ends) .. ' ' .. token)
    call('ZADD', kept, ends, id)
  end
  answer[#answer + 1] = found or false
end
return answer
""",
)
"""args for each: id, hold, record, token. For each what is there, or nil: it is the caller's."""

CONFIRM: Final = Script(
    ("rows", "dead", "records", "claims", "kept"),
    NOW
    + """
for n = 1, #args, 3 do
  local id, record, keep = unpack(args, n, n + 2)
  if call('HEXISTS', rows, id) == 0 and call('HEXISTS', dead, id) == 0
    and (call('HEXISTS', records, id) == 0 or call('HEXISTS', claims, id) == 1) then
    call('HDEL', claims, id)
    call('HSET', records, id, record)
    call('ZADD', kept, now + keep, id)
  end
end
return #args / 3
""",
)
"""args for each: id, record, keep."""

RELEASE: Final = Script(
    ("records", "claims", "kept"),
    """
for n = 1, #args, 2 do
  local id, token = args[n], args[n + 1]
  if string.match(call('HGET', claims, id) or '', '^%S+ (.*)$') == token then
    call('HDEL', claims, id)
    call('HDEL', records, id)
    call('ZREM', kept, id)
  end
end
return #args / 2
""",
)
"""args for each: id, token."""

SETTLE: Final = Script(
    (
        *("rows", "bodies", "tokens", "leasable", "lanes", "due", "accepted", "expires"),
        *("dead", "died", "records", "kept", "bytes"),
    ),
    PAIR
    + NOW
    + STAMP
    + PLACE
    + """
local function accepted_at(id)
  local entry = call('HGET', rows, id)
  return cmsgpack.unpack(string.sub(entry, 5, 4 + struct.unpack('>I4', entry)))[2]
end
local answer, held, at, places, gone, done, size = {}, {}, {}, {}, {}, {}, 0
for n = 1, #args, 8 do
  local verdict, id, token = unpack(args, n, n + 2)
  local there = not at[id] and call('HEXISTS', rows, id) == 1  -- a lease settles once
  local ours = there and (call('HGET', tokens, id) or '') == token
  if ours and token == '' then ours = accepted_at(id) == tonumber(args[n + 7]) end
  answer[#answer + 1] = ours and 1 or 0
  if ours then
    held[#held + 1], at[id] = id, n
    places[#places + 1] = place(args[n + 6], call('ZSCORE', leasable, id) or 0, id)
    if verdict == 'done' then done[#done + 1] = id end
    if verdict ~= 'again' then
      gone[#gone + 1] = id
      size = size + call('HSTRLEN', bodies, id) - 4
    end
  end
end
if #held == 0 then return answer end
call('HDEL', tokens, unpack(held))
call('ZREM', lanes, unpack(places))
if #gone > 0 then
  call('HDEL', rows, unpack(gone))
  for _, set in ipairs({leasable, due, accepted, expires}) do call('ZREM', set, unpack(gone)) end
  call('DECRBY', bytes, size)
end
if #done > 0 then call('HDEL', bodies, unpack(done)) end
local record, keep = {}, {}
for _, id in ipairs(held) do
  local verdict, _, _, value, by, expires_at, flow = unpack(args, at[id], at[id] + 6)
  if verdict == 'done' then
    pair(record, id, value)
    pair(keep, now + by, id)
  elseif verdict == 'bury' then
    call('HSET', dead, id, value)
    call('ZADD', died, by, id)
  else
    call('HSET', rows, id, stamped(value, now + by))
    call('ZADD', leasable, now + by, id)
    call('ZADD', lanes, 0, place(flow, now + by, id))
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
"""args for each: 'done', 'again' or 'bury'; id; token; record or entry; keep, delay or -died_at; expires_at or
''; flow; when it was accepted, which is asked where there is no token. 1 for each whose lease held."""

_TAKE: Final = """
local function found(first)
  local ids = {}
  for n = first, #args do
    if call('HEXISTS', dead, args[n]) == 1 then ids[#ids + 1] = args[n] end
  end
  return ids
end
local function keep(ids) call('LPUSH', audits, struct.pack('>I4', #args[1]) .. args[1] .. cmsgpack.pack(ids)) end
"""

REPLAY: Final = Script(
    ("rows", "bodies", "leasable", "lanes", "due", "accepted", "expires", "dead", "died", "bytes", "audits", "added"),
    TELL
    + _TAKE
    + NOW
    + STAMP
    + PLACE
    + FLOW
    + """
local _, from, told = unpack(args, 1, 3)
local ids, size = found(4), 0
if #ids == 0 then return 0 end
told = stamp(told, 0, now)
for _, id in ipairs(ids) do
  local entry = call('HGET', dead, id)
  local kept = struct.unpack('>I4', entry)
  local task = cmsgpack.unpack(string.sub(entry, 5, 4 + kept))
  call('ZREM', died, id)
  call('HDEL', dead, id)
  call('HSET', rows, id, string.sub(entry, 1, 4 + kept) .. told)
  call('ZADD', leasable, now, id)
  call('ZADD', lanes, 0, place(flow_of(task), now, id))
  call('ZADD', due, now, id)
  call('ZADD', accepted, now, id)
  if task[3] then call('ZADD', expires, task[3], id) end
  size = size + call('HSTRLEN', bodies, id) - 4
end
call('INCRBY', bytes, size)
keep(ids)
tell(from)
return #ids
""",
)
"""args: the audit without ids; who replays; what is told of each row; ids. How many there were."""

PURGE: Final = Script(
    ("bodies", "dead", "died", "audits"),
    _TAKE
    + """
local ids = found(2)
if #ids == 0 then return 0 end
for _, id in ipairs(ids) do
  call('ZREM', died, id)
  call('HDEL', dead, id)
  call('HDEL', bodies, id)
end
keep(ids)
return #ids
""",
)
"""args: the audit without ids; ids. How many there were."""

FORGET: Final = Script(
    ("records", "claims", "kept"),
    NOW
    + """
local ids = call('ZRANGEBYSCORE', kept, '-inf', now, 'LIMIT', 0, args[1])
for _, id in ipairs(ids) do
  call('ZREM', kept, id)
  call('HDEL', records, id)
  call('HDEL', claims, id)
end
return #ids
""",
)
"""args: limit. How many there were."""
