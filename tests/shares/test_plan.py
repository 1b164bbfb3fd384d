from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlproducer.envelope.encode import Encoder
from mlproducer.envelope.types import TaskTypes
from mlproducer.errors import InvalidTask
from mlproducer.shares import Preferences, Share, ShareOptions, parse_share, plan
from mlproducer.shares.plan import EMBEDDING, SUMMARY, TRANSCRIPT, embedding, summary, transcript

LONG = "A sentence of some words. " * 20
AUDIO = "https://cdn.example.com/talk.mp3"
DEFAULT = Preferences()
GROUP = "07ac8e35-c8cf-5e2a-8daf-6c93d756daea"
IDS = [
    "e3d59878-2545-5b90-b809-29fd8a2f9769",
    "f10181cf-2299-5f1f-a2d7-7a742a17bd23",
    "360885c3-2d61-59c9-bf19-3fce8345d344",
]
ENCODER = Encoder(TaskTypes.builtin(), "test", 1_000_000)


def kinds(preferences: Preferences = DEFAULT, /, **share: Any) -> list[str]:
    return [task.task_type for task in plan(parse_share({"id": "s-1", **share}), preferences)]


def test_a_long_text_is_embedded_and_summarised() -> None:
    assert kinds(text=LONG) == [EMBEDDING, SUMMARY]


def test_a_short_text_is_its_own_summary() -> None:
    assert kinds(text="Hello, world.") == [EMBEDDING]


def test_the_length_that_is_worth_a_summary_is_a_preference() -> None:
    assert kinds(text="x" * 279) == [EMBEDDING]
    assert kinds(text="x" * 280) == [EMBEDDING, SUMMARY]
    assert kinds(Preferences(min_summary_chars=5), text="x" * 5) == [EMBEDDING, SUMMARY]
    assert kinds(Preferences(min_summary_chars=0), text="") == []


def test_blanks_are_no_text() -> None:
    assert kinds(text=" \n\t" * 500, title="A title") == []


@pytest.mark.parametrize(
    "media",
    [
        {"media_url": AUDIO},
        {"media_url": "https://cdn.example.com/x", "media_type": "video"},
        {"media_url": "s3://bucket/x", "media_type": "audio/wav"},
    ],
)
def test_audio_and_video_are_transcribed(media: dict[str, Any]) -> None:
    assert kinds(**media) == [TRANSCRIPT]
    assert kinds(text=LONG, **media) == [EMBEDDING, SUMMARY, TRANSCRIPT]


@pytest.mark.parametrize(
    "media",
    [
        {"media_type": "audio"},
        {"media_type": "audio", "media_url": ""},
        {"media_url": "https://cdn.example.com/x.png"},
        {"media_url": AUDIO, "media_type": "image/png"},
    ],
)
def test_without_audio_or_video_that_can_be_fetched_nothing_is_transcribed(media: dict[str, Any]) -> None:
    assert kinds(**media) == []


def test_a_user_can_switch_each_off() -> None:
    everything: dict[str, Any] = {"text": LONG, "media_url": AUDIO}
    assert kinds(**everything, options={"embed": False}) == [SUMMARY, TRANSCRIPT]
    assert kinds(**everything, options={"summarize": False}) == [EMBEDDING, TRANSCRIPT]
    assert kinds(**everything, options={"transcribe": False}) == [EMBEDDING, SUMMARY]


def test_an_inward_media_address_refuses_the_share_whole() -> None:
    for options in ({}, {"transcribe": False}):
        with pytest.raises(InvalidTask) as caught:
            kinds(text=LONG, media_url="http://169.254.169.254/a.mp3", options=options)
        assert caught.value.field == "media_url"
    allowed = Preferences(allow_private_media=True)
    assert kinds(allowed, media_url="http://10.0.0.1/a.mp3") == [TRANSCRIPT]


def test_the_embedding_has_title_and_text_and_the_summary_the_text() -> None:
    share = Share(id="s-1", title=" A title ", text=f" {LONG} ")
    assert embedding(share, DEFAULT).payload["content"] == f"A title\n\n{LONG.strip()}"
    assert summary(share, DEFAULT).payload["content"] == LONG.strip()


def test_a_workers_payload_is_share_content_and_options() -> None:
    options = ShareOptions(language="de", worker={"max_chars": 120})
    task = transcript(Share(id="s-1", media_url=AUDIO, options=options), DEFAULT)
    assert task.payload == {"share_id": "s-1", "content": AUDIO, "options": {"max_chars": 120, "language": "de"}}


def test_a_shares_backend_comes_before_the_preferred_one() -> None:
    preferred = Preferences("local", "local", "local")
    share = Share(id="s-1", text=LONG, media_url=AUDIO, options=ShareOptions(transcription_backend="api"))
    assert [task.backend for task in plan(share, preferred)] == ["local", "local", "api"]
    assert [task.backend for task in plan(share, DEFAULT)] == [None, None, "api"]


def test_the_tasks_of_a_share_are_one_group() -> None:
    tasks = plan(Share(id="s-1", text=LONG, media_url=AUDIO), DEFAULT)
    assert len({task.group for task in tasks}) == 1
    assert {task.root_id for task in tasks} == {task.group for task in tasks}
    assert [task.group_index for task in tasks] == [0, 1, 2]
    assert len({task.id for task in tasks}) == 3
    assert all(UUID(task.id).version == 5 for task in tasks)


def test_task_ids_never_change_between_releases() -> None:
    """An id that changed would make every share that is processed again a new one."""
    tasks = plan(Share(id="s-1", title="T", text="x" * 280, media_url=AUDIO), DEFAULT)
    assert [task.id for task in tasks] == IDS
    assert tasks[0].group == GROUP


def ids(share: Share) -> dict[str, str]:
    return {task.task_type: task.id for task in plan(share, DEFAULT)}


def test_an_edit_gives_new_ids_to_what_it_changes_and_to_nothing_else() -> None:
    share = Share(id="s-1", title="Old", text=LONG, media_url=AUDIO)
    before = ids(share)
    retitled = ids(share.model_copy(update={"title": "New"}))
    assert retitled[EMBEDDING] != before[EMBEDDING]
    assert (retitled[SUMMARY], retitled[TRANSCRIPT]) == (before[SUMMARY], before[TRANSCRIPT])
    rewritten = ids(share.model_copy(update={"text": LONG + "More."}))
    assert (rewritten[EMBEDDING], rewritten[SUMMARY]) != (before[EMBEDDING], before[SUMMARY])
    assert rewritten[TRANSCRIPT] == before[TRANSCRIPT]
    other_options = ids(share.model_copy(update={"options": ShareOptions(language="de")}))
    assert not set(other_options.values()) & set(before.values())
    assert not set(ids(share.model_copy(update={"id": "s-2"})).values()) & set(before.values())


def test_where_a_share_was_found_is_no_content() -> None:
    here = Share(id="s-1", text=LONG, url="https://a.example/", platform="a")
    there = Share(id="s-1", text=LONG, url="https://b.example/", platform="b")
    assert ids(here) == ids(there)


def test_the_order_of_options_is_no_difference() -> None:
    one = Share(id="s-1", text="x", options=ShareOptions(worker={"a": 1, "b": 2}))
    other = Share(id="s-1", text="x", options=ShareOptions(worker={"b": 2, "a": 1}))
    assert ids(one) == ids(other)


@pytest.mark.parametrize(
    "value", [float("nan"), 10**5_000, {"__type__": "datetime", "__value__": "x"}], ids=["nan", "huge", "kombu"]
)
def test_worker_options_that_json_cannot_carry_are_named(value: Any) -> None:
    share = Share(id="s-1", text="x", options=ShareOptions.model_construct(worker={"deep": {"one": value}}))
    with pytest.raises(InvalidTask) as caught:
        plan(share, DEFAULT)
    assert caught.value.field is not None
    assert caught.value.field.startswith("options.worker.deep")


def test_a_single_task_can_be_asked_for_whatever_the_plan_says() -> None:
    share = Share(id="s-1", text="short", media_url="https://e.com/x", options=ShareOptions(summarize=False))
    assert summary(share, DEFAULT).task_type == SUMMARY
    assert transcript(share, DEFAULT).payload["content"] == "https://e.com/x"
    assert embedding(Share(id="s-1", title="Only a title"), DEFAULT).payload["content"] == "Only a title"


def test_a_single_task_is_the_same_task_as_the_plans() -> None:
    share = Share(id="s-1", text=LONG, media_url=AUDIO)
    assert (embedding(share, DEFAULT), summary(share, DEFAULT), transcript(share, DEFAULT)) == plan(share, DEFAULT)


@pytest.mark.parametrize(
    ("make", "share", "field"),
    [
        (embedding, {}, "text"),
        (summary, {"title": "Only a title"}, "text"),
        (transcript, {}, "media_url"),
        (transcript, {"media_url": AUDIO, "media_type": "image"}, "media_type"),
        (transcript, {"media_url": "http://localhost/a.mp3"}, "media_url"),
    ],
)
def test_a_single_task_with_nothing_to_work_on_is_refused(make: Any, share: dict[str, str], field: str) -> None:
    with pytest.raises(InvalidTask) as caught:
        make(parse_share({"id": "s-1", **share}), DEFAULT)
    assert caught.value.field == field


_TEXT = st.text(st.characters(codec="utf-8"), max_size=400)
_SHARES = st.builds(
    Share,
    id=_TEXT.filter(lambda text: 0 < len(text) <= 255),
    title=_TEXT,
    text=_TEXT,
    media_url=st.sampled_from([None, AUDIO, "s3://bucket/film.mkv", "https://e.com/picture.png"]),
    media_type=st.sampled_from([None, "audio", "video/mp4", "image/png"]),
    options=st.builds(
        ShareOptions,
        language=st.sampled_from([None, "de"]),
        embed=st.booleans(),
        summarize=st.booleans(),
        transcribe=st.booleans(),
        transcription_backend=st.sampled_from([None, "local"]),
    ),
)


@given(_SHARES)
def test_every_plan_can_be_encoded_and_is_the_same_each_time(share: Share) -> None:
    tasks = plan(share, DEFAULT)
    again = plan(parse_share(json.loads(share.model_dump_json())), DEFAULT)
    assert tasks == again
    assert len({task.id for task in tasks}) == len(tasks) <= 3
    for task in tasks:
        envelope = ENCODER.encode(task)
        assert envelope.task_id == task.id
        assert envelope == ENCODER.encode(again[tasks.index(task)])


_ALIKE = st.builds(
    Share,
    id=st.sampled_from(["a", "b"]),
    title=st.sampled_from(["", "T"]),
    text=st.sampled_from(["", "T", "x" * 300]),
    media_url=st.sampled_from([None, AUDIO]),
    options=st.builds(
        ShareOptions, language=st.sampled_from([None, "de"]), transcription_backend=st.sampled_from([None, "local"])
    ),
)
"""Few values, so that two of them often have a task in common."""


@given(_ALIKE, _ALIKE)
def test_two_tasks_have_one_id_only_if_they_are_one_task(one: Share, other: Share) -> None:
    for mine in plan(one, DEFAULT):
        for theirs in plan(other, DEFAULT):
            assert (mine.id == theirs.id) == (mine == theirs)
