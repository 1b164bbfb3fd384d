"""Large payloads, as the pipeline sees them: who takes them to the blob store, and how the last one fared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from mlproducer.task import Envelope


class ClaimCheck(Protocol):
    """Takes large payloads to the blob store. See `blobs.claim_check`."""

    @property
    def threshold(self) -> int:
        """Bytes of an envelope; what is larger is checked in."""
        ...

    async def apply(self, envelope: Envelope) -> Envelope: ...

    def close(self) -> None: ...


@dataclass(slots=True)
class BlobUse:
    """How the last large payload fared: seconds that the store took, or its error."""

    seconds: float | None = None
    error: str = ""
