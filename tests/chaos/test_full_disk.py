"""A disk that is full: a real one, small, that the spool or somebody else fills under load.

That SQLite's own word for a full disk is told apart is in tests/contract/test_sqlite_spool.py.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import pytest

from forking import ForkServer
from load_child import CHOSEN
from mlproducer.testing.rabbitmq import PrivateRabbit
from producers import PROGRAM, Producers, Running, Told
from small_disk import MEGABYTE, ext4, refusal, seen_from, tmpfs
from trials import FAST, nothing_lost

SIZE = 24 * MEGABYTE
CALLERS = 20
LOAD = {"callers": CALLERS, "rest": 0.002, "text": 8_000}


def fills(producers: Producers, disk: Path, rabbit: PrivateRabbit, *, by_itself: bool) -> tuple[Running, str]:
    """A producer whose spool has no room left, and the URL of its virtual host, which is not there yet.

    `by_itself`: the spool took all it may. Else another file took the rest of the disk while the spool was small.
    """
    vhost = f"full-{uuid4().hex[:8]}"
    url = rabbit.url_of(vhost)
    running = producers.start({**FAST, "ml_data_dir": disk, "rabbitmq_url": url}, **LOAD)
    if not by_itself:
        running.until_accepted(100)
        take_the_rest(seen_from(producers.pid, disk))
    told = running.until(lambda told: len(told.refused) >= 100)
    assert told.receipts["spooled"] >= 100
    assert {each.error for each in told.refused} == {"SpoolUnavailable"}
    assert all("disk is full" in each.words and "ML_DATA_DIR" in each.words for each in told.refused)
    assert max(each.seconds for each in told.refused) < 5
    rabbit.add_vhost(vhost)
    return running, url


def take_the_rest(folder: Path) -> None:
    with (folder / "ballast").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


def still_confirms_directly(running: Running) -> None:
    """Tasks with random ids need no spool; with chosen ids they do."""
    running.until_accepted(CALLERS, as_="confirmed")  # those that were called before the broker was there have answers
    before = len(running.told().refused)
    running.until_accepted(200, as_="confirmed")
    told = running.until(lambda told: len(told.refused) > before + CALLERS)
    assert all(each.task_id.startswith(CHOSEN) for each in told.refused[before + CALLERS :])


def takes_chosen_ids(running: Running, more: int) -> None:
    """Those need the spool: it serves again."""

    def count(told: Told) -> int:
        return sum(each.startswith(CHOSEN) for each in told.accepted)

    wanted = count(running.told()) + more
    running.until(lambda told: count(told) >= wanted)


def judge(running: Running, producers: Producers, disk: Path, url: str, copies: Path) -> None:
    told = running.stop()
    settings = {**FAST, "ml_data_dir": disk, "rabbitmq_url": url}
    told.take_in(producers.start(settings, wait=True, drain=True).ended())
    copies.mkdir()
    for file in seen_from(producers.pid, disk).glob("mlproducer.db*"):
        if file.is_file():
            shutil.copy(file, copies)  # SQLite would resolve the way through /proc to a place outside
    # A full disk may have no room for the note that a round of the drain was confirmed: it is like one kill.
    nothing_lost(told, url, copies / "mlproducer.db", kills=1)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return tmp_path / "disk"


Command = Callable[[Path, int], list[str]]
FILE_SYSTEMS = pytest.mark.parametrize(
    "file_system", [tmpfs, pytest.param(ext4, marks=pytest.mark.chaos)], ids=["tmpfs", "ext4"]
)


@contextmanager
def producers_on(file_system: Command, disk: Path) -> Iterator[Producers]:
    """They alone see the small disk that is mounted there."""
    command = file_system(disk, SIZE)
    if why := refusal(command):
        pytest.skip(f"this machine does not let us mount a small disk: {why}")
    folder = disk.parent
    with ForkServer(PROGRAM, folder / "errors.log", command) as server, Producers(folder, server) as producers:
        yield producers


@FILE_SYSTEMS
def test_a_spool_that_filled_its_disk_refuses_with_the_reason_and_is_emptied_when_the_broker_is_back(
    rabbit: PrivateRabbit, tmp_path: Path, small: Path, file_system: Command
) -> None:
    with producers_on(file_system, small) as producers:
        running, url = fills(producers, small, rabbit, by_itself=True)
        spooled = running.told().receipts["spooled"]
        running.until_accepted(spooled, as_="confirmed")
        # Nobody made room but the drain.
        takes_chosen_ids(running, 1)
        judge(running, producers, small, url, tmp_path / "copies")


@FILE_SYSTEMS
def test_a_disk_that_somebody_else_filled_refuses_confirms_directly_and_serves_again_when_there_is_room(
    rabbit: PrivateRabbit, tmp_path: Path, small: Path, file_system: Command
) -> None:
    with producers_on(file_system, small) as producers:
        running, url = fills(producers, small, rabbit, by_itself=False)
        still_confirms_directly(running)
        (seen_from(producers.pid, small) / "ballast").unlink()
        takes_chosen_ids(running, CALLERS)
        judge(running, producers, small, url, tmp_path / "copies")
