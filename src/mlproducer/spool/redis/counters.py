"""Counters on a Redis server: a hash for each hour, and the ids of what was counted.

    counts:<hour>  hash  kind, type and label → sum      hours  zset  hours that have one, by themselves
    counted        zset  id by `keep_until`

All under the spool's hash tag, so that a tally is added by one script, whole, whichever hours it is of.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from mlproducer.core.counting import merged, over_all_hours
from mlproducer.rows import CountKey, Counts, Tally
from mlproducer.spool.redis.codec import number
from mlproducer.spool.redis.lua import NOW, Script

if TYPE_CHECKING:
    from mlproducer.spool.redis.link import Link

_BETWEEN: Final = "\x1f"
"""Unit separator: between the parts of a field's name."""
_AT_ONCE: Final = 500
"""Tallies, or ids to forget, in one script."""
_HOURS: Final = 24
"""Read in one script."""

_COUNT: Final = Script(
    ("hours", "counted"),
    NOW
    + """
local answer, at = {}, 1
while at <= #args do
  local id, keep, many = args[at], args[at + 1], tonumber(args[at + 2])
  local new = call('ZADD', counted, 'NX', now + keep, id)
  answer[#answer + 1] = new
  for n = at + 3, at + 2 + 4 * many, 4 do
    if new == 1 then
      call('HINCRBY', KEYS[2 + args[n]], args[n + 2], args[n + 3])
      call('ZADD', hours, args[n + 1], args[n + 1])
    end
  end
  at = at + 3 + 4 * many
end
return answer
""",
)
"""args for each: id, keep, how many sums; for each of those: which of the hashes behind the first two keys, its
hour, field, number. 1 for each that is new."""

_WHICH: Final = Script(("hours",), "return call('ZRANGEBYSCORE', hours, args[1], args[2])")

_READ: Final = Script(
    ("hours",),
    """
local answer = {}
for n = 2, #KEYS do answer[n - 1] = call('HGETALL', KEYS[n]) end
return answer
""",
)

_FORGET_HOURS: Final = Script(
    ("hours",),
    """
for n = 2, #KEYS do
  call('DEL', KEYS[n])
  call('ZREM', hours, args[n - 1])
end
return #args
""",
)

_FORGET_IDS: Final = Script(
    ("counted",),
    NOW
    + """
local ids = call('ZRANGEBYSCORE', counted, '-inf', now, 'LIMIT', 0, args[1])
if #ids > 0 then call('ZREM', counted, unpack(ids)) end
return #ids
""",
)


class RedisCounters:
    """`ports.Counters` through the spool's own link."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def count(self, tallies: Sequence[Tally]) -> Sequence[bool]:
        """One script, and so one transaction, for each 500. One whose answer was lost may have been run: said again,
        it answers False.
        """
        answers: list[bool] = []
        for at in range(0, len(tallies), _AT_ONCE):
            part = tallies[at : at + _AT_ONCE]
            hours = sorted({key.hour for tally in part for key in tally.counts})
            places = {hour: place for place, hour in enumerate(hours, 1)}
            args: list[str | int] = []
            for tally in part:
                args += (tally.id, number(tally.keep), len(tally.counts))
                for key, more in tally.counts.items():
                    args += (places[key.hour], key.hour, _field(key), more)
            answers += map(bool, await self._link.run(_COUNT, args, _hashes(hours)))
        return answers

    async def counts(self, *, since: int, until: int, hourly: bool) -> Counts:
        parts: list[Counts] = []
        hours = await self._hours(since, until)
        for at in range(0, len(hours), _HOURS):
            part = hours[at : at + _HOURS]
            answers = await self._link.run(_READ, [], _hashes(part))
            for hour, flat in zip(part, answers, strict=True):
                found = {_key(hour, flat[n]): int(flat[n + 1]) for n in range(0, len(flat), 2)}
                parts.append(found if hourly else over_all_hours(found, since))
        return merged(parts)

    async def forget_counts(self, *, before: int, limit: int) -> int:
        over = await self._hours(0, before)
        if over:
            await self._link.run(_FORGET_HOURS, over, _hashes(over))
        gone = 0
        while gone < limit:
            asked = min(limit - gone, _AT_ONCE)
            found = int(await self._link.run(_FORGET_IDS, [asked]))
            gone += found
            if found < asked:
                break
        return gone

    async def _hours(self, since: int, until: int) -> list[int]:
        return [int(hour) for hour in await self._link.run(_WHICH, [since, f"({until}"])]


def _hashes(hours: Sequence[int]) -> list[str]:
    return [f"counts:{hour}" for hour in hours]


def _field(key: CountKey) -> str:
    return _BETWEEN.join((key.kind, key.task_type, key.label))


def _key(hour: int, field: bytes) -> CountKey:
    kind, task_type, label = field.decode().split(_BETWEEN)
    return CountKey(hour, task_type, kind, label)
