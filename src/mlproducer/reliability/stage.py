"""What a scenario works with: a virtual host on the private broker, a folder, producers, and their callers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar
from uuid import uuid4

from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from mlproducer.events import AttemptSettled, Event, TaskConfirmed
from mlproducer.jobs import shielded
from mlproducer.outcome import Confirmed, Unsure
from mlproducer.reliability.book import Book, NotSeen
from mlproducer.reliability.judge import Judge, Ledger
from mlproducer.reliability.message import WORKERS, Worker, expected
from mlproducer.reliability.report import Finding
from mlproducer.settings import Settings
from mlproducer.task import Receipt, Task
from mlproducer.testing.rabbitmq import PrivateRabbit
from mlproducer.wiring import Overrides, Producer

PATIENCE: Final = 60.0
"""Seconds after which a scenario gives up on what it waits for."""
_POLL: Final = 0.02
_TEXT: Final = "Reliability is what is left of a promise after the cable was pulled. " * 14
"""About 1 KiB, as a short text to embed is."""

_Done = TypeVar("_Done")


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of it. The default is what the command runs; tests take less."""

    callers: int = 50
    rest: float = 0.1
    """Seconds between two tasks of one caller."""
    tasks: int = 1_000
    """At once, where it is about concurrency; a tenth of it elsewhere."""
    load: float = 1.0
    """Seconds of load before and during a fault."""
    kills: int = 5
    cut: float = 20.0
    """Seconds for which a node is cut off."""
    stuck: float = 10.0
    """Seconds for which a route is stuck."""
    producers: int = 1_000

    @property
    def few(self) -> int:
        return max(10, self.tasks // 10)


class OwnSettings(Settings):
    """Settings from what is given and from nothing else: neither the environment nor a .env file may lead a scenario,
    which breaks things on purpose, to the broker or to the spool that somebody uses.
    """

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)

    @classmethod
    def mistyped(cls) -> tuple[str, ...]:
        return ()


def sample(n: object, task_type: str = "embed_vectors") -> Task:
    """Its content is its own: one that got another's would be seen. Its id is nobody's choice, so it needs no claim."""
    payload = {"share_id": f"reliability-{n}", "content": f"{uuid4().hex}: {_TEXT}"}
    return Task(task_type=task_type, payload=payload)


async def whole(work: Callable[[], _Done]) -> _Done:
    """Blocking work in a thread, to its end also when we are cancelled meanwhile: a broker that is half started when
    everything is stopped would be left behind.
    """
    job = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await shielded(job)
    except asyncio.CancelledError:
        await asyncio.wait([job])
        raise


async def until(true: Callable[[], bool], what: str, seconds: float = PATIENCE) -> float:
    """Wait until it is so; returns the moment. Raises: NotSeen, naming `what` was waited for."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise NotSeen(f"waited {seconds:.0f} s in vain for {what}")
        await asyncio.sleep(_POLL)
    return time.monotonic()


class Call(NamedTuple):
    """One call of a caller: when it began, and how many seconds it took."""

    began: float
    took: float
    task_type: str
    confirmed: bool
    """Directly: its receipt says so."""


class Trial:
    """One producer whose callers' receipts go into the ledger, and whose events are kept with their moments."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        book: Book,
        overrides: Overrides | None = None,
        workers: Mapping[str, Worker] = WORKERS,
    ) -> None:
        self.producer = Producer(settings, listeners=[self._hear], overrides=overrides)
        self.slowest = 0.0
        """Seconds that the slowest publish took, of those since it was last set to 0."""
        self.spooled = 0
        """Calls that were told `spooled`."""
        self._ledger = ledger
        self._workers = workers
        self._book = book
        self._calls: list[Call] = []
        self._heard: dict[type[Event], list[tuple[float, Any]]] = {}

    async def publish(self, task: Task) -> Receipt:
        began = time.monotonic()
        self._ledger.called(task.id, expected(task, self._workers.get(task.task_type)))
        receipt = await self.producer.publish(task)
        self._ledger.told(receipt.task_id, receipt.state.value)
        took = time.monotonic() - began
        self.slowest = max(self.slowest, took)
        self.spooled += not receipt.confirmed
        self._calls.append(Call(began, took, task.task_type, receipt.confirmed))
        self._book.tick()
        return receipt

    async def burst(self, count: int, task_type: str = "embed_vectors") -> list[Receipt]:
        """`count` calls at the same time."""
        return await asyncio.gather(*(self.publish(sample(n, task_type)) for n in range(count)))

    async def is_whole(self) -> None:
        """See that a new task goes the direct way again."""
        receipt = await self.publish(sample("last"))
        text = "is confirmed directly" if receipt.confirmed else f"is still {receipt.state}: {receipt.reason}"
        self._book.last = Finding(receipt.confirmed, f"after it, a new task {text}")

    @asynccontextmanager
    async def load(self, scale: Scale, task_type: str = "embed_vectors") -> AsyncIterator[None]:
        """Callers who publish one task after the other, for as long as the block runs."""
        ending = asyncio.Event()

        async def caller(number: int) -> None:
            await asyncio.sleep(scale.rest * number / scale.callers)  # not all in one moment
            while not ending.is_set():
                await self.publish(sample(number, task_type))
                await asyncio.sleep(scale.rest)

        calls = [asyncio.create_task(caller(n)) for n in range(scale.callers)]
        try:
            yield
            ending.set()
            await asyncio.gather(*calls)
        finally:
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)

    def calls(self, since: float, before: float, task_type: str = "") -> list[Call]:
        """Those that began between two moments, of one type of task or of all."""
        return [call for call in self._calls if since <= call.began < before and task_type in {"", call.task_type}]

    def moments(self, kind: type[Event], since: float) -> list[tuple[float, Any]]:
        """As `told`, each with its moment."""
        return [(at, event) for at, event in self._heard.get(kind, ()) if at >= since]

    def told(self, kind: type[Event], since: float = 0.0) -> list[Any]:
        """The events of this kind, from the moment `since` on."""
        return [event for _, event in self.moments(kind, since)]

    def first(self, kind: type[Event], since: float, which: Callable[[Any], bool] = lambda _: True) -> float | None:
        """The moment of the first such event from `since` on."""
        return next((at for at, event in self._heard.get(kind, ()) if at >= since and which(event)), None)

    async def heard(
        self,
        kind: type[Event],
        since: float,
        what: str,
        which: Callable[[Any], bool] = lambda _: True,
        seconds: float = PATIENCE,
    ) -> float:
        """Wait for the first such event; returns its moment. Raises: NotSeen."""
        await until(lambda: self.first(kind, since, which) is not None, what, seconds)
        at = self.first(kind, since, which)
        return since if at is None else at

    def attempts(self, since: float, before: float, task_type: str = "") -> int:
        """How many attempts began between two moments, of one type of task or of all."""
        settled = self._heard.get(AttemptSettled, ())
        began = (at - event.duration for at, event in settled if task_type in {"", event.task_type})
        return sum(since < moment < before for moment in began)

    def confirmed_between(self, since: float, before: float) -> set[str]:
        """Tasks of which an attempt was under way then, and was confirmed."""
        return {
            event.task_id
            for at, event in self.moments(AttemptSettled, since)
            if at - event.duration < before and isinstance(event.outcome, Confirmed)
        }

    def _hear(self, event: Event) -> None:
        match event:
            case TaskConfirmed(task_id=task_id):
                self._ledger.confirmed_later(task_id)
            case AttemptSettled(task_id=task_id, outcome=Unsure()):
                self._ledger.unsure(task_id)
            case _:
                pass
        self._heard.setdefault(type(event), []).append((time.monotonic(), event))


async def publishes_again(trial: Trial, since: float, seconds: float = PATIENCE, task_type: str = "") -> float:
    """Wait for the first attempt that began after `since` and was confirmed, of one type of task or of all; the moment
    at which it was.
    """

    def confirmed() -> list[float]:
        settled = trial.moments(AttemptSettled, since)
        return [at for at, event in settled if _began_after(since, at, event) and task_type in {"", event.task_type}]

    await until(lambda: bool(confirmed()), "a task to be confirmed again", seconds)
    return confirmed()[0]


def _began_after(since: float, at: float, event: AttemptSettled) -> bool:
    return type(event.outcome) is Confirmed and at - event.duration > since


class Stage:
    """A scenario's own: virtual host, folder with one spool, ledger and judge."""

    def __init__(self, rabbit: PrivateRabbit, url: str, folder: Path, scale: Scale, book: Book) -> None:
        folder.mkdir()
        self.rabbit = rabbit
        self.url = url
        self.scale = scale
        self.book = book
        self.folder = folder
        self.ledger = Ledger()
        self.judge = Judge(url, folder / "mlproducer.db", self.ledger)
        self._workers = WORKERS
        book.counts = lambda: (len(self.ledger.accepted), len(self.ledger.confirmed))

    def know(self, workers: Mapping[str, Worker], *, declare: bool = True) -> Path:
        """Task types of the scenario's own, whose queues the judge reads too; the file that `ml_task_types` names.
        Without `declare` others make their queues.
        """
        self._workers = {**WORKERS, **workers}
        self.judge.read(worker.queue for worker in workers.values())
        types = self.folder / "types.toml"
        types.write_text("".join(_type(name, worker, declare) for name, worker in workers.items()))
        return types

    def settings(self, **given: object) -> Settings:
        return OwnSettings.load(**{"rabbitmq_url": self.url, "ml_data_dir": self.folder, **given})

    @asynccontextmanager
    async def trial(
        self, settings: Settings, *, connected: bool = True, overrides: Overrides | None = None
    ) -> AsyncGenerator[Trial]:
        """A producer that runs for as long as the block. Raises: NotSeen, if it does not connect."""
        trial = Trial(settings, self.ledger, self.book, overrides, self._workers)
        async with trial.producer as producer:
            if connected and not await producer.connected(PATIENCE):
                raise NotSeen(f"the producer did not connect: {producer.status().last_error}")
            yield trial

    async def drained(self, trial: Trial, seconds: float = PATIENCE) -> float:
        """Wait until the spool is empty and the producer is healthy; returns the moment. Raises: NotSeen."""

        def is_so() -> bool:
            self.book.tick()
            return trial.producer.is_healthy() and not self.judge.waiting()

        return await until(is_so, "the spool to be empty and the producer to be healthy", seconds)

    async def mend(self) -> None:
        """The broker runs again, whatever the scenario did to it."""
        if self.rabbit.pid is None:
            await whole(self.rabbit.start)
        else:
            self.rabbit.resume()


def _type(name: str, worker: Worker, declare: bool) -> str:  # noqa: FBT001  # as the file has it
    return (
        f'[task_types.{name}.routes.api]\ncelery_task = "{worker.celery_task}"\nqueue = "{worker.queue}"\n'
        f"declare = {str(declare).lower()}\n"
        f'[task_types.{name}.fields]\nshare_id = "string"\ncontent = "string"\n'
    )
