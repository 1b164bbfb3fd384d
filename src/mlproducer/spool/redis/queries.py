"""The scripts that only look. `lua` says what the keys are."""

from __future__ import annotations

from typing import Final

from mlproducer.spool.redis.lua import EXACT, KNOWN, NOW, Script

VERSION: Final = Script(("version",), "return call('GET', version)")
"""That of the spool; nil if there is none."""

FIND: Final = Script(
    ("rows", "bodies", "dead", "records", "claims", "kept"),
    KNOWN
    + """
local answer = {}
for n, id in ipairs(args) do answer[n] = known(id) or false end
return answer
""",
)
"""args: ids. For each what is there, or nil."""

MEASURE: Final = Script(
    ("rows", "leasable", "free", "accepted", "dead", "bytes"),
    NOW
    + EXACT
    + """
local function first(set) return call('ZRANGE', set, 0, 0, 'WITHSCORES')[2] or false end
local next, older = first(leasable), first(free)
if older and (not next or tonumber(older) < tonumber(next)) then next = older end
return {call('HLEN', rows), call('GET', bytes) or 0, first(accepted), call('HLEN', dead), next, exact(now)}
""",
)

_PAGE: Final = """
local kind, score, rest, last, limit, want = unpack(args)
local at
if kind == 'first' then
  at = call('ZCOUNT', order, '-inf', score) + tonumber(rest)
else
  local there = call('ZSCORE', order, rest)
  if there and tonumber(there) == tonumber(score) then
    at = call('ZRANK', order, rest) + 1
  else
    at = call('ZCOUNT', order, '-inf', '(' .. score)
  end
end
local wants = want ~= 'all' and cmsgpack.unpack(args[7])
local function fits(entry)
  local kept = struct.unpack('>I4', entry)
  if wants.type and cmsgpack.unpack(string.sub(entry, 5, 4 + kept))[1] ~= wants.type then return false end
  local told = cmsgpack.unpack(string.sub(entry, 5 + kept))
  return not (wants.reason and told[3] ~= wants.reason)
    and not (wants.text and not string.find(string.lower(told[4]), wants.text, 1, true))
end
local found = call('ZRANGE', order, at, at + tonumber(limit) - 1, 'WITHSCORES')
local answer, count, id = {}, 0, false
local more = #found == 2 * tonumber(limit)
for n = 1, #found, 2 do
  if tonumber(found[n + 1]) > tonumber(last) then
    more = false
    break
  end
  id, score = found[n], found[n + 1]
  local entry = call('HGET', entries, id)
  if not wants or fits(entry) then
    count = count + 1
    if want ~= 'count' then answer[#answer + 1] = {id, entry} end
  end
end
return {more and score, more and id, count, answer}
"""
WAITING: Final = Script(("rows", "due"), "local entries, order = rows, due" + _PAGE)
DEAD: Final = Script(("dead", "died"), "local entries, order = dead, died" + _PAGE)
"""Part of a list, by score, then id; the work of one call is bounded by how many it may look at.

args: 'first', the score up to which to skip, and how many more to skip; or 'after', and the score and id where the
part before ended. Then the last score to show; how many to look at; and 'all', or 'some' or 'count' with a packed
{type, reason, text in small letters} to look for.

Where the part ended, if there may be more (score, id); how many there were; for each {id, entry}, if not 'count'.
"""

COUNT_DEAD: Final = Script(("died",), "return call('ZCOUNT', died, args[1], args[2])")

AUDITS: Final = Script(("audits",), "return call('LRANGE', audits, args[1], args[2])")
