"""Whose a task is: one of its headers, as a short key."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlproducer import Outbox, Settings, SettingsError, Task
from mlproducer.envelope.encode import Encoder
from mlproducer.envelope.tenants import BUCKETS, NOBODY, Tenants
from mlproducer.envelope.types import TaskTypes
from mlproducer.shares import Preferences, Share, plan
from mlproducer.wiring import tenants_for

TYPES = TaskTypes.builtin()


def task(**headers: str) -> Task:
    return Task(task_type="embed_vectors", payload={"share_id": "s", "content": "text"}, headers=headers)


def encoded(tenants: Tenants | None, **headers: str) -> str:
    return Encoder(TYPES, "o", 8192, tenants).encode(task(**headers)).tenant


def test_without_the_setting_no_task_has_a_tenant() -> None:
    assert tenants_for(Settings()) is None
    assert encoded(None, tenant="acme") == ""


def test_a_task_is_that_of_its_header_and_those_without_it_are_one_tenant() -> None:
    tenants = tenants_for(Settings(ml_tenant_header="x-tenant"))
    assert encoded(tenants, **{"x-tenant": "acme"}) == encoded(tenants, **{"x-tenant": "acme", "other": "1"}) != NOBODY
    assert encoded(tenants, tenant="acme") == encoded(tenants) == encoded(tenants, **{"x-tenant": ""}) == NOBODY


def test_the_keys_are_part_of_the_stores_format() -> None:
    """All producers of a spool must have the same, whatever their version."""
    tenants = Tenants("t", {"big": 3})
    assert [tenants.of({"t": name}) for name in ("acme", "é✓", "big")] == ["30", "6e", "=fb8d64fb32015689"]


@given(st.lists(st.text(min_size=1), max_size=9), st.dictionaries(st.text(min_size=1), st.integers(1, 10), max_size=3))
def test_names_without_end_have_keys_that_end_and_a_weight_is_of_its_name_alone(
    names: list[str], weights: dict[str, int]
) -> None:
    tenants = Tenants("t", weights)
    keys = {name: tenants.of({"t": name}) for name in [*names, *weights]}
    assert {keys[name] for name in weights} == set(tenants.weights)
    assert [tenants.weights[keys[name]] for name in weights] == list(weights.values())
    for name in set(names) - set(weights):
        assert keys[name] not in tenants.weights
        assert 0 <= int(keys[name], 16) < BUCKETS


def test_names_are_spread_evenly_over_all_buckets() -> None:
    tenants = Tenants("t", {})
    found = Counter(tenants.of({"t": f"tenant {n}"}) for n in range(100 * BUCKETS))
    assert len(found) == BUCKETS
    assert max(found.values()) < 200


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        ({"ml_tenant_header": "task"}, "ML_TENANT_HEADER.*part of Celery's message protocol"),
        ({"ml_tenant_header": "CC"}, "ML_TENANT_HEADER.*RabbitMQ acts on it"),
        ({"ml_tenant_header": "a b"}, "ML_TENANT_HEADER.*without blanks"),
        ({"ml_tenant_header": "x" * 129}, "ML_TENANT_HEADER.*1 to 128"),
        ({"ml_tenant_weights": "a=1"}, "name that in ML_TENANT_HEADER"),
        ({"ml_tenant_header": "t", "ml_tenant_weights": "a=11"}, "ML_TENANT_WEIGHTS"),
        ({"ml_tenant_header": "t", "ml_tenant_weights": " =1"}, "ML_TENANT_WEIGHTS.*names and whole numbers"),
    ],
)
def test_a_header_that_no_task_may_have_and_weights_of_nothing_are_refused(
    given_: dict[str, object], words: str
) -> None:
    with pytest.raises(SettingsError, match=words):
        Settings.load(**given_)


def test_weights_are_read_as_those_of_routes() -> None:
    settings = Settings.load(ml_tenant_header="t", ml_tenant_weights="acme=3, a=b=2")
    assert settings.ml_tenant_weights == {"acme": 3, "a=b": 2}


def test_a_share_gives_its_headers_to_its_tasks_and_is_the_same_share_with_others() -> None:
    shares = [Share(id="7", text="some text", headers=headers) for headers in ({"tenant": "acme"}, {})]
    (one,), (other,) = (plan(share, Preferences()) for share in shares)
    assert (one.headers, other.headers) == ({"tenant": "acme"}, {})
    assert one.id == other.id


def test_the_outbox_puts_rows_of_the_same_tenant(tmp_path: Path) -> None:
    settings = Settings.load(ml_tenant_header="tenant", ml_spool_url=f"sqlite:///{tmp_path}/app.db")
    assert Outbox(settings)._encoder.encode(task(tenant="acme")).tenant == "30"
