"""What a scenario comes to: a row of the table, and what it saw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pydantic import AliasChoices

from mlproducer.reliability.judge import Verdict
from mlproducer.settings import Settings

JUDGED: Final = ("unsure", "gone", "altered", "strangers", "false_confirms", "unexplained")
"""What the judge counts beside `MEASURES`. All but `unsure` and `gone` must be 0."""
MEASURES: Final = (
    "accepted",
    "confirmed",
    "delivered",
    "in_spool",
    "in_dlq",
    "lost",
    "duplicated",
    "time_to_detect",
    "time_to_recover",
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that the scenario is about: seen, or not."""

    ok: bool
    text: str


@dataclass(frozen=True, slots=True)
class Changed:
    """A setting that a scenario runs with in place of its default."""

    setting: str
    value: float
    default: float

    @classmethod
    def of(cls, name: str, value: float) -> Changed:
        """`name` as in code, such as `ml_confirm_timeout`."""
        known = Settings.model_fields[name]
        alias = known.validation_alias
        return cls(str(alias.choices[0]) if isinstance(alias, AliasChoices) else name.upper(), value, known.default)

    def words(self) -> str:
        """Such as `ML_CONFIRM_TIMEOUT 1 s (default 5 s)`."""
        unit = "ms" if self.setting == "RABBITMQ_CONNECTION_TIMEOUT" else "s"
        return f"{self.setting} {self.value:g} {unit} (default {self.default:g} {unit})"


@dataclass(frozen=True, slots=True)
class Report:
    """`verdict` is None for a scenario without tasks. Times are seconds, from the fault to the producer's first sign
    of it and from the fault's end to the producer being whole again; None where that means nothing.
    """

    scenario: str
    seconds: float
    verdict: Verdict | None = None
    time_to_detect: float | None = None
    time_to_recover: float | None = None
    findings: tuple[Finding, ...] = ()
    changed: tuple[Changed, ...] = ()
    plot: tuple[str, ...] = ()
    """Lines for people."""
    extra: Mapping[str, object] = field(default_factory=dict)
    """More facts for programs, of this scenario only."""

    @property
    def ok(self) -> bool:
        """The judge found no fault, and the scenario saw all that it is about."""
        faults = self.verdict.faults() if self.verdict is not None else []
        return not faults and bool(self.findings) and all(finding.ok for finding in self.findings)

    def measure(self, name: str) -> int | float | None:
        """One of `MEASURES` or `JUDGED`; None where it does not apply."""
        if name.startswith("time_"):
            seconds: float | None = getattr(self, name)
            return None if seconds is None else round(seconds, 3)
        return None if self.verdict is None else int(getattr(self.verdict, name))

    def as_dict(self) -> dict[str, object]:
        return {
            "scenario": self.scenario,
            **{name: self.measure(name) for name in (*MEASURES, *JUDGED)},
            "ok": self.ok,
            "seconds": round(self.seconds, 3),
            "saw": [{"ok": finding.ok, "text": finding.text} for finding in self.findings],
            "settings": {each.setting: {"value": each.value, "default": each.default} for each in self.changed},
            **self.extra,
        }
