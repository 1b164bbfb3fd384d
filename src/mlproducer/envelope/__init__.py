"""From a `Task` to the bytes of a Celery message (protocol 2). Pure."""
