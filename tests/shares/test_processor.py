from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from pydantic import SecretStr

from mlproducer.errors import InvalidTask, RefusedTask, SpoolFull, SpoolUnavailable, TaskTooLarge
from mlproducer.settings import Settings
from mlproducer.shares import Preferences, Share, ShareIncomplete, ShareOptions, ShareProcessor, parse_share, plan
from mlproducer.shares.plan import EMBEDDING, SUMMARY, TRANSCRIPT
from mlproducer.task import Receipt, Task, TaskState

SHARE = Share(id="s-1", title="T", text="A sentence of some words. " * 20, media_url="https://cdn.example.com/talk.mp3")
SETTINGS = Settings(rabbitmq_url=SecretStr("amqp://u:p@localhost/"))


class Publisher:
    """Gives receipts; refuses the task types that `refusing` names."""

    def __init__(self) -> None:
        self.published: list[Task] = []
        self.refusing: dict[str, RefusedTask] = {}
        self.gate: asyncio.Event | None = None

    async def __call__(self, task: Task) -> Receipt:
        if self.gate is not None:
            await self.gate.wait()
        if task.task_type in self.refusing:
            raise self.refusing[task.task_type]
        self.published.append(task)
        return Receipt(task.id, task.task_type, TaskState.CONFIRMED, accepted_at=float(len(self.published)))

    @property
    def kinds(self) -> list[str]:
        return sorted(task.task_type for task in self.published)


@pytest.fixture
def publisher() -> Publisher:
    return Publisher()


async def test_a_share_is_published_as_one_group(publisher: Publisher) -> None:
    done = await ShareProcessor(publisher).process(SHARE)
    assert done.share_id == "s-1"
    assert [receipt.task_type for receipt in done.receipts] == [EMBEDDING, SUMMARY, TRANSCRIPT]
    assert {(task.root_id, task.group) for task in publisher.published} == {(done.root_id, done.group)}


async def test_the_same_share_gets_its_first_receipts_and_publishes_nothing(publisher: Publisher) -> None:
    processor = ShareProcessor(publisher)
    first = await processor.process(SHARE)
    again = await processor.process(parse_share(SHARE.model_dump()))
    assert again == first
    assert len(publisher.published) == 3


async def test_an_edited_share_publishes_only_what_the_edit_changed(publisher: Publisher) -> None:
    processor = ShareProcessor(publisher)
    await processor.process(SHARE)
    publisher.published.clear()
    await processor.process(SHARE.model_copy(update={"title": "Another"}))
    assert publisher.kinds == [EMBEDDING]


async def test_a_forgotten_share_is_published_again_under_the_same_ids(publisher: Publisher) -> None:
    processor = ShareProcessor(publisher, remembered=3)
    first = await processor.process(SHARE)
    await processor.process(Share(id="s-2", text="short"))
    await processor.process(SHARE)
    assert len(publisher.published) > 4
    assert {task.id for task in publisher.published if task.payload["share_id"] == "s-1"} == {
        receipt.task_id for receipt in first.receipts
    }


async def test_its_memory_is_bounded_and_drops_what_was_not_used_longest(publisher: Publisher) -> None:
    processor = ShareProcessor(publisher, remembered=2)
    one, two, three = (Share(id=f"s-{i}", text="short") for i in range(3))
    for share in (one, two, one, three, one):
        await processor.process(share)
    assert len(publisher.published) == 3
    await processor.process(two)
    assert len(publisher.published) == 4
    assert len(processor._recent) == 2


async def test_a_share_with_nothing_to_do_has_no_receipts(publisher: Publisher) -> None:
    done = await ShareProcessor(publisher).process(Share(id="s-1", title="A picture", media_type="image"))
    assert done.receipts == ()


async def test_nothing_is_published_of_a_share_whose_media_is_refused(publisher: Publisher) -> None:
    with pytest.raises(InvalidTask) as caught:
        await ShareProcessor(publisher).process(SHARE.model_copy(update={"media_url": "http://localhost/a.mp3"}))
    assert caught.value.field == "media_url"
    assert publisher.published == []


async def test_nothing_is_published_of_a_share_of_which_one_task_is_wrong(publisher: Publisher) -> None:
    processor = ShareProcessor.from_settings(publisher, SETTINGS)
    wrong = SHARE.model_copy(update={"options": ShareOptions(transcription_backend="gpu")})
    with pytest.raises(InvalidTask) as caught:
        await processor.process(wrong)
    assert caught.value.field == "backend"
    assert publisher.published == []


async def test_nothing_is_published_of_a_share_whose_text_is_too_large(publisher: Publisher) -> None:
    processor = ShareProcessor.from_settings(publisher, Settings(ml_max_message_bytes=2_048))
    with pytest.raises(TaskTooLarge):
        await processor.process(SHARE.model_copy(update={"text": "word " * 1_000}))
    assert publisher.published == []


async def test_settings_say_whether_private_media_are_taken(publisher: Publisher) -> None:
    inside = Share(id="s-1", media_url="http://minio:9000/a.wav")
    with pytest.raises(InvalidTask):
        await ShareProcessor.from_settings(publisher, SETTINGS).process(inside)
    open_settings = Settings(ml_allow_private_media=True)
    done = await ShareProcessor.from_settings(publisher, open_settings).process(inside)
    assert len(done.receipts) == 1


async def test_the_users_task_types_of_the_settings_are_known(publisher: Publisher, tmp_path: Path) -> None:
    types = tmp_path / "types.toml"
    types.write_text(
        '[task_types.transcribe_whisper]\npreferred = "gpu"\n'
        'routes.gpu = {celery_task = "mine.transcribe", queue = "mine"}\n'
        '[task_types.transcribe_whisper.fields]\nshare_id = "string"\ncontent = "string"\noptions = "object"\n'
    )
    processor = ShareProcessor.from_settings(publisher, Settings(ml_task_types=types))
    share = SHARE.model_copy(update={"options": ShareOptions(transcription_backend="gpu")})
    assert len((await processor.process(share)).receipts) == 3


async def test_a_refusal_of_all_is_that_refusal(publisher: Publisher) -> None:
    full = SpoolFull("full", retry_after=5.0)
    publisher.refusing = dict.fromkeys((EMBEDDING, SUMMARY, TRANSCRIPT), full)
    with pytest.raises(SpoolFull) as caught:
        await ShareProcessor(publisher).process(SHARE)
    assert caught.value is full


async def test_a_refusal_in_the_middle_says_what_was_accepted_and_a_retry_completes_it(publisher: Publisher) -> None:
    processor = ShareProcessor(publisher)
    planned = {task.task_type: task.id for task in plan(SHARE, Preferences())}
    publisher.refusing = {
        SUMMARY: SpoolFull("the spool is full", retry_after=7.0),
        TRANSCRIPT: SpoolUnavailable("the disk is full", retry_after=3.0),
    }
    with pytest.raises(ShareIncomplete) as caught:
        await processor.process(SHARE)
    error = caught.value
    assert [receipt.task_id for receipt in error.receipts] == [planned[EMBEDDING]]
    assert error.refused == {planned[kind]: refusal for kind, refusal in publisher.refusing.items()}
    assert error.retry_after == 7.0
    assert "1 of 3" in str(error)

    publisher.refusing = {}
    done = await processor.process(SHARE)
    assert [receipt.task_id for receipt in done.receipts] == list(planned.values())
    assert done.receipts[0] == error.receipts[0]
    assert sorted(task.id for task in publisher.published) == sorted(planned.values()), "each was published once"


async def test_the_tasks_of_a_share_are_published_side_by_side(publisher: Publisher) -> None:
    publisher.gate = asyncio.Event()
    waiting = 0

    async def publish(task: Task) -> Receipt:
        nonlocal waiting
        waiting += 1
        return await publisher(task)

    job = asyncio.create_task(ShareProcessor(publish).process(SHARE))
    await asyncio.sleep(0.01)
    assert waiting == 3
    publisher.gate.set()
    assert len((await job).receipts) == 3


async def test_a_cancelled_call_leaves_a_memory_that_a_retry_completes(publisher: Publisher) -> None:
    processor = ShareProcessor(publisher)
    await processor.embed(SHARE)
    publisher.gate = asyncio.Event()
    job = asyncio.create_task(processor.process(SHARE))
    await asyncio.sleep(0.01)
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    publisher.gate.set()
    done = await processor.process(SHARE)
    assert len(done.receipts) == 3
    assert publisher.kinds == sorted([EMBEDDING, SUMMARY, TRANSCRIPT])


async def test_single_calls_publish_that_task_alone(publisher: Publisher) -> None:
    processor = ShareProcessor(publisher)
    for call, kind in (
        (processor.embed, EMBEDDING),
        (processor.summarize, SUMMARY),
        (processor.transcribe, TRANSCRIPT),
    ):
        done = await call(SHARE)
        assert [receipt.task_type for receipt in done.receipts] == [kind]
    whole = await processor.process(SHARE)
    assert len(whole.receipts) == len(publisher.published) == 3, "the single tasks are those of the plan"


async def test_an_error_that_is_no_refusal_is_not_hidden() -> None:
    async def broken(_task: Task) -> Receipt:
        raise ZeroDivisionError

    with pytest.RaisesGroup(ZeroDivisionError):
        await ShareProcessor(broken).process(Share(id="s-1", text="short"))
