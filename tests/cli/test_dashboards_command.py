"""`mlproducer dashboards export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner

from mlproducer.cli.app import app
from mlproducer.monitoring.dashboards import DATASOURCE

run = CliRunner().invoke


def first_value(board: dict[str, Any], name: str) -> object:
    (variable,) = (each for each in board["templating"]["list"] if each["name"] == name)
    return variable["current"]["value"]


def test_export_writes_both_dashboards_into_a_new_folder(tmp_path: Path) -> None:
    done = run(app, ["dashboards", "export", str(tmp_path / "new" / "folder")])
    assert done.exit_code == 0, done.output
    found = sorted((tmp_path / "new" / "folder").iterdir())
    assert [path.name for path in found] == ["ml-producer-fleet.json", "ml-producer-monitoring.json"]
    assert done.stdout.splitlines() == [str(path) for path in found]
    board = json.loads(found[1].read_text())
    assert (board["uid"], first_value(board, "datasource")) == ("ml-producer-monitoring", DATASOURCE)


def test_export_asks_another_data_source_and_links_to_other_runbooks(tmp_path: Path) -> None:
    words = ["--datasource", "mine", "--runbooks", "https://docs.example/operations/", "--json"]
    done = run(app, ["dashboards", "export", str(tmp_path), *words])
    told = json.loads(done.stdout)
    assert (told["datasource"], told["runbooks"]) == ("mine", "https://docs.example/operations/")
    for name in told["files"]:
        board = json.loads(Path(name).read_text())
        assert first_value(board, "datasource") == "mine"
        assert first_value(board, "runbooks") == "https://docs.example/operations/"


def test_export_with_provisioning_is_a_folder_for_etc_grafana(tmp_path: Path) -> None:
    words = ["--provisioning", "--datasource", "it's $mine", "--prometheus", "http://metrics:9090"]
    assert run(app, ["dashboards", "export", str(tmp_path), *words]).exit_code == 0
    (source,) = yaml.safe_load((tmp_path / "provisioning/datasources/mlproducer.yaml").read_text())["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://metrics:9090")
    assert source["uid"] == "it's $$mine", "Grafana reads `$$` as the sign"
    (provider,) = yaml.safe_load((tmp_path / "provisioning/dashboards/mlproducer.yaml").read_text())["providers"]
    seen = Path(provider["options"]["path"])
    assert seen.is_relative_to("/etc/grafana")
    assert len(list((tmp_path / seen.relative_to("/etc/grafana")).glob("*.json"))) == 2


def test_a_folder_that_cannot_be_written_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run(app, ["dashboards", "export", str(tmp_path / "file")])
    assert done.exit_code == 1
    assert "cannot be written" in done.stderr
    assert len(done.stderr.splitlines()) == 1
