"""The console's page, its sessions, and its live stream, without a browser."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import httpx
import pytest

from http_bench import KEY, OTHER_KEY, HttpBench, assert_problem, embed, http_bench
from mlproducer.errors import NotAccepting
from mlproducer.http.console import pulse as pulse_module
from mlproducer.http.console.assets import assets
from mlproducer.http.console.pulse import Pulse
from mlproducer.http.sessions import LIFETIME, MOST, Sessions
from mlproducer.outcome import Returned
from mlproducer.rows import DeadFilter
from mlproducer.testing.clock import ManualClock

ROOT = Path(__file__).parents[2]
SITE = {"Origin": "http://127.0.0.1:3001"}
EVIL = {"Origin": "https://evil.example"}
STRICT = (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "frame-ancestors 'none'",
    "trusted-types 'none'",
)


async def sign_in(b: HttpBench, key: str = KEY, **headers: str) -> httpx.Response:
    return await b.client.post("/console/session", json={"key": key}, headers={**SITE, **headers})


async def test_the_front_door_is_the_console_and_every_file_that_it_names_is_there() -> None:
    async with http_bench(ml_api_keys=KEY) as b:
        page = await b.client.get("/")
        assert page.status_code == 200
        named = re.findall(r'(?:src|href)="(console/[^"]+)"', page.text)
        for module in (await b.client.get("/console/app.js")).text, *(a.content.decode() for a in assets().values()):
            named += [f"console/{name}" for name in re.findall(r'from "\./([^"]+)"', module)]
        assert len(set(named)) >= 12
        for name in set(named):
            found = await b.client.get(f"/{name}")
            assert found.status_code == 200, name


async def test_the_page_loads_nothing_from_elsewhere_and_its_policy_is_strict() -> None:
    async with http_bench() as b:
        for path in ("/", *(f"/console/{name}" for name in assets())):
            found = await b.client.get(path)
            policy = found.headers["content-security-policy"]
            assert all(part in policy for part in STRICT)
            assert "unsafe" not in policy
            assert found.headers["x-content-type-options"] == "nosniff"
            without_names = found.text.replace("http://www.w3.org/2000/svg", "")
            assert not re.search(r"https?://|innerHTML|\sstyle=|\son\w+=", without_names), path


async def test_a_file_that_did_not_change_is_not_sent_again() -> None:
    async with http_bench() as b:
        first = await b.client.get("/console/app.js")
        again = await b.client.get("/console/app.js", headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert_problem(await b.client.get("/console/secrets.py"), 404, "no-such-path")
        assert (await b.client.get("/console/..%2froutes.py")).status_code == 404


def test_a_wheel_holds_every_file_of_the_console(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    inside = set(ZipFile(wheel).namelist())
    folder = "mlproducer/http/console/static"
    here = {f"{folder}/{each.name}" for each in (ROOT / "src" / folder).iterdir()}
    assert here <= inside
    assert {f"{folder}/{name}" for name in assets()} == here, "each has a media type"


async def test_a_key_buys_a_cookie_that_no_script_and_no_other_site_can_use() -> None:
    async with http_bench(ml_api_keys=f"{KEY},{OTHER_KEY}") as b:
        assert (await b.client.get("/console/session")).json() == {"signed_in": False}
        answer = await sign_in(b, OTHER_KEY)
        assert answer.status_code == 201
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith("mlproducer3001=")
        for part in ("HttpOnly", "Path=/", "SameSite=strict", f"Max-Age={int(LIFETIME)}"):
            assert part in cookie
        assert "Secure" not in cookie
        assert OTHER_KEY not in answer.text
        assert OTHER_KEY not in cookie
        assert (await b.client.get("/api/ml/dlq")).status_code == 200
        assert (await b.client.get("/console/session")).json()["csrf"] == answer.json()["csrf"]


async def test_behind_tls_the_cookie_is_for_tls_alone() -> None:
    async with http_bench(ml_api_keys=KEY) as b:
        answer = await sign_in(b, Host="tasks.example", Origin="https://tasks.example")
        assert answer.headers["set-cookie"].startswith("__Host-mlproducer=")
        assert "Secure" in answer.headers["set-cookie"]


@pytest.mark.parametrize("key", ["wrong", KEY[:-1], KEY + "x", "ünïcode", "\ud800"])
async def test_a_wrong_key_is_401_and_sets_no_cookie(key: str) -> None:
    async with http_bench(ml_api_keys=KEY) as b:
        content = json.dumps({"key": key})
        answer = await b.client.post("/console/session", content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code in {401, 422}
        assert "set-cookie" not in answer.headers
        assert KEY not in answer.text


async def test_a_sign_in_from_another_site_or_as_a_form_is_refused() -> None:
    async with http_bench(ml_api_keys=KEY) as b:
        assert_problem(await sign_in(b, **EVIL), 403, "forbidden")
        form = await b.client.post("/console/session", data={"key": KEY}, headers=SITE)
        assert_problem(form, 415, "wrong-media-type")
        assert_problem(await b.client.post("/console/session", json={}), 422, "invalid-request", "key")


async def test_a_cookie_alone_changes_nothing() -> None:
    calls = [
        ("POST", "/api/ml/connection/reconnect"),
        ("POST", "/api/ml/circuit-breaker/reset"),
        ("POST", "/api/ml/dlq/replay"),
        ("DELETE", "/api/ml/dlq"),
        ("POST", "/api/ml/tasks"),
        ("DELETE", "/console/session"),
    ]
    async with http_bench(ml_api_keys=KEY) as b:
        token = (await sign_in(b)).json()["csrf"]
        wrong: list[dict[str, str]] = [
            {},
            SITE,
            {**EVIL, "X-CSRF-Token": token},
            {**SITE, "X-CSRF-Token": token + "x"},
            {"X-CSRF-Token": "ü"},
        ]
        connects = b.broker.connects
        for method, path in calls:
            for headers in wrong:
                raw = [(name.encode(), value.encode()) for name, value in headers.items()]
                assert_problem(await b.client.request(method, path, headers=raw), 403, "forbidden")
        assert b.broker.connects == connects
        assert (await b.client.get("/api/ml/status")).status_code == 200, "the session stands"
        for method, path in calls:
            answer = await b.client.request(method, path, headers={**SITE, "X-CSRF-Token": token})
            assert answer.status_code not in {401, 403}, path


async def test_signing_out_ends_the_session_for_good() -> None:
    async with http_bench(ml_api_keys=KEY) as b:
        token = (await sign_in(b)).json()["csrf"]
        stolen = dict(b.client.cookies)
        assert (await b.client.delete("/console/session", headers={"X-CSRF-Token": token})).status_code == 204
        assert not b.client.cookies
        b.client.cookies.update(stolen)
        assert_problem(await b.client.get("/api/ml/dlq"), 401, "unauthorized")
        assert (await b.client.get("/console/session")).json() == {"signed_in": False}


async def test_signing_in_again_ends_the_session_before() -> None:
    async with http_bench(ml_api_keys=KEY) as b:
        await sign_in(b)
        before = dict(b.client.cookies)
        await sign_in(b)
        b.client.cookies.clear()
        b.client.cookies.update(before)
        assert_problem(await b.client.get("/api/ml/dlq"), 401, "unauthorized")


async def test_a_wrong_key_in_a_header_is_not_saved_by_a_cookie() -> None:
    async with http_bench(ml_api_keys=KEY) as b:
        await sign_in(b)
        answer = await b.client.get("/api/ml/dlq", headers={"X-API-Key": "wrong-key-0123456789"})
        assert_problem(answer, 401, "unauthorized")


async def test_the_audit_names_the_key_that_signed_in() -> None:
    async with http_bench(ml_api_keys=KEY) as b:
        b.broker.script.extend([Returned(312, "NO_ROUTE")] * 3)
        await b.client.post("/api/ml/tasks", json=embed(id="t1"), headers={"X-API-Key": KEY})
        await until_dead(b, 1)
        by_key = await b.client.post(
            "/api/ml/dlq/replay", json={"all": True, "dry_run": True}, headers={"X-API-Key": KEY, "X-Operator": "ada"}
        )
        token = (await sign_in(b)).json()["csrf"]
        by_cookie = await b.client.post(
            "/api/ml/dlq/replay",
            json={"all": True, "dry_run": True},
            headers={"X-CSRF-Token": token, "X-Operator": "ada"},
        )
        assert by_cookie.json()["by"] == by_key.json()["by"]
        assert re.fullmatch(r"ada \(key:[0-9a-f]{8}\)", by_cookie.json()["by"])


async def test_without_keys_this_machine_needs_no_sign_in_and_others_get_none() -> None:
    async with http_bench() as b:
        found = (await b.client.get("/console/session")).json()
        assert (found["signed_in"], found["by_key"], found["csrf"]) == (True, False, None)
        assert_problem(await b.client.get("/console/session", headers={"Host": "evil.example"}), 403, "forbidden")
        assert_problem(await b.client.get("/console/events", headers={"Host": "evil.example"}), 403, "forbidden")
        assert_problem(await sign_in(b), 401, "unauthorized")


def test_sessions_end_by_themselves_and_are_bounded() -> None:
    clock = ManualClock()
    sessions = Sessions(clock.monotonic)
    tokens = [sessions.open("key:1")[0] for _ in range(MOST + 1)]
    assert sessions.find(tokens[0]) is None, "the oldest went"
    assert sessions.find(tokens[1]) is not None
    assert sessions.find("") is None
    clock.advance(LIFETIME)
    assert sessions.find(tokens[-1]) is None
    token, _ = sessions.open("key:1")
    assert sessions.find(token) is not None


async def until_dead(b: HttpBench, count: int) -> None:
    async with asyncio.timeout(5):
        while await b.producer.plan(DeadFilter()) < count:  # noqa: ASYNC110  # a spool tells no event
            await asyncio.sleep(0.02)


Event = tuple[str, Any]


async def told(frames: AsyncIterator[bytes]) -> AsyncIterator[Event]:
    async for frame in frames:
        for event in frame.decode().split("\n\n"):
            fields = dict(line.split(": ", 1) for line in event.split("\n") if line)
            if "event" in fields:
                yield fields["event"], json.loads(fields["data"])


@asynccontextmanager
async def watching(b: HttpBench, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Pulse, AsyncIterator[Event]]]:
    monkeypatch.setattr(pulse_module, "BEAT", 0.02)
    pulse = Pulse(b.producer)
    try:
        yield pulse, told(pulse.frames(lambda: True))
    finally:
        pulse.stop()


async def first(events: AsyncIterator[Event], wanted: str, true: Any = lambda _: True) -> Any:
    async with asyncio.timeout(5):
        async for name, data in events:
            if name == wanted and true(data):
                return data
    raise AssertionError(f"the stream ended before {wanted}")


async def test_the_stream_begins_with_the_past_and_goes_on_with_what_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    async with http_bench() as b, watching(b, monkeypatch) as (pulse, events):
        pulse.start()
        await asyncio.sleep(0.1)
        past = await first(events, "history")
        assert len(past["at"]) >= 2
        assert {len(column) for column in past.values()} == {len(past["at"])}
        assert (await first(events, "sample"))["verdict"]["level"] == "ok"
        await b.client.post("/api/ml/tasks", json=embed())
        sample = await first(events, "sample", lambda data: data["sample"]["confirmed"] > 0)
        assert sample["sample"]["accepted"] > 0
        assert 0 < sample["sample"]["p50"] < 5


async def test_a_lost_broker_turns_it_red_and_tasks_and_dead_letters_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async with http_bench() as b, watching(b, monkeypatch) as (_, events):
        b.broker.script.extend([Returned(312, "NO_ROUTE")] * 3)
        await b.client.post("/api/ml/tasks", json=embed(id="dies"))
        (dead,) = await first(events, "dead", len)
        assert (dead["task_id"], dead["code"]) == ("dies", 312)
        b.broker.down = True
        b.broker.drop()
        bad = await first(events, "sample", lambda data: data["verdict"]["level"] == "bad")
        assert "fake broker" in bad["verdict"]["detail"]
        await b.client.post("/api/ml/tasks", json=embed(id="waits"))
        (row,) = await first(events, "waiting", len)
        assert row["task_id"] == "waits"
        b.broker.down = False
        latest: dict[str, Any] = {"waiting": [row], "changes": []}
        async with asyncio.timeout(5):
            async for name, data in events:
                latest[name] = data
                if not latest["waiting"] and [each["level"] for each in latest["changes"]][:2] == ["warn", "bad"]:
                    return
        raise AssertionError(latest)


async def test_a_hostile_text_is_told_as_data_on_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = "</script>\n\nevent: sample\ndata: {}\n\n\r\u2028<img src=x onerror=alert(1)>"
    async with http_bench() as b, watching(b, monkeypatch) as (_, events):
        b.broker.script.extend([Returned(312, hostile)] * 3)
        await b.client.post("/api/ml/tasks", json=embed(id="<script>alert(1)</script>"))
        (dead,) = await first(events, "dead", len)
        assert dead["task_id"] == "<script>alert(1)</script>"
        assert hostile in dead["text"]


async def test_the_stream_ends_with_the_session_and_with_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse_module, "BEAT", 0.02)
    async with http_bench() as b:
        pulse, stands = Pulse(b.producer), [True]
        events, others = told(pulse.frames(lambda: stands[0])), told(pulse.frames(lambda: True))
        await first(events, "sample")
        await first(others, "sample")
        stands[0] = False
        async with asyncio.timeout(2):
            assert len([each async for each in events]) <= 4, "what was under way, and no more"
        pulse.stop()
        async with asyncio.timeout(2):
            assert len([each async for each in others]) <= 4


async def test_all_clients_are_given_the_same_bytes_and_too_many_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse_module, "BEAT", 0.05)
    monkeypatch.setattr(pulse_module, "MOST", 3)
    async with http_bench() as b:
        pulse = Pulse(b.producer)
        clients = [pulse.frames(lambda: True) for _ in range(3)]
        for client in clients:
            await anext(client)
        frames = [await anext(client) for client in clients]
        assert frames[0] == frames[1] == frames[2]
        with pytest.raises(NotAccepting):
            await anext(pulse.frames(lambda: True))
        await clients[0].aclose()
        assert b"history" in await anext(pulse.frames(lambda: True))
        pulse.stop()
