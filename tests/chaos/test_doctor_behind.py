"""`mlproducer doctor` at the management API of a real broker: what a confirm hides there is named."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mlproducer.cli.app import app
from mlproducer.reliability.reader import Reader
from mlproducer.testing.rabbitmq import PrivateRabbit, free_port

POLICY = 'rabbit_policy:set(<<"/">>, <<"{name}">>, <<"{pattern}">>, [{{<<"{key}">>, {value}}}], 1, <<"{kind}">>, <<"test">>).'


def findings() -> dict[str, dict[str, Any]]:
    told = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)
    return {each["check"]: each for each in told["findings"]}


@pytest.mark.chaos
def test_what_a_confirm_hides_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    config = {"management.tcp.ip": "127.0.0.1", "management.tcp.port": str(port)}
    with PrivateRabbit(tmp_path / "node", plugins=("rabbitmq_management",), config=config) as node:
        monkeypatch.setenv("RABBITMQ_URL", node.url)
        assert "RABBITMQ_MANAGEMENT_URL" in findings()["behind the exchange"]["todo"]
        monkeypatch.setenv("RABBITMQ_MANAGEMENT_URL", f"http://127.0.0.1:{port}")
        with Reader(node.url) as admin:
            admin.make_queue("ml.embed", "ml.tasks")
            fine = findings()
            assert {fine[check]["verdict"] for check in ("alternate exchange", "other bindings")} == {"ok"}
            assert fine["after the confirm in ml.embed"]["verdict"] == "ok", fine
            admin.make_queue("spy", "ml.tasks")
            admin.bind("spy", "ml.tasks", "#")
            for name, pattern, key, value, kind in (
                ("net", "ml.tasks", "alternate-exchange", '<<"amq.fanout">>', "exchanges"),
                ("short", "ml.embed", "max-length", "5", "queues"),
            ):
                node.eval(POLICY.format(name=name, pattern=pattern, key=key, value=value, kind=kind))
            node.memory_alarm(on=True)
            end = time.monotonic() + 60
            while "drops" not in (found := findings())["after the confirm in ml.embed"]["detail"]:
                assert time.monotonic() < end, "the API's figures are some seconds old"
                time.sleep(1)
            assert "low on memory" in CliRunner().invoke(app, ["check"]).stdout
            node.memory_alarm(on=False)
        assert "low on memory" in found["broker alarm"]["detail"]
        assert "amq.fanout" in found["alternate exchange"]["detail"]
        assert "the queue spy takes #" in found["other bindings"]["detail"]
        assert "drops from its head" in found["after the confirm in ml.embed"]["detail"]
