"""Which tasks a share needs: one pure function, `plan`.

| task       | when                                                                            | content        |
|------------|---------------------------------------------------------------------------------|----------------|
| embedding  | there is text                                                                   | title and text |
| summary    | the text has `min_summary_chars` characters or more                             | text           |
| transcript | `media_url` is audio or video, by `media_type` or by its ending                 | the media URL  |

Each can be switched off by the share's options. A share with nothing to do has an empty plan, which is no error.

Task ids are deterministic: UUID 5 of the share's id, the kind of task, and a fingerprint of all that the worker will
see. So the same share gives the same tasks, which the producer accepts once; an edited share gives new tasks for
what was edited, and only for that: a new title does not transcribe an hour of audio again. `root_id` and `group`
depend on the share's id alone, and `group_index` on the kind alone (it may have gaps), because the producer refuses
a known id with other content, and these are content.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final
from uuid import UUID, uuid5

from mlproducer.errors import InvalidTask
from mlproducer.shares.media import MediaKind, check_media_url, media_kind
from mlproducer.shares.share import Share
from mlproducer.task import Task
from mlproducer.values.convert import taken
from mlproducer.values.kombu import coded

NAMESPACE: Final = UUID("8f0c7a52-6d0e-5f4b-9d0b-2c8a4f6f6f11")
"""Ours; never changed, or every share would be processed again."""

EMBEDDING: Final = "embed_vectors"
SUMMARY: Final = "summarize_llm"
TRANSCRIPT: Final = "transcribe_whisper"
_INDEX: Final = {EMBEDDING: 0, SUMMARY: 1, TRANSCRIPT: 2}


@dataclass(frozen=True, slots=True)
class Preferences:
    """What holds for all shares. A backend of None is the task type's preferred one (`PREFERRED_LLM_BACKEND` …)."""

    embedding_backend: str | None = None
    summarization_backend: str | None = None
    transcription_backend: str | None = None
    min_summary_chars: int = 280
    """Characters. Two or three sentences, the length of a short post: what is no longer than that is its own
    summary, and a model would only say it again at a price."""
    allow_private_media: bool = False
    """ML_ALLOW_PRIVATE_MEDIA."""


def plan(share: Share, preferences: Preferences) -> tuple[Task, ...]:
    """The tasks of `share`, in the order embedding, summary, transcript.

    Raises: InvalidTask, if its media address may not be fetched, whatever its other parts need: a share is planned
        whole or not at all.
    """
    wanted, text = share.options, share.text.strip()
    checked_media(share, preferences)
    tasks = []
    if wanted.embed and text:
        tasks.append(embedding(share, preferences))
    if wanted.summarize and text and len(text) >= preferences.min_summary_chars:
        tasks.append(summary(share, preferences))
    if wanted.transcribe and kind_of(share) in {MediaKind.AUDIO, MediaKind.VIDEO}:
        tasks.append(transcript(share, preferences))
    return tuple(tasks)


def embedding(share: Share, preferences: Preferences) -> Task:
    """Raises: InvalidTask, if there is neither text nor title."""
    content = "\n\n".join(part for part in (share.title.strip(), share.text.strip()) if part)
    if not content:
        raise InvalidTask("there is no text to embed", field="text")
    return _task(share, EMBEDDING, content, share.options.embedding_backend or preferences.embedding_backend)


def summary(share: Share, preferences: Preferences) -> Task:
    """However short the text is. Raises: InvalidTask, if there is none."""
    content = share.text.strip()
    if not content:
        raise InvalidTask("there is no text to summarise", field="text")
    return _task(share, SUMMARY, content, share.options.summarization_backend or preferences.summarization_backend)


def transcript(share: Share, preferences: Preferences) -> Task:
    """Of media of an unknown kind too. Raises: InvalidTask, if there is no media, or none that can be heard."""
    media_url = checked_media(share, preferences)
    if media_url is None:
        raise InvalidTask("there is no media to transcribe", field="media_url")
    if kind_of(share) is MediaKind.OTHER:
        raise InvalidTask("only audio and video can be transcribed", field="media_type")
    return _task(share, TRANSCRIPT, media_url, share.options.transcription_backend or preferences.transcription_backend)


def checked_media(share: Share, preferences: Preferences) -> str | None:
    """The media URL, or None where the share has none. Raises: InvalidTask."""
    if not share.media_url:
        return None
    check_media_url(share.media_url, allow_private=preferences.allow_private_media)
    return share.media_url


def kind_of(share: Share) -> MediaKind:
    return media_kind(share.media_type, share.media_url) if share.media_url else MediaKind.OTHER


def group_of(share_id: str) -> str:
    """The `root_id` and `group` of all tasks of a share."""
    return str(uuid5(NAMESPACE, f"share:{share_id}"))


def _task(share: Share, kind: str, content: str, backend: str | None) -> Task:
    options = taken(share.options.worker, "options.worker")
    if share.options.language is not None:
        options["language"] = share.options.language
    payload = {"share_id": share.id, "content": content, "options": options}
    group = group_of(share.id)
    return Task(
        task_type=kind,
        payload=payload,
        backend=backend,
        id=str(uuid5(UUID(group), f"{kind}:{_fingerprint(payload, backend)}")),
        root_id=group,
        group=group,
        group_index=_INDEX[kind],
        headers=share.headers,
    )


def _fingerprint(payload: dict[str, Any], backend: str | None) -> str:
    """Sorted keys: the order in which a caller's JSON had them is no difference."""
    return sha256(json.dumps([coded(payload), backend], sort_keys=True).encode()).hexdigest()
