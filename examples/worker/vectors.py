"""A text's vector by feature hashing: no model, no download, the same on every machine.

Theory: K. Weinberger et al., "Feature Hashing for Large Scale Multitask Learning" (2009). Each word and each run of
three characters is hashed to one of 256 dimensions and to a sign, so that collisions cancel on average; counts are
damped (1 + log n) and the vector is scaled to length 1. Texts that share words or word parts get a high cosine.
It knows no meaning: "car" and "automobile" are strangers to it.
"""

from __future__ import annotations

import math
from collections import Counter
from hashlib import blake2b
from typing import Final

DIMENSIONS: Final = 256
_GRAM: Final = 3


def embed(text: str) -> list[float]:
    """A vector of 256 numbers of length 1. Raises: ValueError for a text without letters or digits."""
    features = _features(text)
    if not features:
        raise ValueError("there are no letters or digits to embed")
    vector = [0.0] * DIMENSIONS
    for feature, count in features.items():
        digest = blake2b(feature.encode(), digest_size=4).digest()
        sign = 1.0 if digest[3] & 1 else -1.0
        vector[int.from_bytes(digest[:2]) % DIMENSIONS] += sign * (1.0 + math.log(count))
    length = math.sqrt(math.fsum(x * x for x in vector))
    if length == 0.0:  # every feature met its opposite: one in a great many texts, and no reason to fail
        vector[0] = length = 1.0
    return [x / length for x in vector]


def cosine(a: list[float], b: list[float]) -> float:
    """How alike two vectors of length 1 are: 1 the same, 0 nothing in common."""
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def _features(text: str) -> Counter[str]:
    words = "".join(c if c.isalnum() else " " for c in text.casefold()).split()
    grams: Counter[str] = Counter()
    for word in words:
        padded = f"<{word}>"
        grams[f"w:{word}"] += 1
        grams.update(f"c:{padded[i : i + _GRAM]}" for i in range(max(1, len(padded) - _GRAM + 1)))
    return grams
