"""Large payloads into the store, before anything is published."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from mlproducer.blobs.port import BlobStore
from mlproducer.envelope.claim_check import check_in, needs_claim_check
from mlproducer.errors import BlobStoreUnavailable, TaskTooLarge
from mlproducer.task import Envelope

AT_ONCE: Final = 4
"""Payloads that are written at the same time: enough to keep a store busy, and few enough that a store that hangs
holds four threads and no more."""


class ClaimCheck:
    """Puts what is over `threshold` bytes into `store`, and gives the envelope to publish in its place.

    `limit` is what the broker takes (`ML_MAX_MESSAGE_BYTES`); `timeout` is in seconds for one payload, waiting for its
    turn included.
    """

    def __init__(self, store: BlobStore, *, threshold: int, limit: int, timeout: float = 30.0) -> None:
        self._store = store
        self._threshold = threshold
        self._limit = limit
        self._timeout = timeout
        self._threads = ThreadPoolExecutor(AT_ONCE, "mlproducer-blobs")

    @property
    def threshold(self) -> int:
        return self._threshold

    async def apply(self, envelope: Envelope) -> Envelope:
        """The envelope itself if it is small; else a small one, whose payload is stored when this returns.

        A caller who is cancelled, or whose task is refused later, may leave a payload that no message refers to;
        `mlproducer blobs clean` removes it in time.

        Raises: BlobStoreUnavailable; TaskTooLarge, if what must stay in the message is too large; InvalidTask.
        """
        if not needs_claim_check(envelope.size, self._threshold):
            return envelope
        storing = asyncio.get_running_loop().run_in_executor(self._threads, self._store_payload, envelope)
        try:
            async with asyncio.timeout(self._timeout):
                return await storing
        except TimeoutError:
            raise BlobStoreUnavailable(
                f"{self._store!r} did not take a payload of {len(envelope.body)} bytes within {self._timeout:g} s: "
                "is it slow, or not there? ML_BLOB_TIMEOUT is the limit"
            ) from None

    def close(self) -> None:
        """Take no more. Does not wait for a store that hangs."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _store_payload(self, envelope: Envelope) -> Envelope:
        checked = check_in(envelope)
        # All of it large headers and a small payload: a reference would save nothing.
        smaller = checked.envelope if checked.envelope.size < envelope.size else envelope
        if smaller.size > self._limit:
            # Before the put: what is refused leaves nothing behind.
            raise TaskTooLarge(
                f"the message has {smaller.size} bytes without the payload, and ML_MAX_MESSAGE_BYTES allows "
                f"{self._limit}",
                field="headers",
            )
        if smaller is not envelope:
            self._store.put(checked.reference.key, checked.payload)
        return smaller
