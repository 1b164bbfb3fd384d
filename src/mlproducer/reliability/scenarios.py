"""The list of scenarios, and how they are run: one after the other, each with a judge of its own."""

from __future__ import annotations

import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Final, assert_never
from uuid import uuid4

from mlproducer.errors import MLProducerError
from mlproducer.reliability import clusters, far, faults, gone, lateness, messages, silence, stuck
from mlproducer.reliability.book import Book, Show
from mlproducer.reliability.crash import crash_recovery
from mlproducer.reliability.herd import thundering_herd
from mlproducer.reliability.judge import PATIENCE, Verdict
from mlproducer.reliability.report import Changed, Report
from mlproducer.reliability.stage import Scale, Stage, whole
from mlproducer.testing.cluster import PrivateCluster
from mlproducer.testing.rabbitmq import PrivateRabbit


@dataclass(frozen=True, slots=True)
class OnBroker:
    """Breaks a real broker, or a real producer."""

    name: str
    what: str
    """One line."""
    steps: Callable[[Scale], int]
    act: Callable[[Stage], Awaitable[None]]
    settings: Mapping[str, float] = field(default_factory=dict)
    """In place of the defaults, where a wait serves nobody."""

    needs_broker: ClassVar[bool] = True

    @property
    def changed(self) -> tuple[Changed, ...]:
        return tuple(Changed.of(name, value) for name, value in self.settings.items())


@dataclass(frozen=True, slots=True)
class InThought:
    """Needs no broker: virtual time."""

    name: str
    what: str
    act: Callable[[Book, Scale], None]

    needs_broker: ClassVar[bool] = False

    @property
    def changed(self) -> tuple[Changed, ...]:
        return ()


@dataclass(frozen=True, slots=True)
class OnCluster:
    """Breaks a cluster of three nodes, with the default settings. They take minutes: `all` is without them."""

    name: str
    what: str
    steps: int
    act: Callable[[clusters.Field], Awaitable[None]]

    needs_broker: ClassVar[bool] = True
    changed: ClassVar[tuple[Changed, ...]] = ()


Scenario = OnBroker | OnCluster | InThought

SCENARIOS: Final[tuple[Scenario, ...]] = (
    OnBroker(
        "connection-resilience",
        "The broker is killed with -9 under load, and started again while the load goes on.",
        lambda _: 4,
        faults.connection_resilience,
        faults.CONNECTION_SETTINGS,
    ),
    OnBroker(
        "message-retry",
        "Tasks for a missing queue and for a full one spend their attempts, die, and come back by replay.",
        lambda _: 4,
        messages.message_retry,
        messages.SETTINGS,
    ),
    OnBroker(
        "circuit-breaker",
        "The broker falls silent: the breaker opens at 10 failures, spools at once, half-opens, closes.",
        lambda _: 5,
        faults.circuit_breaker,
        faults.BREAKER_SETTINGS,
    ),
    OnBroker(
        "publisher-confirms",
        "1,000 calls at once; then confirms that come after the 5 s timeout, and settle their own tasks.",
        lambda _: 3,
        faults.publisher_confirms,
        faults.CONFIRM_SETTINGS,
    ),
    OnBroker(
        "late-confirms",
        "The broker answers 1.4, 2 and 3 times later than its confirms are waited for: no loop of copies.",
        lambda _: len(lateness.TIMES) + 1,
        lateness.late_confirms,
        lateness.SETTINGS,
    ),
    OnBroker(
        "health-check",
        "A connection dies, TCP does not notice, nobody publishes: the health check finds it.",
        lambda _: 3,
        silence.health_check,
        silence.SETTINGS,
    ),
    OnBroker(
        "slow-network",
        "A round trip of 120 ms and 13 queues: the connect is not longer than it may be, nor is the next one.",
        lambda _: 3,
        far.slow_network,
    ),
    OnBroker(
        "crash-recovery",
        "The producer is killed with -9 under load, again and again; a fresh one finds what it left.",
        lambda scale: scale.kills + 1,
        crash_recovery,
    ),
    OnBroker(
        "lost-permission",
        "The user loses the right to write for some seconds: his tasks wait, one probe at a time asks, none dies.",
        lambda _: 4,
        gone.lost_permission,
        gone.SETTINGS,
    ),
    OnBroker(
        "deleted-queue",
        "A queue is deleted under load: it is made again, or, where others make it, its tasks wait; none dies.",
        lambda _: 4,
        gone.deleted_queue,
        gone.SETTINGS,
    ),
    OnBroker(
        "stuck-route",
        "A queue is full, unbound and silent, 10 s each: its tasks wait and spend nothing, those beside it go on.",
        lambda _: len(stuck.WAYS) + 2,
        stuck.stuck_route,
        stuck.SETTINGS,
    ),
    InThought(
        "thundering-herd",
        "1,000 producers lose the broker at once: how many come back in the same 100 ms? (Virtual time.)",
        thundering_herd,
    ),
)
CLUSTERS: Final[tuple[Scenario, ...]] = (
    OnCluster(
        "cluster-partition",
        "The node that leads the queue is cut off for 20 s: once from the producer's side, once with it.",
        8,
        clusters.partition,
    ),
    OnCluster(
        "cluster-hung-node",
        "The node that the producer is connected to, and that leads one of its two queues, stops answering (SIGSTOP).",
        5,
        clusters.hung_node,
    ),
    OnCluster(
        "cluster-rolling-restart",
        "Each of the three nodes is restarted in turn, under load.",
        5,
        clusters.rolling_restart,
    ),
)
GROUPS: Final[Mapping[str, tuple[Scenario, ...]]] = {"all": SCENARIOS, "cluster": CLUSTERS}
NAMES: Final = tuple(each.name for each in (*SCENARIOS, *CLUSTERS))


def chosen(name: str) -> Sequence[Scenario]:
    """The scenario of this name, or those of a group; empty if there is none."""
    return GROUPS.get(name) or [each for each in (*SCENARIOS, *CLUSTERS) if each.name == name]


@asynccontextmanager
async def workshop(scenarios: Sequence[Scenario]) -> AsyncIterator[Workshop]:
    """A temporary folder, and in it a private RabbitMQ if some of them need one. All of it is gone afterwards.

    Raises: PrivateRabbitError.
    """
    with tempfile.TemporaryDirectory(prefix="mlproducer-reliability-") as name:
        folder = Path(name)
        rabbit, cluster = PrivateRabbit(folder / "rabbitmq"), PrivateCluster(folder / "cluster")
        try:
            rooms = sum(isinstance(each, OnBroker) for each in scenarios)
            if rooms:
                await whole(rabbit.start)
            if any(isinstance(each, OnCluster) for each in scenarios):
                await whole(cluster.start)
            yield Workshop(rabbit, folder, await whole(lambda: make_rooms(rabbit, rooms)), cluster=cluster)
        finally:
            await whole(cluster.stop)
            await whole(rabbit.stop)


def make_rooms(rabbit: PrivateRabbit, count: int) -> list[str]:
    """URLs of fresh virtual hosts, one a scenario, so that its queues hold nothing of another."""
    return rabbit.add_vhosts(*(f"reliability-{uuid4().hex[:8]}" for _ in range(count))) if count else []


@dataclass(frozen=True, slots=True)
class Workshop:
    rabbit: PrivateRabbit
    folder: Path
    rooms: list[str]
    """Each scenario takes one away."""
    scale: Scale = field(default_factory=Scale)
    patience: float = PATIENCE
    """Seconds that the judge looks for what is missing."""
    cluster: PrivateCluster | None = None
    """Runs if a scenario needs one."""

    async def run(self, scenario: Scenario, show: Show) -> Report:
        """What it came to. A scenario that does not see what it is about is a report too, and no error."""
        began = time.monotonic()
        match scenario:
            case InThought():
                book = Book(1, show)
                scenario.act(book, self.scale)
                return _report(scenario, book, began, None)
            case OnBroker():
                book = Book(scenario.steps(self.scale), show)
                stage = Stage(self.rabbit, self.rooms.pop(0), self.folder / scenario.name, self.scale, book)
                try:
                    await scenario.act(stage)
                except MLProducerError as exc:
                    book.saw("", ok=False, instead=str(exc))
                await stage.mend()
                return _report(scenario, book, began, await whole(lambda: stage.judge.verdict(self.patience)))
            case OnCluster():
                return await self._on_cluster(scenario, Book(scenario.steps, show), began)
            case _:
                assert_never(scenario)

    async def _on_cluster(self, scenario: OnCluster, book: Book, began: float) -> Report:
        cluster = self.cluster
        if cluster is None:
            raise ValueError(f"{scenario.name} needs a cluster")
        await whole(cluster.mend)
        (url,) = await whole(lambda: make_rooms(cluster.nodes[0], 1))
        stage = Stage(cluster.nodes[0], url, self.folder / scenario.name, self.scale, book)
        try:
            await scenario.act(clusters.Field(stage, cluster))
        except MLProducerError as exc:
            book.saw("", ok=False, instead=str(exc))
        await whole(cluster.mend)
        return _report(scenario, book, began, await whole(lambda: stage.judge.verdict(self.patience)))


def _report(scenario: Scenario, book: Book, began: float, verdict: Verdict | None) -> Report:
    for fault in verdict.faults() if verdict is not None else ():
        book.saw("", ok=False, instead=fault)
    last = () if book.last is None else (book.last,)
    return Report(
        scenario=scenario.name,
        seconds=time.monotonic() - began,
        verdict=verdict,
        time_to_detect=book.time_to_detect,
        time_to_recover=book.time_to_recover,
        findings=(*book.findings, *last),
        changed=scenario.changed,
        plot=book.plot,
        extra=book.extra,
    )
