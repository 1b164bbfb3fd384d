"""The text of a scrape: Prometheus's text format, and OpenMetrics 1.0.

prometheus-client's encoders make an object and a dictionary for each of a thousand lines, and escape each anew: 13 ms
at best on the machine of bench/README.md, during which the event loop does nothing else. Here all of a line but its
value is made once. A test compares the two, byte by byte.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Final, NamedTuple

from mlproducer.telemetry.cells import Cells, Exemplar, Family, go_float, spelled

TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_ZERO: Final = "0.0\n"
_HEADS_KEPT: Final = 50_000


class Shown(NamedTuple):
    """One series of a scrape: the values of its labels, its floats, and exemplars by the place of their bucket."""

    labels: tuple[str, ...]
    cells: Cells
    exemplars: Mapping[int, Exemplar]


Scrape = Iterable[tuple[Family, Iterable[Shown]]]


class Exposition:
    """Remembers what does not change between two scrapes."""

    def __init__(self) -> None:
        self._heads: dict[tuple[Family, tuple[str, ...]], tuple[str, ...]] = {}

    def text(self, scrape: Scrape, created: float | None) -> str:
        """`created` is the Unix time at which the series began; None leaves the `_created` samples out."""
        out: list[str] = []
        for family, series in scrape:
            name = f"{family.name}_total" if family.kind == "counter" else family.name
            out.append(f"# HELP {name} {_escaped(family.words)}\n# TYPE {name} {family.kind}\n")
            began: list[str] = []
            for one in series:
                heads = self._heads_of(family, one.labels)
                out += _lines(heads, family, one.cells)
                if created is not None and family.kind != "gauge":
                    began.append(f"{heads[-1]}{go_float(created)}\n")
            if began:
                name = f"{family.name}_created"
                out += (f"# HELP {name} {_escaped(family.words)}\n# TYPE {name} gauge\n", *began)
        return "".join(out)

    def openmetrics(self, scrape: Scrape, created: float | None) -> str:
        """Without the closing `# EOF`: `created` as for `text`."""
        out: list[str] = []
        for family, series in scrape:
            out.append(f"# HELP {family.name} {_escaped(family.words, quotes=True)}\n")
            out.append(f"# TYPE {family.name} {family.kind}\n")
            if family.unit:
                out.append(f"# UNIT {family.name} {family.unit}\n")
            for one in series:
                heads = self._heads_of(family, one.labels)
                lines = _lines(heads, family, one.cells)
                for place, exemplar in one.exemplars.items():
                    lines[place] = f"{lines[place][:-1]} {_exemplar(exemplar)}\n"
                out += lines
                if created is not None and family.kind != "gauge":
                    out.append(f"{heads[-1]}{go_float(created)}\n")
        return "".join(out)

    def _heads_of(self, family: Family, labels: tuple[str, ...]) -> tuple[str, ...]:
        heads = self._heads.get((family, labels))
        if heads is None:
            if len(self._heads) >= _HEADS_KEPT:  # pids of processes that are long gone
                self._heads.clear()
            heads = self._heads[family, labels] = _heads(family, dict(zip(family.labels, labels, strict=True)))
        return heads


def _heads(family: Family, labels: dict[str, str]) -> tuple[str, ...]:
    """The lines of a series without their values, as they follow each other; the last is that of its creation."""
    name, own = family.name, _braces(labels)
    created = f"{name}_created{own} "
    match family.kind:
        case "counter":
            return (f"{name}_total{own} ", created)
        case "gauge":
            return (f"{name}{own} ", created)
        case "histogram":
            buckets = (f"{name}_bucket{_braces({**labels, 'le': bound})} " for bound in spelled(family.bounds))
            return (*buckets, f"{name}_count{own} ", f"{name}_sum{own} ", created)


def _lines(heads: tuple[str, ...], family: Family, cells: Cells) -> list[str]:
    values = list(cells)
    if family.kind == "histogram":
        total = values.pop()
        values = list(accumulate(values))
        values += (values[-1], total)
    # Most of a thousand numbers are 0 at any time.
    return [head + (f"{go_float(value)}\n" if value else _ZERO) for head, value in zip(heads, values, strict=False)]


def _braces(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    pairs = (f'{name}="{_escaped(labels[name], quotes=True)}"' for name in sorted(labels))
    return f"{{{','.join(pairs)}}}"


def _escaped(text: str, *, quotes: bool = False) -> str:
    text = text.replace("\\", r"\\").replace("\n", r"\n")
    return text.replace('"', r"\"") if quotes else text


def _exemplar(exemplar: Exemplar) -> str:
    return f'# {{trace_id="{exemplar.trace_id}"}} {go_float(exemplar.value)} {exemplar.at}'
