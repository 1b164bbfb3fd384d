"""The promise under `kill -9`: what was answered is there when the file is opened again, and nothing is half there."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from mlproducer.rows import DeadFilter, Record
from mlproducer.spool.sql import SqliteSpool
from mlproducer.testing.spool_contract import row

ROUNDS = 10

# One process that has everything imported, and forks a child a round: a round then takes moments, and each child is
# killed in the midst of its work. A line is one `write` to the pipe, so none is torn.
PROGRAM = """
import asyncio, os, random, signal, sys, time
from pathlib import Path
from mlproducer.rows import Again, Bury
from mlproducer.spool.sql import SqliteSpool
from mlproducer.testing.spool_contract import DONE, NOW, row

def say(*words):
    os.write(1, (" ".join(words) + "\\n").encode())

async def put(spool, name):
    for n in range(1_000_000):
        if await spool.put(row(f"{name}-{n}", size=200)):
            say("put", f"{name}-{n}")

async def drain(spool, worked):
    said = set()
    verdicts = {"done": DONE, "again": Again(0, 1, "nacked", "", False), "dead": Bury(NOW, 3, "nacked", None, "")}
    while True:
        leases = await spool.lease(20, hold=3600)
        # A third of them stay leased: the next owner must find those too.
        words = [(each, random.choice(list(verdicts))) for each in leases if random.random() < 0.7]
        for lease, word in words:
            say("trying", word, lease.row.envelope.task_id)
        held = await spool.settle([(lease, verdicts[word]) for lease, word in words])
        for (lease, word), ours in zip(words, held):
            if ours:
                say(word, lease.row.envelope.task_id)
                said.add(word)
        if said == set(verdicts):
            os.write(worked, b".")

async def work(path, number, worked):
    spool = SqliteSpool(Path(path))
    await spool.open()
    await asyncio.gather(*(put(spool, f"{number}-{caller}") for caller in range(20)), drain(spool, worked))

for number in range(int(sys.argv[2])):
    hearing, worked = os.pipe()
    child = os.fork()
    if child == 0:
        asyncio.run(work(sys.argv[1], number, worked))
    os.close(worked)
    if number % 2:
        os.read(hearing, 1)  # else it may die in the midst of opening, and on a busy machine always would
    time.sleep(random.uniform(0.05, 0.25))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(hearing)
"""


async def test_what_was_answered_is_there_after_kill_9_at_any_moment(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    ran = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", PROGRAM, str(path), str(ROUNDS)], stdout=subprocess.PIPE, check=True
    )
    told: defaultdict[str, set[str]] = defaultdict(set)
    for line in ran.stdout.decode().splitlines():
        word, _, task_id = line.rpartition(" ")
        told[word].add(task_id)
    assert all(told[word] for word in ("put", "done", "again", "dead")), "the rounds came to their work"

    spool = SqliteSpool(path)
    await spool.open()
    waiting = {found.task_id: found for found in await spool.waiting(limit=10_000_000)}
    dead = {letter.task_id for letter in await spool.dead(DeadFilter(), limit=10_000_000)}
    there = waiting.keys() | dead
    # A process may be killed between the commit of a verdict and its word of it: such a row may be here or gone.
    assert told["put"] - told["trying done"] <= there
    assert told["dead"] <= dead, "a dead letter stays until a person removes it"
    assert not told["done"] & there, "what was settled does not come back"
    assert not waiting.keys() & dead, "nothing is in two places"
    size = await spool.measure()
    assert (size.tasks, size.dead) == (len(waiting), len(dead))
    assert size.bytes == sum(found.size for found in waiting.values())
    leases = await spool.lease(10_000_000, hold=60)
    assert {lease.row.envelope.task_id for lease in leases} == waiting.keys(), "leases of dead owners have ended"
    assert all(lease.row.envelope == row(lease.row.envelope.task_id, size=200).envelope for lease in leases), (
        "rows are whole"
    )
    for task_id in list(told["done"])[:50]:
        assert isinstance(await spool.find(task_id), Record), "a task that is done is remembered"
    await spool.close()
