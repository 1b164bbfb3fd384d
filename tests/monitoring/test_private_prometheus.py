"""The private Prometheus that tests of dashboards and rules ask."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from private_prometheus import PrivatePrometheus, scraping


def test_it_scrapes_evaluates_rules_and_answers(tmp_path: Path) -> None:
    rules = tmp_path / "rules.json"
    rule = {"alert": "Gone", "expr": "up == 0", "labels": {"severity": "critical"}}
    rules.write_text(json.dumps({"groups": [{"name": "test", "rules": [rule]}]}))
    with PrivatePrometheus(tmp_path, scraping({"127.0.0.1:9": "nowhere"}, rules=[rules])) as prometheus:
        assert prometheus.until("up == 0")[0]["metric"]["job"] == "nowhere"
        prometheus.until('ALERTS{alertstate="firing"}')
        (alert,) = prometheus.alerts()
        assert (alert["labels"]["alertname"], alert["state"]) == ("Gone", "firing")
        now = time.time()
        assert prometheus.query_range("vector(2)", now - 10, now, 5)[0]["values"][0][1] == "2"
        assert prometheus.query("time()")[0]["metric"] == {}
        with pytest.raises(AssertionError, match="parse error"):
            prometheus.query("up ==")
        pid = prometheus.pid
        prometheus.stop()
        prometheus.start()
        assert prometheus.pid != pid
        assert prometheus.query("min_over_time(up[1m])"), "the data is still there"


def test_a_configuration_that_is_wrong_is_shown(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="nonsense"):
        PrivatePrometheus(tmp_path, {"nonsense": 1}).start()
