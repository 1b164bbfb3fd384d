"""What a worker tells of its tasks: how they ended, how long they took, what they cost.

Two ways, and one call for costs in both:

- Celery's events: the worker runs with `-E`, the service has `ML_CELERY_EVENTS=celeryev`. `report_cost` sends an event
  of its own.
- HTTP: `report_results("http://mlproducer:3001", key=…)` once, where the Celery app is made. Then each task's end is
  posted to `/api/ml/results`, and its costs with it.

Nothing of it is in a task's way: posts are made by a thread, a few times over, and then given up with a warning.
"""

from __future__ import annotations

import json
import os
import queue
import threading
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final
from urllib import request as http
from urllib.error import HTTPError

from mlproducer.errors import SettingsError
from mlproducer.loggers import get_logger
from mlproducer.redact import remember
from mlproducer.urls.parts import BadUrl, read_url
from mlproducer.worker.delivery import current_task
from mlproducer.worker.opening import PerProcess

WAITING: Final = 10_000
"""Reports that wait for the service; more are dropped."""
TRIES: Final = 5
PAUSE: Final = 1.0
"""Seconds before the second try; doubles."""
TIMEOUT: Final = 5.0
"""Seconds for one post."""

_COSTS: Final = "mlproducer_costs"
_BEGAN: Final = "mlproducer_began"
_POSTS: Final = "mlproducer_posts"
_SERVER_ERROR: Final = 500
_log = get_logger("mlproducer")


def report_cost(amount: Decimal | int | str, model: str = "") -> None:
    """The running task cost so much more; `model` says of what. May be called several times in a task.

    No currency: all workers report in the same one. Outside of a task it is a no-op.

    Raises: TypeError, for a float, because 0.1 + 0.2 is not 0.3 there.
    """
    if not isinstance(amount, Decimal | int | str) or isinstance(amount, bool):
        raise TypeError('a cost is a Decimal, an int, or text such as "0.0042", and no float')
    task = current_task()
    if task is None or task.request.called_directly or task.request.id is None:
        return
    cost = f"{Decimal(amount):f}"
    costs = task.request.__dict__.setdefault(_COSTS, [])
    costs.append((cost, model))
    if not hasattr(task.request, _POSTS):
        try:
            part = _part(task.request, len(costs))
            task.send_event("task-cost", retry=False, name=task.name, cost=cost, model=model, part=part)
        except Exception as error:  # noqa: BLE001  # a broker that is away must not fail the task
            _log.warning("the cost of task %s was not reported: %s", task.request.id, type(error).__name__)


def report_results(url: str | None = None, key: str | None = None) -> None:
    """Post the end of each task from now on, and what `report_cost` says, to the service at `url`.

    Without `url` and `key`, `ML_RESULTS_URL` and `ML_RESULTS_KEY` of the worker's environment are taken; `key` is one
    of the service's `ML_API_KEYS`. Raises, at the first task: SettingsError, without any `url` or for a wrong one.
    """
    from celery import signals  # noqa: PLC0415  # whoever calls this has Celery

    posting = PerProcess(url, "ML_RESULTS_URL", lambda found: _Posting(found, key))

    def began(task: Any, **_facts: object) -> None:  # noqa: ANN401  # a Celery task
        setattr(task.request, _BEGAN, time.monotonic())
        setattr(task.request, _POSTS, True)

    def ended(status: str | None) -> Callable[..., None]:
        def tell(sender: Any, **_facts: object) -> None:  # noqa: ANN401  # a Celery task
            _post_end(posting(), sender, status)

        return tell

    told = {signals.task_success: "succeeded", signals.task_failure: "failed", signals.task_retry: None}
    signals.task_prerun.connect(began, weak=False, dispatch_uid="mlproducer.results.began")
    for signal, status in told.items():
        signal.connect(ended(status), weak=False, dispatch_uid=f"mlproducer.results.{status}")


def _post_end(posting: _Posting, task: Any, status: str | None) -> None:  # noqa: ANN401  # a Celery task
    request = task.request
    said: dict[str, Any] = {"task_id": request.id, "task": task.name, "finished_at": time.time()}
    began = getattr(request, _BEGAN, None)
    if status is not None and began is not None:  # else the message could not be run at all, or is run again
        posting.put({**said, "status": status, "duration": time.monotonic() - began})
    for number, (cost, model) in enumerate(getattr(request, _COSTS, ()), 1):
        posting.put({**said, "cost": cost, "model": model, "part": _part(request, number)})


def _part(request: Any, number: int) -> str:  # noqa: ANN401  # Celery's own
    """The same for the same cost of the same run, so that a report that comes twice counts once."""
    return f"{request.retries or 0}.{number}"


class _Posting:
    """One thread that posts, for one process."""

    def __init__(self, url: str, key: str | None) -> None:
        key = key or os.environ.get("ML_RESULTS_KEY")
        remember(key)
        try:
            read = read_url(url, ("http", "https"), like="http://host:3001")
            read.parameters(())
        except BadUrl as error:
            raise SettingsError(f"ML_RESULTS_URL: {error}") from None
        if read.user is not None:
            raise SettingsError("ML_RESULTS_URL: it takes no login; the key is ML_RESULTS_KEY")
        self._url = f"{url.rstrip('/')}/api/ml/results"
        self._headers = {"Content-Type": "application/json"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._queue: queue.Queue[dict[str, Any]] = queue.Queue(WAITING)
        threading.Thread(target=self._work, name="mlproducer-results", daemon=True).start()

    def put(self, report: dict[str, Any]) -> None:
        try:
            self._queue.put_nowait(report)
        except queue.Full:
            _log.warning("the result of task %s was not reported: too many wait for %s", report["task_id"], self._url)

    def _work(self) -> None:
        while True:
            report = self._queue.get()
            for tries in range(1, TRIES + 1):
                error = self._post(report)
                if error is None:
                    break
                if tries == TRIES or not error.again:
                    _log.warning("the result of task %s was not reported: %s", report["task_id"], error.words)
                    break
                time.sleep(PAUSE * 2 ** (tries - 1))

    def _post(self, report: dict[str, Any]) -> _Failed | None:
        asked = http.Request(self._url, json.dumps(report).encode(), self._headers)  # noqa: S310  # the user's own URL
        try:
            with http.urlopen(asked, timeout=TIMEOUT):  # noqa: S310  # as above
                return None
        except HTTPError as error:
            error.close()
            hint = "see ML_RESULTS_URL and ML_RESULTS_KEY"
            return _Failed(f"{self._url} answered {error.code}: {hint}", again=error.code >= _SERVER_ERROR)
        except OSError as error:
            return _Failed(f"{self._url} cannot be reached ({error}): see ML_RESULTS_URL", again=True)


class _Failed:
    """Why a post failed; `again`: whether it may succeed later."""

    def __init__(self, words: str, *, again: bool) -> None:
        self.words = words
        self.again = again
