"""A Celery worker that tells what its tasks cost. Run by `test_results_of_workers.py`.

Environment: as for `celery_app`; with `ML_RESULTS_URL`, it posts its results there.
"""

from __future__ import annotations

import os
from decimal import Decimal
from typing import Any

from celery_app import app, note  # type: ignore[import-not-found]  # the worker's folder is on its path

from mlproducer.worker import report_cost, report_results

if "ML_RESULTS_URL" in os.environ:
    report_results()


def work(self: Any, content: str, **_payload: Any) -> None:
    """`content` says what is to happen."""
    note("run", id=self.request.id, retries=self.request.retries)
    report_cost(Decimal("0.001"), "small")
    report_cost("0.1", "large")
    if content == "fail":
        raise ValueError("as told")
    if content == "retry" and self.request.retries == 0:
        raise self.retry(countdown=0)


app.task(work, bind=True, name="reporting.tasks.transcribe", shared=False)
