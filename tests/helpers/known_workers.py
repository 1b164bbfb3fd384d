"""What the known workers' functions are given for what a caller gave: an oracle that shares no code with ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel


class PlainFields(BaseModel):
    """Of a type that is no built-in one: the worker is given what the caller gave."""

    share_id: str
    content: str
    options: dict[str, Any] = {}


CONTENT: dict[str, tuple[str, dict[str, Any]]] = {
    "summarize_llm": ("text", {}),
    "transcribe_whisper": ("mediaUrl", {}),
    "embed_vectors": ("text", {"type": "caption", "metadata": {}}),
    "summarize_video_combined": ("transcript", {}),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "transcribe_whisper": {"normalize": True},
    "embed_vectors": {"embedding_type": "content"},
}


def on_the_wire(task_type: str, payload: Mapping[str, Any], backend: str | None = None) -> dict[str, Any]:
    """The keyword arguments."""
    if task_type == "embed_vectors_batch":
        shared = payload.get("options", {})
        tasks = payload["tasks"] if "tasks" in payload else payload["items"]
        merged = [{**one, "options": {**shared, **one.get("options", {})}} for one in tasks]
        return {"tasks": [on_the_wire("embed_vectors", one, backend) for one in merged]}
    first, defaults = CONTENT[task_type]
    content = payload["content"]
    whole = {**defaults, **(content if isinstance(content, dict) else {first: content})}
    options = {"backend": backend or "api", **OPTIONS.get(task_type, {}), **payload.get("options", {})}
    if task_type == "summarize_video_combined":
        return {"task_data": {"shareId": payload["share_id"], "payload": whole, "options": options}}
    return {"share_id": payload["share_id"], "content": whole, "options": options}
