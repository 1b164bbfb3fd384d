"""The pictures of the dashboards in docs/: `make pictures`.

Two services publish in front of a RabbitMQ that is killed, comes back, and loses a queue; a Prometheus scrapes them.
Then each row of the dashboards is drawn from their JSON and from what that Prometheus answers. All of it is real but
the drawing, which is not Grafana's. Takes about three minutes.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path
from typing import Self

from bench.drawing import Source, draw

from mlproducer.monitoring.dashboards import EVERYTHING, dashboards
from mlproducer.testing.rabbitmq import PrivateRabbitError
from watched import JOB, Service, Watched

KINDS = (
    ("embed_vectors", "word " * 40, 6),
    ("summarize_llm", "word " * 400, 3),
    ("transcribe_whisper", "https://media.example/speech.wav", 1),
)
"""Task type, content, tasks at a time."""
PICTURES: dict[str, dict[str, tuple[str, ...]]] = {
    "ml-producer-monitoring": {
        "dashboard-delivery": ("Connection health", "Is it getting through?"),
        "dashboard-queues": ("Queues",),
        "dashboard-errors": ("Latency and size", "Errors by type"),
    },
    "ml-producer-fleet": {"dashboard-fleet": ("The fleet", "Each instance", "Spools")},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place, Watched(Path(place), services=2, interval="1s") as watched:
        watched.prometheus.until("count(ml_producer_connection_state == 2) == 2")
        start = time.time()
        play(watched)
        take(watched, start, time.time(), folder)


def play(watched: Watched) -> None:
    """What happens in the pictures."""
    first, second = watched.services
    with Load(first), Load(second) as beside:
        time.sleep(35)
        print("the broker is killed")
        watched.rabbit.kill()
        time.sleep(25)
        print("it comes back")
        watched.rabbit.start()
        time.sleep(35)
        print("a queue is lost")
        lose_queue(watched)
        time.sleep(30)
        print("a service ends")
        beside.stop()
        second.stop()
        time.sleep(25)


def lose_queue(watched: Watched) -> None:
    try:
        watched.rabbit.ctl("delete_queue", "ml.transcribe", "--vhost", "v0")
    except PrivateRabbitError as error:
        print(error)


class Load:
    """Publishes without end, in a thread of its own."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(0.2):
            for kind, content, tasks in KINDS:
                self._service.publish(tasks, task_type=kind, content=content)


def take(watched: Watched, start: float, end: float, folder: Path) -> None:
    values = {**EVERYTHING, "job": JOB, "__rate_interval": "5s", "__range": f"{end - start:.0f}s"}
    ask = watched.prometheus
    source = Source(
        now=lambda expr: ask.query(expr, at=end),
        over_time=lambda expr: ask.query_range(expr, start, end, 1),
        values=values,
    )
    for board in dashboards():
        for name, rows in PICTURES[board["uid"]].items():
            file = folder / f"{name}.png"
            draw(board, rows, source, file)
            print(f"{file}: {file.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main()
