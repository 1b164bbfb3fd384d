"""The example worker's own work, without a broker."""

import json
import math
import struct
import wave
from pathlib import Path

import pytest
from examples.worker import app as worker
from examples.worker.sound import Measured, measure, resolve
from examples.worker.summary import split_sentences, summarize
from examples.worker.vectors import DIMENSIONS, cosine, embed

from mlproducer.envelope.types import TaskTypes

_FILE = Path(worker.__file__).parents[1] / "shares.ndjson"
SHARES = [json.loads(line) for line in _FILE.read_text(encoding="utf-8").splitlines()]


def _tone(path: Path, spans: list[tuple[float, float]], *, rate: int = 8000, level: float = 0.5) -> Path:
    """A WAV of 200 Hz at `level` of full scale and of silence: (seconds, 1 or 0) after each other."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        for seconds, on in spans:
            for n in range(round(seconds * rate)):
                file.writeframesraw(
                    struct.pack("<h", round(on * level * 32767 * math.sin(2 * math.pi * 200 * n / rate)))
                )
    return path


def test_worker_handles_every_builtin_celery_task_on_every_builtin_queue() -> None:
    types = TaskTypes.builtin()
    wanted = {route.celery_task for each in types for route in each.routes.values()}
    assert wanted == set(worker.TASKS)
    assert set(types.queues) == {queue.name for queue in worker.app.conf.task_queues}
    assert wanted <= set(worker.app.tasks)


def test_shares_are_many_languages_lengths_and_unique() -> None:
    assert len(SHARES) >= 50
    assert len({share["id"] for share in SHARES}) == len(SHARES)
    lengths = [len(share["text"]) for share in SHARES]
    assert min(lengths) < 30
    assert max(lengths) > 1000
    assert sum(n > 280 for n in lengths) >= 20
    assert all(share["title"] and share["url"].startswith("https://") for share in SHARES)
    assert any(ord(c) > 0x4E00 for share in SHARES for c in share["text"])


@pytest.mark.parametrize("share", [s for s in SHARES if s["text"]], ids=lambda s: str(s["id"]))
def test_each_share_can_be_summarized_and_embedded(share: dict[str, str]) -> None:
    summary = summarize(share["text"])
    words = " ".join(share["text"].split())
    assert summary.sentences
    assert all(sentence in words for sentence in summary.sentences)
    assert summary.kept <= len(words)
    vector = embed(share["text"])
    assert len(vector) == DIMENSIONS
    assert math.isclose(math.hypot(*vector), 1.0, rel_tol=1e-9)


def test_summary_takes_the_sentence_that_says_most_of_the_theme() -> None:
    text = "It was late. The whale rose and the whale dived, and every whale followed. Nobody spoke of it. We slept."
    assert summarize(text, limit=70).text == "The whale rose and the whale dived, and every whale followed."


def test_summary_keeps_the_order_of_the_text_and_its_limit() -> None:
    text = "Ships sail far. The harbour is full of ships. Ships come home from the harbour. Cats sleep."
    found = summarize(text, limit=60)
    assert found.kept <= 60
    assert [text.index(s) for s in found.sentences] == sorted(text.index(s) for s in found.sentences)


def test_abbreviations_and_initials_end_no_sentence() -> None:
    assert split_sentences("Mrs. Reed sat on H.M.S. Beagle. Dr. Watson left.") == [
        "Mrs. Reed sat on H.M.S. Beagle.",
        "Dr. Watson left.",
    ]


def test_chinese_sentences_are_told_apart() -> None:
    assert split_sentences("床前明月光，疑是地上霜。舉頭望明月，低頭思故鄉。") == [
        "床前明月光，疑是地上霜。",
        "舉頭望明月，低頭思故鄉。",
    ]


@pytest.mark.parametrize("text", ["", " \n", "... 12 !!"])
def test_text_without_words_cannot_be_summarized(text: str) -> None:
    with pytest.raises(ValueError, match="no words"):
        summarize(text)


def test_text_without_letters_or_digits_cannot_be_embedded() -> None:
    with pytest.raises(ValueError, match="no letters"):
        embed("— … !")


def test_vectors_of_like_texts_are_near_and_of_unlike_ones_are_not() -> None:
    near = cosine(embed("the old whale swam north"), embed("the old whales swam northwards"))
    far = cosine(embed("the old whale swam north"), embed("Aufklärung ist der Ausgang des Menschen"))
    assert near > 0.5
    assert far < near / 2
    assert embed("Same text") == embed("same  TEXT!")


def test_a_tone_is_measured_as_loud_as_it_is(tmp_path: Path) -> None:
    found = measure(_tone(tmp_path / "tone.wav", [(0.5, 0), (1.0, 1), (0.5, 0), (0.5, 1), (0.5, 0)]))
    assert found.seconds == pytest.approx(3.0)
    assert found.sample_rate == 8000
    assert found.peak_dbfs == pytest.approx(20 * math.log10(0.5), abs=0.1)
    assert found.rms_dbfs == pytest.approx(20 * math.log10(0.5 / math.sqrt(2) * math.sqrt(0.5)), abs=0.1)
    assert [(round(s.start, 1), round(s.end, 1)) for s in found.segments] == [(0.5, 1.5), (2.0, 2.5)]
    assert found.speech_seconds == pytest.approx(1.5, abs=0.05)


def test_silence_has_no_segments_and_the_lowest_level(tmp_path: Path) -> None:
    assert measure(_tone(tmp_path / "still.wav", [(1.0, 0)])) == Measured(1.0, 8000, -96.0, -96.0, ())


def test_a_short_gap_does_not_end_a_segment_and_a_click_is_none(tmp_path: Path) -> None:
    found = measure(_tone(tmp_path / "gap.wav", [(0.04, 1), (1.0, 0), (0.5, 1), (0.2, 0), (0.5, 1)]))
    assert [(round(s.start, 1), round(s.end, 1)) for s in found.segments] == [(1.0, 2.2)]


def test_the_shipped_recording_has_three_stretches_of_speech() -> None:
    result = worker.measure_media("7", {"mediaUrl": "s3://mlproducer-examples/speech.wav"})
    assert result["transcript"] is None
    assert result["sample_rate"] == 16000
    assert 7 < result["seconds"] < 10
    assert len(result["segments"]) == 3


@pytest.mark.parametrize(
    "reference",
    [
        "https://example.org/speech.wav",
        "s3://mlproducer-examples/",
        "s3://mlproducer-examples/../pyproject.toml",
        "s3://mlproducer-examples/.hidden",
        "s3://mlproducer-examples/none.wav",
        "s3://other/speech.wav",
    ],
)
def test_the_worker_reads_only_recordings_of_the_examples_folder(reference: str) -> None:
    with pytest.raises(ValueError, match="example"):
        resolve(reference)


def test_a_file_that_is_no_wav_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "no.wav").write_bytes(b"RIFF, or not")
    with pytest.raises(ValueError, match=r"no\.wav is no WAV file"):
        measure(tmp_path / "no.wav")


def test_a_batch_is_embedded_item_by_item() -> None:
    result = worker.embed_many([{"share_id": one[0], "content": {"text": one}} for one in ("a one", "b two")])
    assert [(v["share_id"], v["vector"]) for v in result["vectors"]] == [("a", embed("a one")), ("b", embed("b two"))]


def test_a_finished_task_is_noted_and_a_failed_one_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.ndjson"
    monkeypatch.setattr(worker.append, "__defaults__", (str(path),))
    task = worker.app.tasks["llm_service.tasks.summarize_content"]
    task.apply(kwargs={"share_id": "1", "content": {"text": "A whale. A ship."}}, task_id="t1")
    task.apply(kwargs={"share_id": "2", "content": {"text": ""}}, task_id="t2")
    first, second = map(json.loads, path.read_text().splitlines())
    assert (first["task_id"], first["state"], first["result"]["share_id"]) == ("t1", "done", "1")
    assert (second["task_id"], second["state"]) == ("t2", "failed")
    assert "no words" in second["error"]
