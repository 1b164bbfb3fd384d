"""publish_many: bounded, in any weather, one result a task."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from engine_bench import bench, embed, until
from mlproducer import Receipt, Refusal, Task, TaskState
from mlproducer.errors import SpoolFull
from mlproducer.events import TaskSpooled
from mlproducer.outcome import Nacked, Unsure, UnsureCause


async def test_each_task_of_a_stream_gets_one_receipt() -> None:
    b = bench()
    async with b.producer as p:
        await p.connected(1)
        results = [r async for r in p.publish_many(embed(n) for n in range(2_500))]
        assert len({r.task_id for r in results if isinstance(r, Receipt)}) == 2_500
        assert len(b.broker.task_ids()) == 2_500


async def test_no_more_than_the_window_is_between_source_and_caller() -> None:
    taken = 0

    def source() -> Iterator[Task]:
        nonlocal taken
        for n in range(500):
            taken += 1
            yield embed(n)

    b = bench()
    async with b.producer as p:
        await p.connected(1)
        yielded = 0
        async for _ in p.publish_many(source(), window=50):
            yielded += 1
            assert taken - yielded <= 51
        assert yielded == 500


async def test_a_wrong_task_in_a_stream_is_refused_and_the_others_go_on() -> None:
    b = bench()
    tasks = [embed(1), Task(task_type="nonsense", payload={}), embed(2)]
    async with b.producer as p:
        await p.connected(1)
        results = [r async for r in p.publish_many(tasks)]
    assert [type(r) for r in results].count(Refusal) == 1
    assert len(b.broker.task_ids()) == 2


async def test_a_stream_during_an_outage_is_spooled_whole() -> None:
    b = bench()
    b.broker.down = True
    async with b.producer as p:
        await p.connected(1)
        results = [r async for r in p.publish_many(embed(n) for n in range(300))]
        assert {r.state for r in results if isinstance(r, Receipt)} == {TaskState.SPOOLED}
        assert len((await b.places())["spool"]) == 300
        b.broker.down = False
        await until(lambda: len(b.broker.task_ids()) == 300)


async def test_mixed_outcomes_each_go_their_way() -> None:
    b = bench()
    async with b.producer as p:
        await p.connected(1)
        b.broker.script.extend([Nacked(), Unsure(UnsureCause.CONNECTION_LOST)])
        results = [r async for r in p.publish_many(embed(n) for n in range(10))]
        assert sorted(r.state for r in results if isinstance(r, Receipt)).count(TaskState.SPOOLED) == 2
        await until(lambda: len(b.broker.task_ids()) == 10)


async def test_a_source_that_pauses_does_not_hold_back_receipts() -> None:
    gate = asyncio.Event()

    async def source() -> AsyncIterator[Task]:
        yield embed(1)
        await gate.wait()
        yield embed(2)

    b = bench()
    async with b.producer as p:
        await p.connected(1)
        stream = p.publish_many(source())
        first = await asyncio.wait_for(anext(stream), 1)
        assert isinstance(first, Receipt)
        gate.set()
        assert isinstance(await asyncio.wait_for(anext(stream), 1), Receipt)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_an_error_of_the_source_comes_after_the_receipts_of_what_it_gave() -> None:
    def source() -> Iterator[Task]:
        yield embed(1)
        raise OSError("the file ended badly")

    b = bench()
    async with b.producer as p:
        await p.connected(1)
        stream = p.publish_many(source())
        assert isinstance(await anext(stream), Receipt)
        with pytest.raises(OSError, match="ended badly"):
            await anext(stream)


async def test_an_abandoned_stream_leaves_nothing_under_way() -> None:
    b = bench()
    async with b.producer as p:
        await p.connected(1)
        b.broker.hold()
        stream = p.publish_many(embed(n) for n in range(100))
        pull = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0.02)
        pull.cancel()
        await asyncio.gather(pull, return_exceptions=True)
        b.broker.release()
        await asyncio.sleep(0.02)
        assert p.status().in_flight == 0
        receipt = await p.publish(embed("after"))
        assert receipt.confirmed


async def test_what_the_broker_answers_after_a_stream_was_given_up_is_kept_by_nobody() -> None:
    b = bench()
    async with b.producer as p:
        await p.connected(1)
        b.broker.hold()
        stream = p.publish_many(embed(n) for n in range(9))
        pull = asyncio.ensure_future(anext(stream))
        await until(lambda: p.status().in_flight == 9)
        pull.cancel()
        await asyncio.gather(pull, return_exceptions=True)
        b.broker.script.extend([Nacked()] * 9)
        b.broker.release()
        await until(lambda: p.status().in_flight == 0)
        receipt = await p.publish(embed("after"))
        assert receipt.confirmed
        assert (await b.places())["spool"] == []
        assert not b.told(TaskSpooled)


async def test_the_id_of_a_refused_task_is_free_while_its_stream_goes_on() -> None:
    b = bench(ml_spool_max_tasks=1, ml_accept_timeout=60)
    goes_on = asyncio.Event()

    async def source() -> AsyncIterator[Task]:
        yield embed("again", id="again")
        await goes_on.wait()

    async with asyncio.timeout(20), b.producer as p:
        await p.connected(1)
        b.broker.blocked = True
        assert (await p.publish(embed("fills it"))).state is TaskState.SPOOLED
        stream = p.publish_many(source())
        refused = await anext(stream)
        assert isinstance(refused, Refusal)
        with pytest.raises(SpoolFull):
            await p.publish(embed("again", id="again"))
        goes_on.set()
        assert [each async for each in stream] == []


async def test_an_id_that_comes_again_while_the_first_is_in_flight_gets_the_first_receipt() -> None:
    b = bench()
    async with b.producer as p:
        await p.connected(1)
        b.broker.hold()
        asyncio.get_running_loop().call_later(0.05, b.broker.release)
        async with asyncio.timeout(2):
            results = [r async for r in p.publish_many(embed(1, id="one") for _ in range(3))]
        assert [r.confirmed for r in results if isinstance(r, Receipt)] == [True] * 3
        assert b.broker.task_ids() == ["one"]


async def test_a_deferred_and_a_repeated_task_find_their_way_in_a_stream() -> None:
    b = bench()
    async with b.producer as p:
        await p.connected(1)
        results = [r async for r in p.publish_many([embed(1, id="one"), embed(1, id="one")])]
        assert len({r.task_id for r in results if isinstance(r, Receipt)}) == 1
        assert b.broker.task_ids() == ["one"]
