"""The worker's half of the claim check: the reference in the message becomes the payload that was published.

A message names a key by its content's SHA-256 and nothing else. Which store that is in, the worker alone decides: a
message cannot make it read another place.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from mlproducer.blobs import BlobStore, open_blobs
from mlproducer.envelope.reference import KEYWORD, Reference, read_reference
from mlproducer.errors import BlobStoreUnavailable, NotFound, PayloadDamaged, PayloadMissing, PayloadUnavailable
from mlproducer.values.kombu import decoded
from mlproducer.worker.opening import PerProcess

P = ParamSpec("P")
R = TypeVar("R")


def claim_check(store: str | BlobStore | None = None) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator, under `@app.task`: the function gets the keyword arguments as they were published.

        @app.task(bind=True, autoretry_for=(PayloadUnavailable,), retry_backoff=True)
        @claim_check()
        def summarize(self, share_id, content, options=None): ...

    A task whose payload travelled in its message is run as it is. `store` is the same place as the producer's
    `ML_BLOB_URL`, which is read from the worker's environment if none is given. `self.request.kwargs` still holds the
    reference, so that `self.retry()` sends a small message again.

    Raises, from the task: PayloadUnavailable, PayloadMissing, PayloadDamaged, SettingsError.
    """
    blobs = PerProcess(store, "ML_BLOB_URL", open_blobs)

    def decorate(work: Callable[P, R]) -> Callable[P, R]:
        @wraps(work)
        def with_payload(*args: P.args, **kwargs: P.kwargs) -> R:
            if KEYWORD not in kwargs:
                return work(*args, **kwargs)
            payload: Any = _fetched(kwargs[KEYWORD], blobs())
            return work(*args, **payload)

        return with_payload

    return decorate


def fetch(kwargs: Mapping[str, Any], store: str | BlobStore | None = None) -> dict[str, Any]:
    """The keyword arguments as they were published, for a worker without the decorator. See `claim_check`."""
    if KEYWORD not in kwargs:
        return dict(kwargs)
    return _fetched(kwargs[KEYWORD], PerProcess(store, "ML_BLOB_URL", open_blobs)())


def _fetched(value: object, blobs: BlobStore) -> dict[str, Any]:
    try:
        reference = read_reference(value)
    except ValueError as error:
        raise PayloadDamaged(f"the message's reference to its payload is none of mlproducer's: {error}") from None
    try:
        # One byte more than there should be, so that a blob that is too long shows.
        payload = blobs.get(reference.key, reference.bytes + 1)
    except NotFound as error:
        raise PayloadMissing(
            f"{error}: was it removed while its task waited (mlproducer blobs clean, a rule of the bucket), or is "
            "ML_BLOB_URL another one for the producer?"
        ) from error
    except BlobStoreUnavailable as error:
        raise PayloadUnavailable(str(error)) from error
    return _verified(payload, reference)


def _verified(payload: bytes, reference: Reference) -> dict[str, Any]:
    if len(payload) != reference.bytes:
        short = len(payload) < reference.bytes
        raise PayloadDamaged(
            f"blob {reference.key} has {len(payload) if short else 'more than'} {'of ' if short else ''}"
            f"{reference.bytes} bytes: was it written by something else than mlproducer?"
        )
    if hashlib.sha256(payload).hexdigest() != reference.sha256:
        raise PayloadDamaged(f"blob {reference.key} does not have its checksum: it was changed after it was written")
    kwargs = json.loads(payload, object_hook=decoded)
    if not isinstance(kwargs, dict):
        raise PayloadDamaged(f"blob {reference.key} holds no keyword arguments")
    return kwargs
