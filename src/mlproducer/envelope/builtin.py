"""The task types that mlproducer knows by itself, and the fields of their payloads."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from mlproducer.envelope.tasktype import Route, TaskType
from mlproducer.errors import SettingsError

ShareId = Annotated[str, Field(min_length=1, max_length=255)]
Text = Annotated[str, Field(min_length=1)]
"""Bounded by the envelope's limit (`ML_MAX_MESSAGE_BYTES`), not by a limit of its own."""
MediaReference = Annotated[str, Field(min_length=1, max_length=8192)]
"""A URL or the worker's own reference, never the media itself; signed URLs take a few KiB."""
Options = dict[str, JsonValue]


class _Payload(BaseModel):
    """What all payloads share: an unknown field is refused, and no error shows the content."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class SummarizeFields(_Payload):
    share_id: ShareId
    content: Text
    options: Options = Field(default_factory=dict)


class TranscribeFields(_Payload):
    share_id: ShareId
    content: MediaReference
    options: Options = Field(default_factory=dict)


class EmbedFields(_Payload):
    share_id: ShareId
    content: Text
    options: Options = Field(default_factory=dict)


class EmbedItem(_Payload):
    share_id: ShareId
    content: Text


class EmbedBatchFields(_Payload):
    items: Annotated[list[EmbedItem], Field(min_length=1, max_length=1000)]
    options: Options = Field(default_factory=dict)


def builtin_types(*, preferred_llm: str, preferred_stt: str, preferred_embedding: str) -> tuple[TaskType, ...]:
    """The built-in types with the preferred backends of the settings.

    The vector service has one queue and chooses its model itself, so both backends of the embedding types take the
    same route: a system that says `PREFERRED_EMBEDDING_BACKEND=local` must not fail over it.

    Raises: SettingsError, naming the setting.
    """
    summarize = {
        "api": Route("llm_service.tasks.summarize_content", "ml.summarize"),
        "local": Route("llm_service.tasks.summarize_content_local", "ml.summarize_local"),
    }
    transcribe = {
        "api": Route("whisper.tasks.transcribe_api", "ml.transcribe"),
        "local": Route("whisper.tasks.transcribe_local", "ml.transcribe_local"),
    }
    embed = dict.fromkeys(("api", "local"), Route("vector_service.tasks.generate_embeddings", "ml.embed"))
    embed_batch = dict.fromkeys(("api", "local"), Route("vector_service.tasks.generate_embeddings_batch", "ml.embed"))
    for setting, preferred, routes in (
        ("PREFERRED_LLM_BACKEND", preferred_llm, summarize),
        ("PREFERRED_STT", preferred_stt, transcribe),
        ("PREFERRED_EMBEDDING_BACKEND", preferred_embedding, embed),
    ):
        if preferred not in routes:
            raise SettingsError(f"{setting}: there is no backend {preferred!r}; choose {' or '.join(routes)}")
    return (
        TaskType("summarize_llm", summarize, SummarizeFields, preferred_llm),
        TaskType("transcribe_whisper", transcribe, TranscribeFields, preferred_stt),
        TaskType("embed_vectors", embed, EmbedFields, preferred_embedding),
        TaskType("embed_vectors_batch", embed_batch, EmbedBatchFields, preferred_embedding),
    )
