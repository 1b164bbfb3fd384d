"""A share: what somebody posted or passed on, as an application hands it over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError

from mlproducer.envelope.limits import HALF_A_PAIR, dotted
from mlproducer.errors import InvalidTask

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


def _encodable(text: Text) -> str:
    """Pydantic lets half a surrogate pair through where JSON escapes it; it has no UTF-8 form, so no bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(HALF_A_PAIR) from None
    return text


Text = Annotated[str, AfterValidator(_encodable)]
Backend = Annotated[str, Field(min_length=1, max_length=64)]


class ShareOptions(BaseModel):
    """What the user wants done. `embed`, `summarize`, `transcribe` allow; whether there is anything to do is the
    plan's question, so a user can leave them on for shares of all kinds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    language: Annotated[str, Field(min_length=1, max_length=35)] | None = None
    """A hint for the workers, such as `de` or `pt-BR`."""
    embed: bool = True
    summarize: bool = True
    transcribe: bool = True
    embedding_backend: Backend | None = None
    summarization_backend: Backend | None = None
    transcription_backend: Backend | None = None
    worker: dict[str, JsonValue] = Field(default_factory=dict)
    """Passed on to the workers as it is, within each task's `options`."""


class Share(BaseModel):
    """`id` is the application's own; the same id with other content is the same share, edited."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

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


def parse_share(data: object) -> Share:
    """A share from JSON (bytes or text) or from a mapping. Raises: InvalidTask with the path of the first fault."""
    if isinstance(data, Share):
        return data
    try:
        if isinstance(data, bytes | bytearray | str):
            return Share.model_validate_json(data)
        return Share.model_validate(data)
    except ValidationError as exc:
        raise _invalid(exc.errors(include_url=False, include_input=False)[0]) from None


def _invalid(fault: ErrorDetails) -> InvalidTask:
    loc = fault["loc"]
    match fault["type"]:
        case "json_invalid":
            return InvalidTask(fault["msg"].replace("Invalid JSON", "not valid JSON", 1))
        case "model_type" if not loc:
            return InvalidTask("a share is a JSON object, such as {'id': …, 'text': …}")
        case "extra_forbidden":
            problem = "unknown field; is it misspelt?"
        case "missing":
            problem = "is missing"
        case "string_unicode":
            problem = HALF_A_PAIR
        case "value_error":
            problem = fault["msg"].removeprefix("Value error, ")
        case _:
            problem = fault["msg"]
    return InvalidTask(problem, field=dotted(loc))
