"""What is under deploy/, as far as it can be checked where no containers run."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit
from zipfile import ZipFile

import pytest
import yaml

from mlproducer import Settings
from mlproducer.monitoring import provisioning
from mlproducer.monitoring.dashboards import DATASOURCE, SHIPPED

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()


def test_promtool_finds_nothing_wrong_in_the_scrape_configuration(tmp_path: Path) -> None:
    shutil.copy(DEPLOY / "prometheus.yml", tmp_path)
    done = subprocess.run(
        ["promtool", "check", "config", tmp_path / "prometheus.yml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_scrapes_services_of_the_compose_file_and_our_route() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    for job in jobs.values():
        for target in job["static_configs"][0]["targets"]:
            assert urlsplit(f"//{target}").hostname in SERVICES
    assert jobs["mlproducer"]["metrics_path"] in (ROOT / "docs" / "reference.md").read_text()


def test_every_folder_and_file_that_is_mounted_exists() -> None:
    named = set(COMPOSE["volumes"])
    mounts = [mount.split(":") for service in SERVICES.values() for mount in service["volumes"]]
    assert {source for source, *_ in mounts if source[0] != "."} == named
    assert [source for source, *_ in mounts if source[0] == "." and not (DEPLOY / source).exists()] == []


def test_every_port_is_bound_to_this_machine_only() -> None:
    assert [p for service in SERVICES.values() for p in service["ports"] if not p.startswith("127.0.0.1:")] == []


def test_grafana_finds_the_dashboards_and_prometheus_where_its_provisioning_says() -> None:
    mounted = {target: source for source, target, *_ in (m.split(":") for m in SERVICES["grafana"]["volumes"])}
    assert (DEPLOY / mounted["/etc/grafana/dashboards"]).resolve() == SHIPPED.resolve()
    folder = DEPLOY / mounted["/etc/grafana/provisioning"]
    expected = provisioning.files(
        datasource=DATASOURCE,
        prometheus=provisioning.PROMETHEUS,
        dashboards=PurePosixPath("/etc/grafana/dashboards"),
    )
    assert {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*.yaml")} == expected
    assert urlsplit(provisioning.PROMETHEUS).hostname in SERVICES
    home = PurePosixPath(SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (SHIPPED / home.name).exists()


def test_the_settings_of_the_image_and_of_the_service_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {*re.findall(r"\b(ML_\w+)=", DOCKERFILE), *SERVICES["mlproducer"]["environment"]}
    known = {str(getattr(field.validation_alias, "choices", ("",))[0]) for field in Settings.model_fields.values()}
    assert {"ML_HOST", "ML_DATA_DIR", "RABBITMQ_URL", "ML_API_KEYS"} <= names <= known
    assert (
        urlsplit(
            SERVICES["mlproducer"]["environment"]["RABBITMQ_URL"].replace("${RABBITMQ_PASSWORD:-", "").replace("}", "")
        ).hostname
        == "rabbitmq"
    )
    grace = int(SERVICES["mlproducer"]["stop_grace_period"].removesuffix("s"))
    monkeypatch.delenv("ML_SHUTDOWN_TIMEOUT", raising=False)
    assert grace > Settings.load().ml_shutdown_timeout
    data = re.search(r"ML_DATA_DIR=(\S+)", DOCKERFILE)
    assert data is not None
    assert f"spool:{data[1]}" in SERVICES["mlproducer"]["volumes"]


def test_what_the_image_copies_is_enough_to_build_the_package_with_its_dashboards(tmp_path: Path) -> None:
    copied = [
        word
        for line in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, flags=re.MULTILINE)
        for word in line.split()
    ]
    let_in = re.findall(r"^!(\S+)$", (DEPLOY / "Dockerfile.dockerignore").read_text(), flags=re.MULTILINE)
    assert {Path(name).parts[0] for name in copied} == set(let_in)
    for name in copied:
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, target)
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "dist"]
    done = subprocess.run(build, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    shipped = {f"mlproducer/monitoring/grafana/{path.name}" for path in SHIPPED.glob("*.json")}
    assert len(shipped) == 2
    assert shipped <= set(ZipFile(wheel).namelist())
