"""A Celery worker with our helpers, as a user would have it, which notes each run. Run by `test_worker_helpers.py`.

Environment: as for `celery_app`; `ML_ONCE_URL` and `ML_BLOB_URL`, which the helpers read.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

from celery_app import app, note  # type: ignore[import-not-found]  # the worker's folder is on its path

from mlproducer.worker import claim_check, once

LEASE = 2.0


def _note(what: str, task: Any, payload: dict[str, Any]) -> None:
    request = task.request
    data = json.dumps(payload, sort_keys=True).encode()
    note(
        what,
        id=request.id,
        retries=request.retries,
        redelivered=request.delivery_info["redelivered"],
        carried=sorted(request.kwargs),
        share_id=payload["share_id"],
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        pid=os.getpid(),
    )


@once(lease=LEASE)
@claim_check()
def summarize(self: Any, **payload: Any) -> None:
    _note("run", self, payload)


@once(lease=LEASE)
@claim_check()
def embed(self: Any, **payload: Any) -> None:
    """Fails the first time, as an API that is busy would make it."""
    _note("run", self, payload)
    if self.request.retries == 0:
        raise self.retry(countdown=0)


@once(lease=LEASE)
@claim_check()
def transcribe(self: Any, **payload: Any) -> None:
    """Works until the file that it was told of is there."""
    _note("run", self, payload)
    while not Path(payload["content"]).exists():
        time.sleep(0.05)
    _note("end", self, payload)


for _name, _work in (
    ("helped.tasks.summarize", summarize),
    ("helped.tasks.embed", embed),
    ("helped.tasks.transcribe", transcribe),
):
    app.task(_work, bind=True, name=_name, shared=False)
