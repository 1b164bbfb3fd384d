"""Every query of every panel, asked of a real Prometheus that scrapes real services in front of a real RabbitMQ."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import pytest

from management_api import management_api
from mlproducer.monitoring.dashboards import EVERYTHING, Expression, dashboards, expressions, filled, panels
from mlproducer.monitoring.fleet_board import UID as FLEET
from mlproducer.monitoring.producer_board import UID as PRODUCER
from mlproducer.testing.rabbitmq import PrivateRabbit
from watched import JOB, SOON, Watched

VALUES = {**EVERYTHING, "job": JOB, "__rate_interval": "5s", "__range": "5m"}


@pytest.fixture(scope="module")
def scene(breakable_rabbit: PrivateRabbit, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Two services that published, and were scraped since before that."""
    busy = {"name": "ml.embed", "messages_unacknowledged": 7, "message_stats": {"publish_details": {"rate": 3.5}}}
    with (
        management_api({f"/api/queues/{vhost}/ml.embed": busy for vhost in ("v0", "v1")}) as api,
        Watched(
            tmp_path_factory.mktemp("watched"),
            services=2,
            rabbit=breakable_rabbit,
            RABBITMQ_MANAGEMENT_URL=api,
            ML_HEALTH_INTERVAL=1,
        ) as watched,
    ):
        watched.prometheus.until("count(ml_producer_connection_state == 2) == 2")
        watched.prometheus.until("min(count_over_time(ml_producer_tasks_accepted_total[1m])) > 2")
        for service in watched.services:
            assert set(service.publish(300)) == {"confirmed"}
        watched.prometheus.until("sum(ml_producer_accept_to_confirm_seconds_count) == 600")
        watched.prometheus.until("sum(ml_producer_queue_unacked) == 14")
        yield watched


def answers(scene: Watched, each: Expression) -> list[dict[str, Any]]:
    if each.instant:
        return scene.prometheus.query(each.expr)
    now = time.time()
    return scene.prometheus.query_range(each.expr, now - 10, now, 0.5)


def numbers(series: dict[str, Any]) -> list[float]:
    pairs = series["values"] if "values" in series else [series["value"]]
    return [float(value) for _, value in pairs]


def silent(scene: Watched) -> list[str]:
    """The queries without an answer that can be drawn."""
    found = []
    for each in expressions(VALUES):
        series = answers(scene, each)
        if not series or not any(math.isfinite(number) for one in series for number in numbers(one)):
            found.append(f"{each.dashboard}, {each.panel}: {each.expr}")
    return found


def tile(scene: Watched, board: str, title: str) -> dict[str, float]:
    """Instance, or nothing where the tile has one value → what it shows now."""
    (panel,) = (
        panel
        for found in dashboards()
        if found["uid"] == board
        for panel in panels(found)
        if panel["title"] == title and panel["type"] == "stat"
    )
    (target,) = panel["targets"]
    found = scene.prometheus.query(filled(target["expr"], VALUES))
    return {each["metric"].get("instance", ""): float(each["value"][1]) for each in found}


def until_shown(scene: Watched, board: str, title: str, **wanted: float) -> None:
    """`wanted` by instance, or `only=` for a tile with one value."""
    expected = {"" if name == "only" else name: value for name, value in wanted.items()}
    end = time.monotonic() + SOON
    while (found := tile(scene, board, title)) != expected:
        assert time.monotonic() < end, f"{title} shows {found}, not {expected}"
        time.sleep(0.1)


def test_every_query_of_every_panel_answers_with_data(scene: Watched) -> None:
    assert len(expressions(VALUES)) > 60
    assert silent(scene) == []


@pytest.mark.chaos
def test_an_outage_and_its_end_show_in_the_tiles(scene: Watched) -> None:
    first, second = scene.services
    both = {first.instance: 2.0, second.instance: 2.0}
    until_shown(scene, PRODUCER, "Connection", **both)
    until_shown(scene, PRODUCER, "Confirmed within a minute", only=1.0)
    until_shown(scene, PRODUCER, "Error budget left", only=1.0)
    until_shown(scene, FLEET, "Not connected", only=0.0)

    scene.rabbit.kill()
    assert set(first.publish(40)) == {"spooled"}
    until_shown(scene, FLEET, "Not connected", only=2.0)
    scene.prometheus.until(f'ml_producer_retry_queue_size{{instance="{first.instance}"}} == 40')
    assert tile(scene, PRODUCER, "Connection")[first.instance] in {0.0, 1.0}, "disconnected, or trying"
    assert tile(scene, PRODUCER, "Reconnect attempts")[""] > 0
    (ratio,) = tile(scene, PRODUCER, "Confirmed within a minute").values()
    assert ratio == pytest.approx(600 / 640, abs=0.01)
    until_shown(scene, PRODUCER, "Error budget left", only=0.0)
    assert silent(scene) == [], "what was drawn is drawn on during an outage"

    second.stop()
    until_shown(scene, FLEET, "No answer", only=1.0)
    assert tile(scene, PRODUCER, "Connection")[second.instance] == -1.0

    scene.rabbit.start()
    first.until(connection="connected", spool_tasks=0)
    until_shown(scene, PRODUCER, "Connection", **{first.instance: 2.0, second.instance: -1.0})
    scene.prometheus.until(f'ml_producer_retry_queue_size{{instance="{first.instance}"}} == 0')
