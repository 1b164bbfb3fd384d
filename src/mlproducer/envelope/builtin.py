"""The task types that mlproducer knows by itself: what a caller may give, and what their workers are given.

The workers take keyword arguments, and `content` is an object for them. A caller gives the object, or the bare text or
address that is its first field. The rest is filled in here, so that every worker sees the one shape:

| task type | `content` | filled in |
|---|---|---|
| `summarize_llm` | `text`; `title`, `url`, `contentType` | |
| `transcribe_whisper` | `mediaUrl` | `options.normalize` true |
| `embed_vectors` | `text`; `type`, `metadata` | `type` caption, `metadata` {}, `options.embedding_type` content |
| `embed_vectors_batch` | in each of `tasks`, as for `embed_vectors` | the same |
| `summarize_video_combined` | `transcript`; `caption`, `hashtags`, `platform`, `title`, `url` | |

`options.backend` is always told. A caller may choose the backend there too. Other keys of `content` and `options` go
to the worker as they are: it knows what it reads.

The worker of `summarize_video_combined` is a later one. Its function takes one argument, `task_data`, an object of
`shareId`, `payload` and `options`, and so that is what is sent; callers give the same three fields as elsewhere.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, NotRequired

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict  # pydantic asks for this one before Python 3.12

from mlproducer.envelope.shapes import Filled, FilledBatch, VideoData
from mlproducer.envelope.tasktype import Route, TaskType
from mlproducer.errors import SettingsError

ShareId = Annotated[str, Field(min_length=1, max_length=255)]
Text = Annotated[str, Field(min_length=1)]
"""Bounded by the envelope's limit (`ML_MAX_MESSAGE_BYTES`), not by a limit of its own."""
MediaReference = Annotated[str, Field(min_length=1, max_length=8192)]
"""A URL or the worker's own reference, never the media itself; signed URLs take a few KiB."""
Options = dict[str, Any]
"""JSON, as all of the payload; what of it is read, and how, is the worker's affair."""
_Maybe = str | None
_OPEN: Final = ConfigDict(extra="allow", hide_input_in_errors=True)


class _Fields(BaseModel):
    """What all payloads share: an unknown field is refused, and no error shows the content."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class TextContent(TypedDict):
    __pydantic_config__ = _OPEN  # type: ignore[misc]  # pydantic's own way to say it

    text: Text
    title: NotRequired[_Maybe]
    url: NotRequired[_Maybe]
    contentType: NotRequired[_Maybe]


class MediaContent(TypedDict):
    __pydantic_config__ = _OPEN  # type: ignore[misc]  # pydantic's own way to say it

    mediaUrl: MediaReference


class EmbedContent(TypedDict):
    __pydantic_config__ = _OPEN  # type: ignore[misc]  # pydantic's own way to say it

    text: Text
    type: str
    metadata: dict[str, Any]


class VideoContent(TypedDict):
    __pydantic_config__ = _OPEN  # type: ignore[misc]  # pydantic's own way to say it

    transcript: str
    """May be empty: not every video has words."""
    caption: NotRequired[_Maybe]
    hashtags: NotRequired[list[str]]
    platform: NotRequired[_Maybe]
    title: NotRequired[_Maybe]
    url: NotRequired[_Maybe]


class SummarizeFields(_Fields):
    share_id: ShareId
    content: TextContent
    options: Options


class TranscribeFields(_Fields):
    share_id: ShareId
    content: MediaContent
    options: Options


class EmbedFields(_Fields):
    share_id: ShareId
    content: EmbedContent
    options: Options


class EmbedBatchFields(_Fields):
    tasks: Annotated[list[EmbedFields], Field(min_length=1, max_length=1000)]


class _VideoData(_Fields):
    shareId: ShareId  # noqa: N815  # the worker's own name
    payload: VideoContent
    options: Options


class VideoFields(_Fields):
    task_data: _VideoData


_TRANSCRIBE: Final = Filled("mediaUrl", options={"normalize": True})
_EMBED: Final = Filled("text", content={"type": "caption", "metadata": {}}, options={"embedding_type": "content"})


def builtin_types(*, preferred_llm: str, preferred_stt: str, preferred_embedding: str) -> tuple[TaskType, ...]:
    """The built-in types with the preferred backends of the settings.

    The vector service has one queue and chooses its model itself, so both backends of the embedding types take the
    same route: a system that says `PREFERRED_EMBEDDING_BACKEND=local` must not fail over it. So does the combined
    summary of a video.

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
    video = dict.fromkeys(("api", "local"), Route("summarize_video_combined", "ml.summarize"))
    for setting, preferred, routes in (
        ("PREFERRED_LLM_BACKEND", preferred_llm, summarize),
        ("PREFERRED_STT", preferred_stt, transcribe),
        ("PREFERRED_EMBEDDING_BACKEND", preferred_embedding, embed),
    ):
        if preferred not in routes:
            raise SettingsError(f"{setting}: there is no backend {preferred!r}; choose {' or '.join(routes)}")
    return (
        TaskType("summarize_llm", summarize, SummarizeFields, preferred_llm, Filled("text")),
        TaskType("transcribe_whisper", transcribe, TranscribeFields, preferred_stt, _TRANSCRIBE),
        TaskType("embed_vectors", embed, EmbedFields, preferred_embedding, _EMBED),
        TaskType("embed_vectors_batch", embed_batch, EmbedBatchFields, preferred_embedding, FilledBatch(_EMBED)),
        TaskType("summarize_video_combined", video, VideoFields, preferred_llm, VideoData(Filled("transcript"))),
    )
