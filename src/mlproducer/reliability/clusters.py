"""Scenarios on a cluster of three nodes, with quorum queues and the default settings: a partition, a node that hangs,
nodes that are restarted in turn. Nothing of it is a task's fault, so no task may become a dead letter.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from mlproducer.events import ConnectionFailed
from mlproducer.reliability.latency import p99
from mlproducer.reliability.stage import Stage, Trial, publishes_again, until, whole
from mlproducer.testing.cluster import PrivateCluster
from mlproducer.testing.rabbitmq import PrivateRabbit

PATIENCE: Final = 240.0
"""Seconds for what must come back: a node's start and a queue's election take long on a machine that does much else."""
_ELSEWHERE: Final = "summarize_llm"
"""A type of task whose queue another node leads than the one that is broken."""
_CONNECTS: Final = 10.0
"""Seconds that the callers of such a queue wait at most for the next link, and for the first confirm on it."""
_SETTLED: Final = 2.0
"""Seconds of load with nothing broken, to compare with."""


@dataclass(frozen=True, slots=True)
class Field:
    """A scenario's stage and its cluster."""

    stage: Stage
    cluster: PrivateCluster

    def url(self, *nodes: PrivateRabbit) -> str:
        """The scenario's virtual host, by these nodes in turn."""
        vhost = urlsplit(self.stage.url).path[1:]
        return ",".join(node.url_of(vhost) for node in nodes)

    @asynccontextmanager
    async def trial(self, *nodes: PrivateRabbit) -> AsyncIterator[Trial]:
        settings = self.stage.settings(rabbitmq_url=self.url(*nodes))
        async with self.stage.trial(settings, connected=False) as trial:
            # A node that starts anew after a partition refuses the first connects.
            await until(trial.producer.is_healthy, "the producer to connect", PATIENCE)
            yield trial


async def partition(field: Field) -> None:
    """The node that leads the queue is cut off and comes back, first from a producer of the majority, then with one."""
    stage, cluster = field.stage, field.cluster
    book, scale = stage.book, stage.scale
    first, second, alone = cluster.nodes
    async with field.trial(alone) as trial:
        await trial.burst(1)  # which makes the queue, and the node its leader
    figures = Figures()
    for side, nodes in (("majority", (first, second)), ("minority", (alone,))):
        async with field.trial(*nodes) as trial:
            book.step(f"{scale.callers} callers publish at the {side}'s side")
            async with trial.load(scale):
                await asyncio.sleep(_SETTLED)
                book.step(f"one node is cut off for {scale.cut:g} s; the callers are at the {side}'s side")
                cut = time.monotonic()
                await whole(lambda: cluster.cut_off(alone))
                await asyncio.sleep(scale.cut)
                back = time.monotonic()
                await whole(lambda: cluster.join(alone))
                book.step("the node is back, the callers go on")
                again = await publishes_again(trial, cut if side == "majority" else back, PATIENCE)
                book.time_to_recover = again - back if side == "minority" else book.time_to_recover
                figures.note(trial, cut, again)
                await asyncio.sleep(_SETTLED)
            book.step("the spool drains")
            await stage.drained(trial, PATIENCE)
            await trial.is_whole()
            await whole(lambda: cluster.wait(PATIENCE))  # some of its nodes start anew when both sides meet
            said = f"{again - cut:.1f} s after the cut" if side == "majority" else f"{again - back:.1f} s after its end"
            book.saw(
                f"at the {side}'s side a task was confirmed again {said}",
                ok=side == "majority" or trial.spooled > 0,
                instead="the cut was not felt: tasks were confirmed without a majority",
            )
    figures.write(stage)


async def hung_node(field: Field) -> None:
    """The node that the producer is connected to, and that leads one of its two queues, stops (SIGSTOP), and goes on
    later. For its own queue nobody can do anything until the cluster gives it up (`net_ticktime`, 60 s).
    """
    stage, cluster = field.stage, field.cluster
    book, scale = stage.book, stage.scale
    *others, hung = cluster.nodes
    figures = Figures()
    async with field.trial(*others) as trial:
        await trial.burst(1, _ELSEWHERE)  # which makes the queue, and the node its leader
    async with field.trial(hung, *others) as trial:
        book.step(f"{scale.callers} callers publish to each of two queues")
        await trial.burst(1)
        async with trial.load(scale), trial.load(scale, _ELSEWHERE):
            await asyncio.sleep(_SETTLED)
            book.step("the node that they are connected to hangs, and leads one of the queues")
            paused = time.monotonic()
            hung.pause()
            found = await trial.heard(ConnectionFailed, paused, "the hung node to be noticed", seconds=PATIENCE)
            book.time_to_detect = found - paused
            elsewhere = await publishes_again(trial, found, PATIENCE, _ELSEWHERE)
            book.step("another node confirms what is of its own queue")
            again = await publishes_again(trial, found, PATIENCE, "embed_vectors")
            book.step("and what is of the other queue; the hung node goes on")
            await asyncio.sleep(_SETTLED)
            hung.resume()
            figures.note(trial, paused, again)
            await asyncio.sleep(_SETTLED)
        book.step("the spool drains")
        book.time_to_recover = again - paused
        await stage.drained(trial, PATIENCE)
        await trial.is_whole()
        moved = trial.producer.status().node
    book.saw(
        f"a task was confirmed again {elsewhere - paused:.1f} s after the node hung, by another node; one of the queue "
        f"that the hung node led after {again - paused:.1f} s",
        ok=moved != f"127.0.0.1:{hung.port}",
        instead="the producer stayed with the node that hung",
    )
    book.saw(
        f"the queue of another node was held up for no longer than {_CONNECTS:g} s after the hung one was noticed",
        ok=elsewhere - found <= _CONNECTS,
        instead=f"the queue of another node waited {elsewhere - found:.1f} s after the hung one was noticed",
    )
    figures.write(stage)


async def rolling_restart(field: Field) -> None:
    """Each node is stopped politely and started again, one after the other, as for an upgrade."""
    stage, cluster = field.stage, field.cluster
    book, scale = stage.book, stage.scale
    figures = Figures()
    async with field.trial(*cluster.nodes) as trial:
        book.step(f"{scale.callers} callers publish")
        await trial.burst(1)
        async with trial.load(scale):
            await asyncio.sleep(_SETTLED)
            began = time.monotonic()
            longest = 0.0
            for number, node in enumerate(cluster.nodes, 1):
                book.step(f"node {number} of {len(cluster.nodes)} is restarted")
                restarted = time.monotonic()
                await whole(node.restart)
                longest = max(longest, await publishes_again(trial, restarted, PATIENCE) - restarted)
                await whole(lambda: cluster.wait(PATIENCE))
            back = time.monotonic()
            figures.note(trial, began, back)
            await asyncio.sleep(_SETTLED)
        book.step("the spool drains")
        book.time_to_recover = await stage.drained(trial, PATIENCE) - back
        await trial.is_whole()
    book.saw(f"each node was restarted; the longest time without a confirm was {longest:.1f} s", ok=True)
    figures.write(stage)


class Figures:
    """Of a scenario's trials: what was spooled, and how long calls took before a fault and after it."""

    def __init__(self) -> None:
        self._marks: list[tuple[Trial, float, float]] = []

    def note(self, trial: Trial, fault: float, over: float) -> None:
        self._marks.append((trial, fault, over))

    def write(self, stage: Stage) -> None:
        book, dead = stage.book, len(stage.judge.dead())
        before = p99(call for trial, fault, _ in self._marks for call in trial.calls(0.0, fault) if call.confirmed)
        after = p99(call for trial, _, over in self._marks for call in trial.calls(over, math.inf) if call.confirmed)
        spooled = sum(trial.spooled for trial, *_ in self._marks)
        ratio = round(after / before, 2) if before else None
        book.extra = {"spooled": spooled, "p99_before": before, "p99_after": after, "p99_ratio": ratio}
        book.saw(f"{spooled:,} tasks were spooled", ok=True)
        book.saw("no task became a dead letter", ok=not dead, instead=f"{dead:,} tasks became dead letters")
        book.saw(f"99 of 100 calls took at most {before * 1000:.0f} ms before, {after * 1000:.0f} ms after it", ok=True)
