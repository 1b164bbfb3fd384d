"""What a scenario writes down as it goes: its steps, what it saw, its times."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from mlproducer.errors import MLProducerError
from mlproducer.reliability.report import Finding


class NotSeen(MLProducerError):
    """What a scenario is about did not happen. The report says so, and the judge is asked all the same."""


@dataclass(frozen=True, slots=True)
class Moment:
    """How far a scenario is; `accepted` and `confirmed` count its tasks."""

    step: int
    steps: int
    text: str
    accepted: int = 0
    confirmed: int = 0


Show = Callable[[Moment], None]


@dataclass(slots=True)
class Book:
    steps: int
    show: Show
    counts: Callable[[], tuple[int, int]] = lambda: (0, 0)
    """Accepted and confirmed by now."""
    findings: list[Finding] = field(default_factory=list)
    last: Finding | None = None
    """Comes after the others, whenever it was seen."""
    time_to_detect: float | None = None
    time_to_recover: float | None = None
    plot: tuple[str, ...] = ()
    extra: Mapping[str, object] = field(default_factory=dict)
    _step: int = 0
    _text: str = ""

    def step(self, text: str) -> None:
        """The next of `steps` begins."""
        self._step, self._text = self._step + 1, text
        self.tick()

    def tick(self) -> None:
        """Show the same step with its present counts."""
        self.show(Moment(self._step, self.steps, self._text, *self.counts()))

    def saw(self, text: str, *, ok: bool, instead: str = "") -> None:
        """`text` if it is so; else `instead`, or that it is not."""
        self.findings.append(Finding(ok, text if ok else instead or f"not so: {text}"))
