"""What a message carries in place of a large payload. Pure, and the standard library only: workers import it too.

    kwargs = {"share_id": "7", "ml_claim_check": {"key": …, "sha256": …, "bytes": n, "encoding": "json"}}

The payload is all keyword arguments of the task, as the JSON that the message would have held. Its key follows from
its content: the same payload is the same object, however often it is published, and a reference can name nothing else
in the store, nor anything outside of it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Final

KEYWORD: Final = "ml_claim_check"
"""The keyword argument that holds the reference. A worker's function that knows nothing of claim checks fails on it."""
ENCODING: Final = "json"

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_KEY: Final = re.compile(r"([0-9a-f]{2})/([0-9a-f]{2})/\1\2[0-9a-f]{60}")


@dataclass(frozen=True, slots=True)
class Reference:
    """Where a payload is and what it must be; `bytes` is its size."""

    key: str
    sha256: str
    bytes: int
    encoding: str = ENCODING

    def as_json(self) -> dict[str, str | int]:
        return asdict(self)


def key_of(sha256: str) -> str:
    """`ab/cd/abcd…`: two levels, so that no folder of a local store grows beyond what tools can list."""
    return f"{sha256[:2]}/{sha256[2:4]}/{sha256}"


def is_key(text: str) -> bool:
    """True if `key_of` could have made it."""
    return _KEY.fullmatch(text) is not None


def refer_to(payload: bytes | memoryview) -> Reference:
    """The reference of a payload. Reads all of it (about 1.5 GB/s)."""
    sha256 = hashlib.sha256(payload).hexdigest()
    return Reference(key_of(sha256), sha256, len(payload))


def read_reference(value: object) -> Reference:
    """From a message, which anybody who may publish can have written. Raises: ValueError, in words."""
    if not isinstance(value, Mapping):
        raise ValueError("the reference is no object")  # noqa: TRY004  # the value is wrong, not our caller's type
    key, sha256, size, encoding = (value.get(name) for name in ("key", "sha256", "bytes", "encoding"))
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise ValueError("`sha256` is not 64 hexadecimal digits")
    if key != key_of(sha256):
        raise ValueError("`key` is not the one of its sha256")
    if type(size) is not int or size < 0:
        raise ValueError("`bytes` is no size")
    if encoding != ENCODING:
        raise ValueError("`encoding` is not json; is this worker's mlproducer older than the producer's?")
    return Reference(key, sha256, size)
