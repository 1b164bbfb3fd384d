"""The dashboards as they are shipped: equal to their code, complete, and about metrics that exist."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from mlproducer.events import BreakerState, ConnectionState, TrafficMeasured
from mlproducer.monitoring.build import built
from mlproducer.monitoring.dashboards import DATASOURCE, SHIPPED, dashboards, expressions, filled, panels
from mlproducer.monitoring.expressions import Durations
from mlproducer.monitoring.rules import alerts, anchor
from mlproducer.telemetry.metrics import Metrics

BOARDS = {board["uid"]: board for board in dashboards()}
PANELS = [panel for board in BOARDS.values() for panel in panels(board)]
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def panel_of(uid: str, title: str) -> dict[str, Any]:
    (found,) = (panel for panel in panels(BOARDS[uid]) if panel["title"] == title)
    return found


def test_the_shipped_files_are_what_the_code_builds() -> None:
    shipped = {path.name: path.read_text() for path in SHIPPED.iterdir()}
    assert shipped == built(), "run `make dashboards`"


def test_reading_and_exporting_needs_no_grafana_sdk() -> None:
    program = (
        "import sys\n"
        "from mlproducer.cli import dashboards, rules\n"
        "from mlproducer.monitoring.dashboards import expressions\n"
        "assert expressions()\n"
        "assert not [name for name in sys.modules if name.startswith('grafana')]\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_dashboard_has_its_name_uid_and_rows() -> None:
    board = BOARDS["ml-producer-monitoring"]
    assert board["title"] == "ML Producer Monitoring"
    assert [panel["title"] for panel in board["panels"] if panel["type"] == "row"] == [
        "Connection health",
        "Is it getting through?",
        "Queues",
        "Latency and size",
        "Errors by type",
    ]


def test_the_connection_tile_names_and_colours_every_state() -> None:
    (mapping,) = panel_of("ml-producer-monitoring", "Connection")["fieldConfig"]["defaults"]["mappings"]
    shown = {int(number): (each["text"], each["color"]) for number, each in mapping["options"].items()}
    assert set(shown) == {*ConnectionState, -1}
    assert [shown[number] for number in range(5)] == [
        ("Disconnected", "red"),
        ("Connecting", "yellow"),
        ("Connected", "green"),
        ("Closing", "orange"),
        ("Closed", "purple"),
    ]
    (mapping,) = panel_of("ml-producer-monitoring", "Circuit breaker")["fieldConfig"]["defaults"]["mappings"]
    assert {int(number) for number in mapping["options"]} == set(BreakerState)


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_every_panel_says_what_it_shows_and_asks_the_data_source_of_the_variable(panel: dict[str, Any]) -> None:
    assert panel["description"].endswith(".")
    assert panel["datasource"] == SOURCE
    assert [target["datasource"] for target in panel["targets"]] == [SOURCE] * len(panel["targets"])
    assert panel["type"] == "state-timeline" or panel["fieldConfig"]["defaults"]["unit"]
    steps = panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", [])
    values = [step["value"] for step in steps]
    assert not values or (values[0] is None and values[1:] == sorted(values[1:]))
    names = [link["url"] for link in panel.get("links", [])]
    assert [url for url in names if not re.fullmatch(r"\$\{runbooks\}#mlproducer[a-z]+", url)] == []


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_panels_have_ids_and_places_of_their_own(board: dict[str, Any]) -> None:
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    for one, other in combinations((panel["gridPos"] for panel in board["panels"]), 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in board["panels"])


def test_every_metric_that_is_asked_for_is_one_of_ours() -> None:
    metrics = Metrics(["embed"], ["ml.embed"])
    metrics(TrafficMeasured("ml.embed", 0))  # it has no series before the management API said so
    exposed = set(re.findall(r"^(\w+)", metrics.prometheus()[0].decode(), flags=re.MULTILINE))
    asked = {name for each in expressions() for name in re.findall(r"\b((?:ml_producer|process)_\w+)", each.expr)}
    variables = {
        name for board in BOARDS.values() for name in re.findall(r"ml_producer_\w+", json.dumps(board["templating"]))
    }
    assert asked | variables <= exposed
    assert len(asked) > 25


def test_values_go_in_place_of_variables_and_one_without_a_value_is_an_error() -> None:
    assert filled('up{job=~"$job"}[${__range}]', {"job": "a|b", "__range": "5m"}) == 'up{job=~"a|b"}[5m]'
    with pytest.raises(KeyError, match="instance"):
        filled('up{instance=~"$instance"}', {"job": "a"})
    assert [each.expr for each in expressions() if "$" in each.expr] == []


def test_another_data_source_and_place_of_runbooks_become_the_first_values_of_their_variables() -> None:
    def first(board: dict[str, Any]) -> dict[str, Any]:
        return {each["name"]: each["current"]["value"] for each in board["templating"]["list"]}

    for board in dashboards(datasource="mine", runbooks="https://docs.example/operations/"):
        assert (first(board)["datasource"], first(board)["runbooks"]) == ("mine", "https://docs.example/operations/")
    for board in dashboards():
        assert first(board)["datasource"] == DATASOURCE == "PBFA97CFB590B2093"


def test_the_runbook_of_every_panel_is_an_alert_that_there_is() -> None:
    titles = {link["title"] for panel in PANELS for link in panel.get("links", [])}
    assert all(re.fullmatch(r"Runbook: MLProducer[A-Z]\w+", title) for title in titles)
    assert len(titles) >= 9
    assert {title.removeprefix("Runbook: ") for title in titles} <= {alert.name for alert in alerts(Durations())}


def test_the_runbook_of_every_panel_is_a_section_of_the_operations_page() -> None:
    page = Path(__file__).parents[2].joinpath("docs/operations.md").read_text()
    sections = {anchor(heading) for heading in re.findall(r"^### (\w+)$", page, flags=re.MULTILINE)}
    links = {(link["title"], link["url"]) for panel in PANELS for link in panel.get("links", [])}
    assert links
    for title, url in links:
        assert url == f"${{runbooks}}#{anchor(title.removeprefix('Runbook: '))}"
        assert url.rpartition("#")[2] in sections, f"{title} leads to a section that docs/operations.md has not"


def test_a_series_of_the_fleet_leads_to_the_dashboard_of_its_instance() -> None:
    for panel in panels(BOARDS["ml-producer-fleet"]):
        if panel["type"] != "stat":
            (link,) = panel["fieldConfig"]["defaults"]["links"]
            assert link["url"].startswith("/d/ml-producer-monitoring?")
            assert "var-instance=${__field.labels.instance}" in link["url"]


def test_the_files_are_small_enough_to_ship() -> None:
    assert sum(path.stat().st_size for path in Path(SHIPPED).iterdir()) < 200_000
