"""An extractive summary: the sentences that carry the most of a text's own vocabulary, in their own order.

Theory: H. P. Luhn, "The Automatic Creation of Literature Abstracts" (1958). A word that a text repeats is what the
text is about; a sentence is worth the mean weight of its words; an opening sentence is worth a little more. Nothing
is written that the text does not say, so a summary can be dull but never wrong.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

_END = re.compile(r"(?<=[.!?…])\s+|(?<=[.!?…][”’»\"')\]])\s+|(?<=[。！？])")
_NO_SPACE_AFTER = ("。", "！", "？")
_CLAUSE = re.compile(r"(?<=[;:])\s+")
_ABBREVIATION = re.compile(r"\b(?:[A-Z]|Mrs?|Ms|Dr|St|Prof)\.[”’»\"')\]]?$")
_WORD = re.compile(r"[^\W\d_]+")
_LEADING = 1.25
"""Weight of the first sentence; later ones count 1."""
_SHORTEST = 3
"""Letters; shorter words are mostly grammar (the, und, que). Crude, but the same in every alphabetic language."""


@dataclass(frozen=True, slots=True)
class Summary:
    sentences: tuple[str, ...]
    of: int
    """Characters of the text."""

    @property
    def text(self) -> str:
        spaced = (s if s.endswith(_NO_SPACE_AFTER) else f"{s} " for s in self.sentences)
        return "".join(spaced).rstrip(" ;:")

    @property
    def kept(self) -> int:
        """Characters of the summary."""
        return len(self.text)


def split_sentences(text: str) -> list[str]:
    """Sentences by their end marks; a poem without any is one sentence per line."""
    sentences: list[str] = []
    for piece in _END.split(text):
        part = " ".join(piece.split())
        if sentences and part and (_ABBREVIATION.search(sentences[-1]) or part[0].islower()):
            sentences[-1] += f" {part}"
        elif _WORD.search(part):
            sentences.append(part)
    if len(sentences) > 1 or "\n" not in text:
        return sentences
    return [line.strip() for line in text.splitlines() if _WORD.search(line)]


def summarize(text: str, *, limit: int = 200) -> Summary:
    """The best sentences that fit into `limit` characters, at least one, in the order of the text.

    A sentence that is longer than `limit` counts as its clauses.

    Raises: ValueError for a text without words, or a limit under 1.
    """
    if limit < 1:
        raise ValueError(f"limit must be at least 1 character, not {limit}")
    sentences = [
        part for whole in split_sentences(text) for part in (_CLAUSE.split(whole) if len(whole) > limit else [whole])
    ]
    if not sentences:
        raise ValueError("there are no words to summarize")
    weights = Counter(w for w in _words(text) if len(w) > _SHORTEST)
    order = sorted(range(len(sentences)), key=lambda i: (-_score(sentences[i], i, weights), i))
    chosen = [order[0]]
    room = limit - len(sentences[order[0]])
    for index in order[1:]:
        cost = len(sentences[index]) + 1
        if cost <= room:
            chosen.append(index)
            room -= cost
    return Summary(tuple(sentences[i] for i in sorted(chosen)), len(text))


def _words(text: str) -> list[str]:
    return [w.casefold() for w in _WORD.findall(text)]


def _score(sentence: str, position: int, weights: Counter[str]) -> float:
    words = _words(sentence)
    mean = sum(weights[w] for w in words) / max(len(words), 1)
    return mean * (_LEADING if position == 0 else 1.0)
