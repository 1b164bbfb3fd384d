"""A stream of tasks: each line is answered, by its number, and a wrong one fails alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
from hypothesis import given
from hypothesis import strategies as st

from http_bench import HttpBench, assert_problem, embed, embed_line, http_bench
from mlproducer.http.batch import Batch
from mlproducer.http.body import lines

NDJSON = {"Content-Type": "application/x-ndjson"}
BATCH = "/api/ml/tasks/batch"


async def test_each_line_is_answered_by_its_number() -> None:
    async with http_bench() as b:
        answers = await b.batch(*(embed_line(n, id=f"t{n}") for n in range(1, 501)), b"")
        assert sorted(each["line"] for each in answers) == list(range(1, 501))
        assert [each for each in answers if each["task_id"] != f"t{each['line']}" or each["state"] != "confirmed"] == []
        assert len(b.broker.task_ids()) == 500


async def test_one_wrong_line_fails_alone() -> None:
    async with http_bench(ml_max_message_bytes=2048) as b:
        answers = await b.batch(
            embed_line(1),
            b"{broken",
            b"",
            b"   ",
            embed_line(2, payload={"share_id": "s", "content": "x" * 5000}),
            b'{"task_type":"embed_vectors","payload":{"share_id":"s","content":"\xff"}}',
            embed_line(3, task_type="sing"),
            embed_line(4, payload={"share_id": "s"}),
            embed_line(5),
        )
        found = {each["line"]: each for each in answers}
        assert sorted(found) == [1, 2, 5, 6, 7, 8, 9]
        assert found[1]["state"] == found[9]["state"] == "confirmed"
        statuses = {line: each["error"]["status"] for line, each in found.items() if "error" in each}
        assert statuses == {2: 422, 5: 413, 6: 422, 7: 422, 8: 422}
        assert "ML_MAX_MESSAGE_BYTES" in found[5]["error"]["detail"]
        assert "UTF-8" in found[6]["error"]["detail"]
        assert found[7]["error"]["field"] == "task_type"
        assert found[8]["error"]["field"] == "payload.content"
        assert len(b.broker.task_ids()) == 2


async def test_one_id_on_several_lines_is_answered_on_each() -> None:
    async with http_bench() as b:
        answers = await b.batch(embed_line(1, id="x"), embed_line(1, id="x"), embed_line(2, id="x"))
        found = {each["line"]: each for each in answers}
        assert sorted(found) == [1, 2, 3]
        assert found[1]["task_id"] == found[2]["task_id"] == "x"
        assert found[3]["error"]["type"] == "urn:mlproducer:problem:task-conflict"
        assert b.broker.task_ids() == ["x"]


async def test_lines_are_spooled_when_the_broker_is_down_and_refused_when_the_spool_is_full() -> None:
    async with http_bench(down=True, ml_spool_max_tasks=2) as b:
        answers = await b.batch(*(embed_line(n) for n in range(5)))
        assert len(answers) == 5
        assert [each["state"] for each in answers if "state" in each] == ["spooled"] * 2
        refused = [each["error"] for each in answers if "error" in each]
        assert {each["type"] for each in refused} == {"urn:mlproducer:problem:spool-full"}
        assert all(each["retry_after"] > 0 for each in refused)


async def test_an_empty_stream_has_an_empty_answer() -> None:
    async with http_bench() as b:
        assert await b.batch(b"") == []


async def test_a_batch_of_another_media_type_or_without_a_started_producer_is_refused_whole() -> None:
    async with http_bench() as b:
        assert_problem(await b.client.post(BATCH, json=[embed()]), 415, "wrong-media-type")
    async with http_bench(start=False) as b:
        assert_problem(await b.client.post(BATCH, content=embed_line(), headers=NDJSON), 503, "not-accepting")


async def test_an_answer_comes_while_the_stream_is_still_open() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield embed_line(1, id="first") + b"\n"
        await go_on.wait()
        yield embed_line(2, id="second")

    go_on = asyncio.Event()
    async with http_bench() as b:
        answers = Batch(b.producer, 10_000, asyncio.Event()).run(chunks())
        assert json.loads(await anext(answers))["task_id"] == "first"
        go_on.set()
        assert json.loads(b"".join([each async for each in answers]))["task_id"] == "second"


async def test_a_caller_that_reads_nothing_is_in_the_end_not_read_from() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        while True:
            taken.append(1)
            yield b"{broken\n" if len(taken) % 2 else embed_line(len(taken)) + b"\n"

    taken: list[int] = []
    async with http_bench() as b:
        answers = Batch(b.producer, 10_000, asyncio.Event()).run(chunks())
        await anext(answers)
        seen = 0
        while seen < (seen := len(taken)):  # noqa: ASYNC110  # it is to stay as it is, and has no event
            await asyncio.sleep(0.3)
        assert len(taken) <= 4_000
        await answers.aclose()


async def call_and_leave(b: HttpBench, parts: list[bytes]) -> None:
    """A client that sends these parts of a stream and then leaves."""
    transport = b.client._transport
    assert isinstance(transport, httpx.ASGITransport)
    waiting = [{"type": "http.request", "body": part, "more_body": True} for part in parts]

    async def receive() -> dict[str, object]:
        await asyncio.sleep(0.01)
        return waiting.pop(0) if waiting else {"type": "http.disconnect"}

    async def send(message: dict[str, object]) -> None:
        del message

    scope = {
        "type": "http",
        "method": "POST",
        "path": BATCH,
        "raw_path": BATCH.encode(),
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/x-ndjson")],
        "scheme": "http",
    }
    await transport.app(scope, receive, send)  # type: ignore[arg-type]  # a client of our own making


async def test_a_client_that_leaves_has_its_whole_lines_published_and_not_the_half_one() -> None:
    async with http_bench() as b:
        await call_and_leave(
            b, [embed_line(1, id="a") + b"\n", embed_line(2, id="b") + b"\n" + embed_line(3, id="c")[:-5]]
        )
        assert sorted(b.broker.task_ids()) == ["a", "b"]
        assert b.producer.status().in_flight == 0


@given(
    parts=st.lists(st.binary(max_size=12).map(lambda raw: raw.replace(b"\x00", b"\n"))),
    limit=st.integers(1, 10),
)
def test_lines_are_the_same_however_the_stream_is_cut(parts: list[bytes], limit: int) -> None:
    async def collect(chunks: list[bytes]) -> list[tuple[int, bytes | None]]:
        async def source() -> AsyncIterator[bytes]:
            for chunk in chunks:
                yield chunk

        return [each async for each in lines(source(), limit)]

    whole = b"".join(parts)
    expected = whole.split(b"\n")
    if not expected[-1]:
        expected.pop()
    found = asyncio.run(collect(parts))
    assert found == [(n, line if len(line) <= limit else None) for n, line in enumerate(expected, 1)]
