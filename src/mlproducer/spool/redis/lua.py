"""What the spool does to its keys: one Lua script for each call, so that each call is whole, also among many producers.

The keys, all under one hash tag (`{prefix}:…`), and so in one slot of a cluster:

    rows       hash  id → entry of a waiting row      leasable  zset  id by when it may be leased next
    bodies     hash  id → content, waiting or dead    lanes     zset  flow, that moment, id (see below)
    tokens     hash  id → token of its lease          due       zset  id by `due_at`, for lists
    dead       hash  id → entry of a dead letter      accepted  zset  id by when it was first due (see below)
    records    hash  id → record                      expires   zset  id by `expires_at`, of those that have one
    claims     hash  id → when it ends, and its token died      zset  id by -`died_at`: newest first, then by id
    audits     list  newest first                     kept      zset  id of a record by `keep_until`
    version    string                                 free      zset  what an older version wrote (see below)
    bytes      string, the content's size of all waiting rows

Entries, records and audits are opaque here but for what `codec` promises: an entry is a length, that many bytes that
stay with a task when it is replayed, and the rest that is told anew; content is four bytes longer than a task's size.

`accepted` has its name from its first use, which producers of an older version on the same server still have for it:
they add by the time of acceptance.

`leasable` is `due_at`, or the end of the lease while somebody holds the row; `expires` likewise is not before that end.

`lanes` has the same in order of flows. All scores are 0, so members are in order of their bytes: the length of the
flow in two, the flow, the moment as eight (a double, highest byte first, which orders what is not negative), the id. So
the rows of a flow lie side by side, the longest free first, and from one flow to the next it is one step. A flow is its
routing key; of a tenant, the key, a byte 0, which no name of a queue has, and the tenant.

**Beside an older version.** One that was opened before us goes on. It knows no `lanes`, and for both it has `free`. So
whatever it puts, leases or puts back is in `free`, and who asks for routes or leases takes that in first (`leases`):
to bring a spool up to this version is the same thing, with all rows in `free`. What it settles stays behind in
`leasable` and `lanes`, and is dropped when it is met. It leases what it wrote itself, until that is taken in. It cannot
be opened again: `version` is a newer one's.

A producer of the version before tenants takes a flow for a routing key. What it leases or puts back is in `lanes` under
the routing key alone, and is leased from there; what is left at the old place is dropped when it is met.

**Memory limits.** A server over its `maxmemory` (`noeviction`) refuses a script at its first write, if that is one
which may need memory; after any write a script is let through to its end. So what takes new tasks (put, claim) writes
its big value first, and is refused whole; what gets tasks out or settles them removes something first, and goes on
working: else a full server could never be emptied.

**Time** is the server's own: a script is told spans, never what time it is (docs/adr/0015). What is stored of a moment
for people, in an entry, is put there by the script that makes the moment.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha1
from typing import Final

BEFORE_TENANT: Final = b"\0"
"""Between the routing key and the tenant of a flow: no name of a queue has it, and an older producer can read it."""
CONTENT_HEAD: Final = 4
"""Bytes that content is longer than `Envelope.size`."""


@dataclass(frozen=True, slots=True)
class Script:
    """Lua text; `keys` are the names that it uses, passed in KEYS and known by these names in the text."""

    keys: tuple[str, ...]
    body: str
    text: str = field(init=False)
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        names = ", ".join(self.keys)
        places = ", ".join(f"KEYS[{n}]" for n in range(1, len(self.keys) + 1))
        text = f"local {names} = {places}\nlocal call, args = redis.call, ARGV\n{self.body}"
        object.__setattr__(self, "text", text)
        object.__setattr__(self, "sha", sha1(text.encode(), usedforsecurity=False).hexdigest())


KNOWN: Final = """
local function known(id)
  local entry = call('HGET', rows, id)
  if entry then return {'row', entry, call('HGET', bodies, id)} end
  entry = call('HGET', dead, id)
  if entry then return {'dead', entry, call('HGET', bodies, id)} end
  local record = call('HGET', records, id)
  return record and {'record', record, call('ZSCORE', kept, id), call('HGET', claims, id) or ''}
end
"""

NOW: Final = """
local time = call('TIME')
local now = time[1] + time[2] / 1000000
"""
"""Unix seconds. As an argument of a command a number keeps all of its digits; into a text it goes by `exact`."""

EXACT: Final = "local function exact(number) return string.format('%.17g', number) end\n"

PLACE: Final = """
-- Where a row is in `lanes`.
local function lane(flow) return struct.pack('>I2', #flow) .. flow end
local function place(flow, at, id) return lane(flow) .. struct.pack('>d', math.max(at, 0)) .. id end
"""

FLOW: Final = f"""
-- Of what `codec` keeps of a task, unpacked.
local function flow_of(task)
  local route, tenant = task[5], task[8]
  if not tenant or tenant == '' then return route end
  return route .. '\\{BEFORE_TENANT[0]}' .. tenant
end
"""
"""See `codec.flow_name`."""

STAMP: Final = """
-- The due_at of a row's entry, or of what is told of it: the first of an array, a double.
local function stamp(entry, from, due_at)
  return string.sub(entry, 1, from + 2) .. struct.pack('>d', due_at) .. string.sub(entry, from + 11)
end
local function stamped(entry, due_at) return stamp(entry, 4 + struct.unpack('>I4', entry), due_at) end
"""
"""See `codec.told_of`."""

PAIR: Final = "local function pair(list, a, b) list[#list + 1] = a list[#list + 1] = b end\n"
"""Rows are written together: for each command there is a price, beside that for each row."""

TELL: Final = """
-- A user without rights on channels may still put rows: others then find them by their poll.
local function tell(from) redis.pcall('PUBLISH', added, from) end
"""
