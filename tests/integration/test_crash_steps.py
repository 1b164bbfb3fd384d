"""A crash between any two steps of claim, publish, confirm, commit, lease, settle: each step, and what is left of it.

A producer process kills itself with -9 at one step. A second one starts on the same spool, its callers ask again for
what they got no answer to, and it drains. Then each accepted task is in exactly one place, and only the steps between
a write to the broker and the note of its confirm can have sent a task twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from forking import ForkServer
from mlproducer import Producer, Settings, Task
from mlproducer.testing.rabbitmq import PrivateRabbit
from places import Places, places

CHILD = Path(__file__).parent.parent / "helpers" / "crash_child.py"
NOWHERE = "amqp://ml:ml_password@127.0.0.1:9/"
TASKS = 5
FAST: dict[str, Any] = {
    "ml_drain_poll": 0.05,
    "ml_drain_lease": 5.5,  # a dead producer's leases are over when the file is opened again, but not at once elsewhere
    "ml_retry_first": 0.01,
    "ml_retry_cap": 0.02,
    "ml_log_level": "error",
}


def tasks(*, chosen: bool, **fields: Any) -> list[dict[str, Any]]:
    """`chosen`: ids that the caller chose."""
    made = []
    for n in range(TASKS):
        task = {"task_type": "embed_vectors", "payload": {"share_id": f"s{n}", "content": f"text {n}"}, **fields}
        made.append({**task, "id": str(uuid4())} if chosen else task)
    return made


class Crash:
    """One folder, one virtual host, and what the callers of the crashed producer know."""

    def __init__(self, rabbit: PrivateRabbit, children: ForkServer, folder: Path, **settings: Any) -> None:
        self.url = rabbit.add_vhost(f"crash-{uuid4().hex[:8]}")
        self.children = children
        self.folder = folder
        self.settings = {**FAST, "ml_data_dir": str(folder), **settings}
        self.called: list[str] = []
        self.accepted: list[str] = []

    async def run(
        self, step: str, nth: int, work: list[dict[str, Any]], *, url: str | None = None, linger: float = 5
    ) -> None:
        """Run a producer that dies at the `nth` of `step`; "never" lets it live. It must die where it was told to."""
        told = self.folder / "told"
        orders = {
            "step": step,
            "nth": nth,
            "tasks": work,
            "linger": linger,
            "settings": {**self.settings, "rabbitmq_url": url or self.url},
            "told": str(told),
        }
        child = self.children.start(orders)
        async with asyncio.timeout(60):
            code = await asyncio.to_thread(self.children.ended, child)
        printed = told.read_text()
        told.unlink()
        words = [line.split(" ") for line in printed.splitlines()]
        assert ("survived" in printed) is (step == "never"), f"{step} was never reached: {printed}"
        assert code == (0 if step == "never" else -9)
        self.called += [task_id for what, task_id in words if what == "called"]
        self.accepted += [task_id for what, task_id in words if what == "accepted"]

    async def recover(self, again: list[dict[str, Any]] | None = None) -> Places:
        """A second producer: callers ask again, the spool is drained."""
        settings = Settings.load(**self.settings, rabbitmq_url=self.url)
        async with Producer(settings) as producer:
            assert await producer.connected(20), producer.status().last_error
            for fields in again or ():
                receipt = await producer.publish(Task.model_validate(fields))
                self.accepted.append(receipt.task_id)
            async with asyncio.timeout(30):
                while await producer.waiting(limit=1):  # noqa: ASYNC110  # the spool has no event for it
                    await asyncio.sleep(0.05)
        where = await places(self.url, self.folder / "mlproducer.db", ("ml.embed", "ml.dlq"))
        assert where.lost(self.accepted) == set()
        assert not where.spool
        return where


@pytest.fixture(scope="module")
def children(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    with ForkServer(CHILD, tmp_path_factory.mktemp("children") / "errors.log") as server:
        yield server


@pytest.mark.parametrize(("step", "in_broker"), [("publish.before", 0), ("publish.written", 1), ("publish.heard", 1)])
async def test_a_crash_on_the_direct_way_leaves_only_what_nobody_was_promised(
    rabbit: PrivateRabbit, children: ForkServer, tmp_path: Path, step: str, in_broker: int
) -> None:
    crash = Crash(rabbit, children, tmp_path)
    await crash.run(step, 3, tasks(chosen=False))
    assert len(crash.accepted) == 2
    where = await crash.recover()
    assert where.duplicates == 0
    assert len(where.queues) == 2 + in_broker


@pytest.mark.parametrize(
    ("step", "twice"),
    [
        ("claim.before", 0),
        ("claim.after", 0),
        ("publish.before", 0),
        ("publish.written", 1),
        ("publish.heard", 1),
        ("confirm.before", 1),
        ("confirm.after", 0),
    ],
)
async def test_a_crash_around_a_chosen_id_sends_it_twice_only_where_its_confirm_was_not_noted(
    rabbit: PrivateRabbit, children: ForkServer, tmp_path: Path, step: str, twice: int
) -> None:
    crash = Crash(rabbit, children, tmp_path)
    work = tasks(chosen=True)
    await crash.run(step, 3, work)
    assert len(crash.accepted) == 2
    where = await crash.recover(again=work)
    assert where.duplicates == twice
    assert len(where.queues) == TASKS


@pytest.mark.parametrize(("step", "stored"), [("put.before", 2), ("put.after", 3)])
async def test_a_crash_around_the_commit_to_the_spool_keeps_what_was_committed(
    rabbit: PrivateRabbit, children: ForkServer, tmp_path: Path, step: str, stored: int
) -> None:
    crash = Crash(rabbit, children, tmp_path)
    await crash.run(step, 3, tasks(chosen=False), url=NOWHERE)
    assert len(crash.accepted) == 2
    where = await crash.recover()
    assert where.duplicates == 0
    assert len(where.queues) == stored


@pytest.mark.parametrize(
    ("step", "nth", "twice"),
    [
        ("lease.after", 1, 0),
        ("publish.before", 3, 2),
        ("publish.written", 3, TASKS),
        ("publish.heard", 1, TASKS),
        ("settle.before", 1, TASKS),
        ("settle.after", 1, 0),
    ],
)
async def test_a_crash_of_the_drain_publishes_again_what_it_had_not_noted_and_nothing_else(
    rabbit: PrivateRabbit, children: ForkServer, tmp_path: Path, step: str, nth: int, twice: int
) -> None:
    crash = Crash(rabbit, children, tmp_path)
    await crash.run("never", 1, tasks(chosen=False), url=NOWHERE, linger=0)
    assert len(crash.accepted) == TASKS
    await crash.run(step, nth, [])
    where = await crash.recover()
    assert len(where.queues) == TASKS
    assert where.duplicates <= twice
    if not twice:
        assert where.duplicates == 0


@pytest.mark.parametrize("step", ["settle.before", "settle.after"])
async def test_a_crash_around_a_burial_keeps_the_task_in_one_place_and_its_copy_in_the_queue(
    rabbit: PrivateRabbit, children: ForkServer, tmp_path: Path, step: str
) -> None:
    crash = Crash(rabbit, children, tmp_path, ml_dlq_publish=True, ml_retry_attempts=1, ml_route_patience=0)
    # No queue is bound for it: each is returned, and one attempt is all there is.
    types = tmp_path / "types.toml"
    types.write_text(
        "[task_types.nowhere.routes.api]\n"
        'celery_task = "x.y"\nqueue = "ml.nowhere"\n'
        '[task_types.nowhere.fields]\nshare_id = "string"\ncontent = "string"\n'
    )
    crash.settings |= {"ml_task_types": str(types)}
    work = [{**task, "task_type": "nowhere"} for task in tasks(chosen=False)]
    await crash.run("never", 1, work, url=NOWHERE, linger=0)
    await _without_queue(crash)
    crash.settings |= {"ml_declare_topology": False}
    await crash.run(step, 1, [])
    where = await crash.recover()
    assert where.dead == set(crash.accepted)
    copies = {task_id: count for task_id, count in where.queues.items() if task_id in where.dead}
    assert set(copies) == where.dead, "no copy is missing"
    assert all(count <= 2 for count in copies.values())
    if step == "settle.after":
        assert all(count == 1 for count in copies.values())


async def _without_queue(crash: Crash) -> None:
    """Declare everything as a producer does, then remove the one queue."""
    import aio_pika  # noqa: PLC0415  # only here

    async with Producer(
        Settings.load(**{**crash.settings, "rabbitmq_url": crash.url, "ml_spool_url": "memory://"})
    ) as p:
        assert await p.connected(20), p.status().last_error
    async with await aio_pika.connect(crash.url) as connection:
        channel = await connection.channel()
        await channel.queue_delete("ml.nowhere")
