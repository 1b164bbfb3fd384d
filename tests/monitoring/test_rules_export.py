"""The rules as files: shipped, exported, checked by promtool, each with its runbook."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from engine_bench import bench, embed
from mlproducer.cli.app import app
from mlproducer.monitoring.dashboards import RUNBOOKS
from mlproducer.monitoring.expressions import IN_TIME, Durations
from mlproducer.monitoring.rules import SHIPPED, alerts, anchor, as_yaml, document
from mlproducer.telemetry.metrics import Metrics
from mlproducer.telemetry.tasks import ACCEPT_BUCKETS
from promtool import promtool

ROOT = Path(__file__).parents[2]
NAMES = [alert.name for alert in alerts(Durations())]


def test_the_shipped_file_is_what_the_code_says() -> None:
    assert SHIPPED.read_text() == as_yaml(document())


def test_the_yaml_says_what_the_data_says() -> None:
    assert yaml.safe_load(as_yaml(document())) == document()


def test_promtool_finds_nothing_to_complain_about_in_the_rules() -> None:
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", SHIPPED)
    assert done.returncode == 0, done.stdout + done.stderr


async def test_promtool_finds_nothing_to_complain_about_in_the_metrics() -> None:
    b = bench()
    async with b.producer:
        await b.producer.connected(5)
        await b.producer.publish(embed())
    text = b.producer.metrics.prometheus()[0].decode()
    assert "ml_producer_tasks_accepted_total 1.0" in text
    done = promtool("check", "metrics", stdin=text)
    complaints = [line for line in (done.stdout + done.stderr).splitlines() if line]
    assert complaints == []


def test_every_metric_that_a_rule_asks_for_exists() -> None:
    samples = {sample.name for family in Metrics((), ()).registry.collect() for sample in family.samples}
    recorded = {rule["record"] for group in document()["groups"] for rule in group["rules"] if "record" in rule}
    asked = {
        name
        for group in document()["groups"]
        for rule in group["rules"]
        for name in re.findall(r"[a-z:]*ml_producer_[a-z0-9_:]+", rule["expr"])
    }
    assert "ml_producer_connection_state" in asked
    assert asked <= samples | recorded
    assert {name for name in asked if ":" in name} == recorded


def test_in_time_is_a_bucket_that_there_is() -> None:
    assert float(IN_TIME) in ACCEPT_BUCKETS


@pytest.mark.parametrize(
    ("seconds", "scale", "said"),
    [
        (120, 1.0, "2m"),
        (259_200, 1.0, "3d"),
        (90, 1.0, "90s"),
        (300, 1 / 60, "5s"),
        (60, 0.04, "2400ms"),
        (1, 1e-9, "1ms"),
    ],
)
def test_a_duration_is_spelled_as_prometheus_reads_it(seconds: float, scale: float, said: str) -> None:
    assert Durations(scale)(seconds) == said


@pytest.mark.parametrize("name", NAMES)
def test_every_alert_has_a_runbook_section_with_its_parts(name: str) -> None:
    page = (ROOT / "docs/operations.md").read_text()
    headings = [*re.finditer(r"^#+ (.+)$", page, flags=re.MULTILINE)]
    sections = {
        heading[1]: page[heading.end() : following.start()]
        for heading, following in pairwise([*headings, re.compile("$").search(page, len(page)) or headings[-1]])
    }
    (heading,) = (each for each in sections if anchor(name) == re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-"))
    for part in ("**Means.**", "**Confirm.**", "**Causes.**", "**Do.**"):
        assert part in sections[heading], part
    (rule,) = (r for group in document()["groups"] for r in group["rules"] if r.get("alert") == name)
    assert rule["annotations"]["runbook_url"] == f"{RUNBOOKS}#{anchor(name)}"
    assert (ROOT / RUNBOOKS).exists()


def test_export_prints_the_rules() -> None:
    done = CliRunner().invoke(app, ["rules", "export"])
    assert done.exit_code == 0
    assert done.output == SHIPPED.read_text()


def test_export_writes_a_file_whose_runbooks_are_where_told(tmp_path: Path) -> None:
    file, url = tmp_path / "rules.yml", "https://wiki.example/mlproducer"
    done = CliRunner().invoke(app, ["rules", "export", str(file), "--runbooks", url, "--json"])
    assert json.loads(done.output) == {"file": str(file), "alerts": NAMES, "runbooks": url}
    assert yaml.safe_load(file.read_text()) == document(runbooks=url)
    assert f'"{url}#mlproducerblocked"' in file.read_text()


def test_export_in_json_is_the_rules_as_data() -> None:
    assert json.loads(CliRunner().invoke(app, ["rules", "export", "--json"]).output) == document()


def test_a_file_that_cannot_be_written_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["rules", "export", str(tmp_path / "no" / "rules.yml")])
    assert (done.exit_code, done.output.count("\n")) == (1, 1)
    assert "cannot be written: No such file or directory" in done.output
