"""The order of things: start the broker, the service and the worker; publish; report; stop all that was started."""

from __future__ import annotations

import os
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Final

import typer
from pydantic import SecretStr
from rich.markup import escape

from mlproducer.cli.output import ExitCode, JsonOption, output
from mlproducer.cli.quickstart.broker import find_broker
from mlproducer.cli.quickstart.children import Program
from mlproducer.cli.quickstart.client import Client
from mlproducer.cli.quickstart.feed import Story, publish_and_follow
from mlproducer.cli.quickstart.places import Places, check_port, find_places
from mlproducer.cli.quickstart.results import follow
from mlproducer.cli.quickstart.running import Running, Stopped
from mlproducer.cli.quickstart.show import Screen
from mlproducer.cli.quickstart.worker import CONCURRENCY, READY, says_ready, worker
from mlproducer.settings import Settings
from mlproducer.shares import Preferences, parse_share, plan

_SERVICE_READY: Final = 30.0
_WATCH: Final = 0.5
"""Seconds between two looks at whether everything still runs."""


def quickstart(
    *,
    end: Annotated[bool, typer.Option("--exit", help="End after the table; exit 0 if all were processed.")] = False,
    data_dir: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Keep everything here; else in ML_DATA_DIR, else in var/ of the project."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Start a broker (if none answers), the service and a real worker, and send real texts through all of them.

    Then it serves until Ctrl-C, which drains and stops everything that was started here.
    """
    settings = Settings.load()
    places = find_places(settings, data_dir, Path.cwd())
    port = check_port(settings)
    screen = Screen(output(as_json=as_json))
    story: Story | None = None
    try:
        with Running(screen) as running:
            client = _start(settings, places, port, running)
            story = _publish(client, places, running)
            _report(client, story, running)
            if not end:
                screen.out.say("\nServing. [bold]Ctrl-C[/bold] stops everything that was started here.")
                while True:
                    running.check()
                    time.sleep(_WATCH)
    except Stopped:
        if story is None or end:
            raise typer.Exit(ExitCode.INTERRUPTED) from None
    if story is None or not story.complete:
        raise typer.Exit(ExitCode.FAILED)


def _start(settings: Settings, places: Places, port: int, running: Running) -> Client:
    """Broker, service, worker. Raises: MLProducerError."""
    screen = running.screen
    screen.out.say(f"[bold]mlproducer[/bold] {version('mlproducer')}, data in {escape(str(places.data))}\n")
    with screen.step("broker") as step:
        broker = find_broker(settings, places, step.say, running.start_broker)
        step.result = broker.words
    settings = settings.model_copy(update={"rabbitmq_url": SecretStr(broker.url), "ml_port": port})
    key = settings.ml_api_keys[0].get_secret_value() if settings.ml_api_keys else None
    client = Client("127.0.0.1" if settings.ml_host in {"0.0.0.0", "::"} else settings.ml_host, port, key)  # noqa: S104  # compared, not bound
    env = {
        **os.environ,
        "RABBITMQ_URL": broker.url,
        "ML_PORT": str(port),
        "ML_DATA_DIR": str(places.data),
        "PYTHONUNBUFFERED": "1",
    }
    with screen.step("service") as step:
        step.say(f"starting on {client.base}")
        command = (sys.executable, "-m", "mlproducer.cli", "serve")
        program = Program("service", command, env, Path.cwd(), places.log("service"))
        running.start_service(program).wait_until(client.connected, _SERVICE_READY)
        step.result = client.base
    with screen.step("worker") as step:
        step.say("starting Celery")
        child = running.start_worker(worker(places, settings, env))
        child.wait_until(lambda: says_ready(child.log.read_bytes()), READY)
        step.result = f"Celery, {CONCURRENCY} processes, all queues"
    return client


def _publish(client: Client, places: Places, running: Running) -> Story:
    shares = [line for line in places.shares.read_bytes().splitlines() if line.strip()]
    tasks = sum(len(plan(parse_share(share), Preferences())) for share in shares)
    where = places.shares.relative_to(places.root)
    running.screen.out.say(f"\nPublishing the {tasks} tasks of {len(shares)} shares from {where}")
    results = follow(places.results)
    with running.screen.progress(tasks) as show:
        return publish_and_follow(client, shares, results, show, running.check)


def _report(client: Client, story: Story, running: Running) -> None:
    addresses = {
        "console": f"{client.base}/",
        "API": f"{client.base}/docs",
        "health": f"{client.base}/api/ml/health",
        "status": f"{client.base}/api/ml/status",
        "metrics": f"{client.base}/api/ml/metrics/prometheus",
    }
    running.screen.report(story, addresses)
    p50, p99 = story.latency(0.50), story.latency(0.99)
    running.screen.out.data(
        {
            "shares": story.shares,
            "accepted": story.accepted,
            "known": len(story.known),
            "confirmed": len(story.confirmed),
            "processed": len(story.processed),
            "failed": len(story.failed),
            "refused": story.refused,
            "p50_ms": None if p50 is None else round(p50 * 1000, 3),
            "p99_ms": None if p99 is None else round(p99 * 1000, 3),
            "complete": story.complete,
            "addresses": addresses,
        }
    )
