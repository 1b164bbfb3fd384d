"""File locks of POSIX systems, or words instead of an ImportError where there are none, such as on Windows."""

from __future__ import annotations

from mlproducer.errors import MLProducerError

try:
    import fcntl
except ImportError:
    raise MLProducerError(
        "mlproducer runs on POSIX systems such as Linux and macOS: this one has no file locks (fcntl), with which "
        "processes share a data folder. On Windows, run it in WSL or in a container; tasks can be made there all the "
        "same, and sent to a service (POST /api/ml/tasks)"
    ) from None

__all__ = ["fcntl"]
