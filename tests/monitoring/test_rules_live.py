"""The rules against a real Prometheus that scrapes the real service before a real RabbitMQ, which is broken on purpose.

Windows and waits are shortened; the expressions are those of the shipped file.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from http_bench import embed
from making_queues import delete_queue, make_queue
from mlproducer import Settings
from mlproducer.http.server import Service
from mlproducer.monitoring.rules import as_yaml, document
from mlproducer.testing.rabbitmq import PrivateRabbit
from private_prometheus import PrivatePrometheus, scraping

SCALE: Final = 1 / 60
"""Five minutes are 5 s, an hour is a minute."""
SCRAPE: Final = "500ms"
"""A scrape that fails ends every series for a moment, and with them the time that an alert has waited. A shorter one may
fail on a machine that runs other tests beside this one."""
PAUSE: Final = 0.03
"""Seconds between two tasks."""
SOON: Final = 80.0
LAG: Final = "sizes are measured once a second here too, which is half of two minutes: so ask if it fires"
"""Of the loss check while tasks pour into the spool: its expression alone may answer for a moment."""

IMPATIENT: Final[dict[str, object]] = {
    "ml_reconnect_first": 0.1,
    "ml_reconnect_cap": 0.3,
    "ml_reconnect_attempts": 3,
    "ml_health_interval": 0.5,
    "ml_health_timeout": 1.0,
    "ml_confirm_timeout": 1.0,
    "ml_breaker_failures": 3,
    "ml_breaker_cooldown": 1.0,
    "ml_retry_first": 0.05,
    "ml_retry_cap": 0.1,
    "ml_drain_poll": 0.1,
    "ml_shutdown_timeout": 1.0,
    "ml_port": 0,
}


@dataclass
class Watched:
    """A service under traffic, and the Prometheus that watches it."""

    rabbit: PrivateRabbit
    prometheus: PrivatePrometheus
    rules: list[dict[str, Any]]
    file: Path

    async def firing(self) -> set[str]:
        alerts = await asyncio.to_thread(self.prometheus.alerts)
        for alert in alerts:
            told = alert["annotations"]
            assert not any("error" in text or "<no value>" in text for text in told.values()), told
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    async def until_firing(self, *names: str) -> None:
        await self._until(lambda firing: set(names) <= firing, f"{names} to fire")

    async def until_one_fires(self, *names: str) -> None:
        await self._until(lambda firing: bool(set(names) & firing), f"one of {names} to fire")

    async def until_silent(self, *but: str) -> None:
        await self._until(lambda firing: firing <= set(but), f"all but {but} to end")

    async def _until(self, true: Any, what: str) -> None:
        firing: set[str] = set()
        try:
            async with asyncio.timeout(SOON):
                while not true(firing := await self.firing()):  # noqa: ASYNC110  # a Prometheus tells no event
                    await asyncio.sleep(0.2)
        except TimeoutError:
            raise AssertionError(f"waited for {what}; firing: {firing}\n{self.prometheus.log}") from None

    async def answers(self, expr: str) -> list[dict[str, Any]]:
        return await asyncio.to_thread(self.prometheus.query, expr)

    async def check(self, *, fire: Collection[str], silent: Collection[str]) -> None:
        """Every expression is run: those of alerts in `fire` answer, those in `silent` do not."""
        for rule in self.rules:
            name, expr = rule.get("alert") or rule["record"], rule["expr"]
            found = await self.answers(expr)
            if name in fire:
                assert found, f"{name} should fire: {expr}"
            if name in silent:
                assert not found, f"{name} should be silent: {found}"


@asynccontextmanager
async def watched(rabbit: PrivateRabbit, folder: Path, **given: object) -> AsyncIterator[Watched]:
    settings = Settings.load(**{**IMPATIENT, "rabbitmq_url": rabbit.url, "ml_data_dir": folder, **given})
    service = Service(settings)
    ready, stop = asyncio.Event(), asyncio.Event()
    running = asyncio.create_task(service.run(ready=ready, stop=stop))
    rules = document(scale=SCALE)
    (folder / "rules.yml").write_text(as_yaml(rules))
    async with asyncio.timeout(SOON):
        await ready.wait()
    traffic = asyncio.create_task(publish(service.url))
    config = scraping(
        {service.url.removeprefix("http://"): "mlproducer"}, rules=[folder / "rules.yml"], interval=SCRAPE
    )
    prometheus = PrivatePrometheus(folder, config)
    try:
        await asyncio.to_thread(prometheus.start)
        everything = [rule for group in rules["groups"] for rule in group["rules"]]
        yield Watched(rabbit, prometheus, everything, folder / "mlproducer.db")
    finally:
        traffic.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await traffic
        await asyncio.to_thread(prometheus.__exit__)
        stop.set()
        async with asyncio.timeout(SOON):
            await running


async def publish(url: str) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=20, trust_env=False) as client:
        while True:
            answer = await client.post("/api/ml/tasks", json=embed())
            assert answer.status_code in {201, 202, 503}, answer.text
            await asyncio.sleep(PAUSE)


ALERTS: Final = frozenset(rule["alert"] for group in document()["groups"] for rule in group["rules"] if "alert" in rule)
NOBODY_READS: Final = frozenset({"MLProducerNoConsumers"})
"""No worker runs here: it is right, whenever it fires."""
OUTAGE: Final = {
    "MLProducerReconnectsExhausted",
    "MLProducerDeliveryBudgetBurnsFast",
    "MLProducerDeliveryBudgetBurnsSlowly",
}
"""What follows from the lost link, such as an open breaker, is silent beside it: one cause fires one alert."""


FROZEN: Final = ("MLProducerCircuitBreakerOpen", "MLProducerDisconnected", "MLProducerReconnectsExhausted")
"""One of them tells of a broker that stands still: the health check gives its link up, sooner or later."""


@pytest.mark.timeout(300)
async def test_alerts_are_silent_in_calm_and_fire_for_a_queue_that_is_gone_and_a_broker_that_is_killed(
    own_rabbit: PrivateRabbit, tmp_path: Path
) -> None:
    # A producer that may declare makes a queue that is gone, and nothing dies.
    await asyncio.to_thread(make_queue, own_rabbit.url, "ml.embed")
    async with watched(own_rabbit, tmp_path, ml_declare_topology=False) as w:
        await asyncio.to_thread(w.prometheus.until, "job:ml_producer_tasks_late:ratio_rate5m == 0")
        await asyncio.to_thread(w.prometheus.until, "instance:ml_producer_tasks_missing:sum == 0")
        await asyncio.to_thread(w.prometheus.until, "ml_producer_tasks_confirmed_total > 20")
        await w.check(fire=(), silent=ALERTS - NOBODY_READS)
        assert await w.firing() <= NOBODY_READS
        await asyncio.to_thread(delete_queue, own_rabbit.url, "ml.embed")
        await w.until_firing("MLProducerRouteHeld")
        await asyncio.to_thread(own_rabbit.kill)
        await w.until_firing(*OUTAGE)
        await w.check(
            fire=OUTAGE,
            silent={"MLProducerBlocked", "MLProducerSpoolNearlyFull"},
        )
        assert "MLProducerTasksMissing" not in await w.firing(), LAG


@pytest.mark.chaos
async def test_every_alert_fires_for_its_fault_and_ends_with_it(own_rabbit: PrivateRabbit, tmp_path: Path) -> None:
    lasting = {"MLProducerDeliveryBudgetBurnsSlowly"}  # its windows are minutes, even here
    async with watched(own_rabbit, tmp_path, ml_spool_max_tasks=500) as w:
        await asyncio.to_thread(w.prometheus.until, "ml_producer_tasks_confirmed_total > 20")
        await w.check(fire=(), silent=ALERTS - NOBODY_READS)

        await asyncio.to_thread(own_rabbit.memory_alarm, on=True)
        await w.until_firing("MLProducerBlocked")
        await w.check(fire={"MLProducerBlocked"}, silent={"MLProducerDisconnected"})
        assert "MLProducerTasksMissing" not in await w.firing(), LAG
        await asyncio.to_thread(own_rabbit.memory_alarm, on=False)
        await w.until_silent(*lasting, *NOBODY_READS, "MLProducerDeliveryBudgetBurnsFast")

        own_rabbit.pause()
        await w.until_one_fires(*FROZEN)
        await w.check(fire=(), silent={"MLProducerConfirmTimeouts", "MLProducerNoConfirms"})  # which it explains
        own_rabbit.resume()
        await w.until_silent(*lasting, *NOBODY_READS, "MLProducerDeliveryBudgetBurnsFast")

        await asyncio.to_thread(own_rabbit.sync)
        await asyncio.to_thread(own_rabbit.kill)
        await w.until_firing(*OUTAGE, "MLProducerSpoolNearlyFull")
        await w.check(fire={*OUTAGE, "MLProducerSpoolNearlyFull"}, silent=())
        assert "MLProducerTasksMissing" not in await w.firing(), LAG
        lose_one(w.file)
        await asyncio.to_thread(own_rabbit.start)
        await w.until_silent(*lasting, *NOBODY_READS, "MLProducerDeliveryBudgetBurnsFast", "MLProducerTasksMissing")
        await w.until_firing("MLProducerTasksMissing")
        (found,) = await w.answers("instance:ml_producer_tasks_missing:sum")
        assert found["value"][1] == "1"


def lose_one(file: Path) -> None:
    """As a store would that brought a commit back from before it."""
    with closing(sqlite3.connect(file, timeout=10)) as connection, connection:
        gone = connection.execute(
            "delete from mlproducer_waiting where task_id = (select max(task_id) from mlproducer_waiting)"
        )
        assert gone.rowcount == 1
        connection.execute(
            "update mlproducer_totals set tasks = tasks - 1 where slot = (select min(slot) from mlproducer_totals)"
        )
