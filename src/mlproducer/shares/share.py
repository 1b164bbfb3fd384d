"""A share: what somebody posted or passed on, as an application hands it over."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from mlproducer.task import Headers
from mlproducer.values.given import Content, Given
from mlproducer.values.limits import HALF_A_PAIR, encodable


def _encodable(text: Text) -> str:
    """Pydantic lets half a surrogate pair through where JSON escapes it; it has no UTF-8 form, so no bytes."""
    if not encodable(text):
        raise ValueError(HALF_A_PAIR)
    return text


Text = Annotated[str, AfterValidator(_encodable)]
Backend = Annotated[str, Field(min_length=1, max_length=64)]


class ShareOptions(Given):
    """What the user wants done. `embed`, `summarize`, `transcribe` allow; whether there is anything to do is the
    plan's question, so a user can leave them on for shares of all kinds.
    """

    language: Annotated[str, Field(min_length=1, max_length=35)] | None = None
    """A hint for the workers, such as `de` or `pt-BR`."""
    embed: bool = True
    summarize: bool = True
    transcribe: bool = True
    embedding_backend: Backend | None = None
    summarization_backend: Backend | None = None
    transcription_backend: Backend | None = None
    worker: Content = Field(default_factory=dict)
    """Passed on to the workers as it is, within each task's `options`."""


class Share(Given):
    """`id` is the application's own; the same id with other content is the same share, edited.

    Raises: InvalidTask, naming every fault.
    """

    shape: ClassVar[str] = "a share is a JSON object, such as {'id': …, 'text': …}"

    id: Annotated[Text, Field(min_length=1, max_length=255)]
    url: Annotated[str, Field(max_length=8192)] = ""
    """Where it was found. Kept for people: no task fetches it."""
    platform: Annotated[str, Field(max_length=64)] = ""
    title: Text = ""
    text: Text = ""
    media_type: Annotated[str, Field(max_length=255)] | None = None
    """`audio`, `video`, `image`, or a MIME type; without it the ending of `media_url` decides."""
    media_url: Annotated[Text, Field(max_length=8192)] | None = None
    options: ShareOptions = ShareOptions()
    headers: Headers = Field(default_factory=dict)
    """Of each of its tasks; no part of what they are: the same share with others is the same share."""


def parse_share(data: object) -> Share:
    """A share from JSON (bytes or text) or from a mapping. Raises: InvalidTask, naming every fault."""
    return Share.parse(data)
