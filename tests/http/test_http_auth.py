"""Who is let in: with keys, without keys on this machine, and not at all."""

from __future__ import annotations

import httpx
import pytest

from http_bench import KEY, OTHER_KEY, assert_problem, embed, http_bench
from mlproducer import Settings, SettingsError
from mlproducer.http import create_app
from mlproducer.http.app import router

OPEN = {
    "/api/ml/metrics/prometheus",
    "/api/ml/metrics/json",
    "/api/ml/analytics/health",
    "/api/ml/health",
    "/api/ml/health/live",
    "/api/ml/health/ready",
}
KEYS = f"{KEY},{OTHER_KEY}"


def operations() -> list[tuple[str, str]]:
    """Every call that the service has, from its own description."""
    app = create_app(Settings.load(ml_spool_url="memory://"))
    return [(method.upper(), path) for path, methods in app.openapi()["paths"].items() for method in methods]


@pytest.mark.parametrize(("method", "path"), operations())
async def test_each_call_needs_a_key_unless_it_shows_no_task(method: str, path: str) -> None:
    async with http_bench(ml_api_keys=KEYS) as b:
        path = path.replace("{task_id}", "t").replace("{share_id}", "s")
        answer = await b.client.request(method, path)
        if path in OPEN:
            assert answer.status_code == 200
        else:
            problem = assert_problem(answer, 401, "unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"
            assert "ML_API_KEYS" in problem["detail"]


def test_the_description_lists_what_the_router_has() -> None:
    assert len(operations()) >= 20
    assert router.routes


@pytest.mark.parametrize("key", [KEY, OTHER_KEY])
async def test_each_key_is_taken_in_either_header(key: str) -> None:
    async with http_bench(ml_api_keys=KEYS) as b:
        for headers in ({"Authorization": f"Bearer {key}"}, {"X-API-Key": key}):
            answer = await b.client.post("/api/ml/tasks", json=embed(), headers=headers)
            assert answer.status_code == 201


@pytest.mark.parametrize("key", ["wrong", "", KEY[:-1], KEY + "x", KEYS, "ünïcode"])
async def test_a_wrong_key_is_401_and_nothing_is_accepted_nor_told(key: str) -> None:
    async with http_bench(ml_api_keys=KEYS) as b:
        for name, value in (("Authorization", f"Bearer {key}"), ("X-API-Key", key)):
            answer = await b.client.post("/api/ml/tasks", json=embed(), headers={name.encode(): value.encode()})
            assert_problem(answer, 401, "unauthorized")
            assert KEY not in answer.text
        assert b.broker.task_ids() == []


@pytest.mark.parametrize("host", ["127.0.0.1:3001", "localhost", "localhost:80", "[::1]:3001", "[::1]"])
async def test_without_keys_this_machine_is_served_by_each_of_its_names(host: str) -> None:
    async with http_bench() as b:
        answer = await b.client.post("/api/ml/tasks", json=embed(), headers={"Host": host, "Origin": f"http://{host}"})
        assert answer.status_code == 201


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example:3001"},
        {"Host": "localhost@evil.example"},
        {"Host": "["},
        {"Host": ""},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:8000"},
        {"Origin": "https://127.0.0.1:3001"},
    ],
)
async def test_without_keys_no_page_of_another_site_gets_in(headers: dict[str, str]) -> None:
    async with http_bench() as b:
        for method, path in (
            ("POST", "/api/ml/tasks"),
            ("POST", "/api/ml/connection/reconnect"),
            ("GET", "/api/ml/dlq"),
        ):
            assert_problem(await b.client.request(method, path, headers=headers), 403, "forbidden")


async def test_insecure_lets_everybody_in() -> None:
    async with http_bench(ml_host="0.0.0.0", ml_insecure=True) as b:  # noqa: S104  # this is what is tested
        answer = await b.client.post("/api/ml/tasks", json=embed(), headers={"Host": "tasks.example"})
        assert answer.status_code == 201


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "tasks.example"])  # noqa: S104  # this is what is tested
def test_bound_elsewhere_than_loopback_it_refuses_to_start_without_keys(host: str) -> None:
    with pytest.raises(SettingsError, match=r"ML_API_KEYS.*--insecure.*ML_INSECURE"):
        create_app(Settings.load(ml_host=host, ml_spool_url="memory://"))
    create_app(Settings.load(ml_host=host, ml_api_keys=KEY, ml_spool_url="memory://"))


async def test_no_secret_is_shown_anywhere() -> None:
    async with http_bench(ml_api_keys=KEY) as b:
        headers = {"X-API-Key": KEY}
        shown: list[httpx.Response] = [
            await b.client.get(path, headers=headers)
            for path in [*OPEN, "/api/ml/status", "/docs", "/openapi.json", "/api/ml/retry-queue"]
        ]
        for answer in shown:
            assert answer.status_code == 200, answer.text
            assert KEY not in answer.text
            assert "hidden-password" not in answer.text
