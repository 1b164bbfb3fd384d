"""What the routes answer, as JSON: receipts, rows and dead letters, without content unless it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from fastapi import Response
from pydantic_core import to_json

from mlproducer.envelope.encode import describe
from mlproducer.ports import DeadLetter, SpoolRow
from mlproducer.shares.processor import ShareReceipt
from mlproducer.task import Receipt


def answer(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(to_json(content), status, headers, "application/json")


def receipt_view(receipt: Receipt) -> dict[str, Any]:
    return asdict(receipt)


def share_view(receipt: ShareReceipt) -> dict[str, Any]:
    return {
        "share_id": receipt.share_id,
        "root_id": receipt.root_id,
        "group": receipt.group,
        "receipts": [receipt_view(each) for each in receipt.receipts],
    }


def row_view(row: SpoolRow) -> dict[str, Any]:
    """A task that waits. Times are Unix seconds, `size` is bytes."""
    return {
        "task_id": row.envelope.task_id,
        "task_type": row.envelope.task_type,
        "queue": row.envelope.routing_key,
        "attempts": row.attempts,
        "cause": row.cause,
        "text": row.text,
        "accepted_at": row.accepted_at,
        "due_at": row.due_at,
        "expires_at": row.envelope.expires_at,
        "size": row.envelope.size,
    }


def dead_view(letter: DeadLetter) -> dict[str, Any]:
    """A dead letter without its content."""
    return {
        "task_id": letter.envelope.task_id,
        "task_type": letter.envelope.task_type,
        "queue": letter.envelope.routing_key,
        "reason": letter.reason,
        "code": letter.code,
        "text": letter.text,
        "attempts": letter.attempts,
        "accepted_at": letter.accepted_at,
        "died_at": letter.died_at,
        "size": letter.envelope.size,
    }


def dead_view_whole(letter: DeadLetter) -> dict[str, Any]:
    """A dead letter with its content, as the worker would see it."""
    return {**dead_view(letter), "message": describe(letter.envelope)}
