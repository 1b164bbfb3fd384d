"""For Celery workers: drop duplicates (`once`), take large payloads from their store (`claim_check`), and tell how
tasks ended and what they cost (`report_results`, `report_cost`).

    from mlproducer.worker import claim_check, once

    @app.task(bind=True, acks_late=True, reject_on_worker_lost=True)
    @once("redis://localhost:6379/0")
    @claim_check("s3://bucket/payloads")
    def summarize(self, share_id, content, options=None): ...

Imports the standard library only; redis, SQLAlchemy and fsspec once a store needs them, and nothing of the producer.
"""

from mlproducer.errors import OnceUnavailable, PayloadDamaged, PayloadMissing, PayloadUnavailable, WorkerError
from mlproducer.worker.duplicates import once
from mlproducer.worker.payload import claim_check, fetch
from mlproducer.worker.results import report_cost, report_results

__all__ = [
    "OnceUnavailable",
    "PayloadDamaged",
    "PayloadMissing",
    "PayloadUnavailable",
    "WorkerError",
    "claim_check",
    "fetch",
    "once",
    "report_cost",
    "report_results",
]
