"""A user's type checker takes what the README shows, and the payloads that applications have: `mypy --strict`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from doc_blocks import blocks_of

ROOT = Path(__file__).parents[2]
MORE = """
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TypedDict
from uuid import UUID

from mlproducer import InvalidTask, Receipt, Refusal
from mlproducer.shares import Share


class Text(TypedDict):
    share_id: str
    content: str


def tasks(names: dict[str, str], numbers: Mapping[str, int], row: dict[str, UUID | datetime], text: Text) -> list[Task]:
    whole: dict[str, list[str]] = {"items": ["a"]}
    try:
        task = Task(task_type="t", payload=names, eta=datetime.now(UTC), headers={"traceparent": "x"})
    except InvalidTask as error:
        print([(fault.field, fault.problem) for fault in error.faults])
        raise
    return [
        task,
        Task(task_type="t", payload=numbers, priority=5),
        Task(task_type="t", payload=row),
        Task(task_type="t", payload=text),
        Task(task_type="t", payload=whole),
        Task.model_validate({"task_type": "t", "payload": {}}),
    ]


async def stream(producer: Producer, share: Share) -> None:
    async for result in producer.publish_many(tasks({}, {}, {}, {"share_id": share.id, "content": share.text})):
        if isinstance(result, Refusal):
            print(result.error)
        else:
            receipt: Receipt = result
            print(receipt.task_id)
"""


@pytest.mark.timeout(300)  # half a minute where nothing is cached yet
def test_mypy_strict_takes_the_readme_and_every_usual_payload(tmp_path: Path) -> None:
    (lines,) = (
        block.text
        for block in blocks_of("README.md", (ROOT / "README.md").read_text())
        if (block.heading, block.language) == ("Ten lines", "python")
    )
    user = tmp_path / "user.py"
    user.write_text(lines + MORE)
    # Without pydantic's plugin, which the project's own configuration has: with it, less is looked at.
    options = ["--strict", "--config-file", os.devnull, "--cache-dir", str(ROOT / ".mypy_cache" / "users")]
    command = [sys.executable, "-m", "mypy", *options, str(user)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
