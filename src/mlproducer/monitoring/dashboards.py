"""The Grafana dashboards as they are shipped: JSON beside this module, which needs neither Grafana nor its SDK.

They are made by `producer_board` and `fleet_board`; a test keeps files and code equal.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from types import MappingProxyType
from typing import Any, Final

SHIPPED: Final = Path(__file__).with_name("grafana")
DATASOURCE: Final = "PBFA97CFB590B2093"
"""The uid of the Prometheus that the dashboards ask, if the exporter names no other."""
RUNBOOKS: Final = "docs/operations.md"
"""Where the runbooks are, if the exporter does not say."""

EVERYTHING: Final[Mapping[str, str]] = MappingProxyType(
    {"job": ".+", "instance": ".+", "__rate_interval": "1m", "__range": "1h"}
)
"""What the variables of the expressions are where Grafana is not there to say."""


@dataclass(frozen=True, slots=True)
class Expression:
    """One query of one panel, ready for Prometheus. `instant`: the panel shows its value of now, else over time."""

    dashboard: str
    panel: str
    legend: str
    expr: str
    instant: bool


def dashboards(*, datasource: str = DATASOURCE, runbooks: str = RUNBOOKS) -> list[dict[str, Any]]:
    """What Grafana imports, with these two as the first values of their variables."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(SHIPPED.glob("*.json"))]
    for board in found:
        for variable in board["templating"]["list"]:
            match variable["name"]:
                case "datasource":
                    variable["current"] = {"selected": True, "text": datasource, "value": datasource}
                case "runbooks":
                    variable["query"] = runbooks
                    variable["current"] = {"selected": True, "text": runbooks, "value": runbooks}
    return found


def expressions(values: Mapping[str, str] = EVERYTHING) -> list[Expression]:
    """Every query of every panel, with `values` for the variables.

    Raises: KeyError, if a variable has none.
    """
    return [
        Expression(
            board["title"],
            panel["title"],
            target.get("legendFormat", ""),
            filled(target["expr"], values),
            bool(target.get("instant")),
        )
        for board in dashboards()
        for panel in panels(board)
        for target in panel["targets"]
    ]


def panels(board: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Without the rows, which show nothing."""
    return (panel for panel in board["panels"] if panel["type"] != "row")


def filled(expr: str, values: Mapping[str, str]) -> str:
    """Raises: KeyError, if a variable has no value."""
    return Template(expr).substitute(values)
