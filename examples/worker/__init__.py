"""A real Celery worker for mlproducer's tasks that needs no model: run by `mlproducer quickstart`."""
