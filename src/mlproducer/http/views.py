"""What the routes answer, as JSON. Rows and dead letters are shown as `delivery.views` has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from fastapi import Response
from pydantic_core import to_json, to_jsonable_python

from mlproducer.redact import masked
from mlproducer.shares.processor import ShareReceipt
from mlproducer.task import Receipt


def answer(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(to_json(masked(to_jsonable_python(content))), status, headers, "application/json")


def receipt_view(receipt: Receipt) -> dict[str, Any]:
    return asdict(receipt)


def share_view(receipt: ShareReceipt) -> dict[str, Any]:
    return {
        "share_id": receipt.share_id,
        "root_id": receipt.root_id,
        "group": receipt.group,
        "receipts": [receipt_view(each) for each in receipt.receipts],
    }
