from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlproducer.telemetry.redact import MASK, redact, redact_text

SECRET = "s3cr3t-Value"


@pytest.mark.parametrize(
    "text",
    [
        f"amqp://ml:{SECRET}@localhost:5672/",
        f"amqps://ml:{SECRET}@h1:5671/v,amqps://ml:{SECRET}@h2:5671/v",
        f"could not connect to 'amqp://ml:{SECRET}@localhost' (refused)",
        f"amqp://ml:{SECRET}/x@y@localhost/",
        f"redis://:{SECRET}@localhost/0",
        f"postgresql+psycopg://me:{SECRET}@db/spool",
        f"https://cdn.example.com/a.mp3?x=1&X-Amz-Signature={SECRET}&y=2",
        f"password={SECRET}",
        f"RABBITMQ_PASSWORD={SECRET} serve",
        f'{{"api_key": "{SECRET}"}}',
        f"{{'password': '{SECRET}'}}",
        f"Authorization: Basic {SECRET}",
        f"authorization=Bearer {SECRET}",
        f'{{"Authorization": "Basic {SECRET}"}}',
        f"sent with Bearer {SECRET}{SECRET}",
        f"x-api-key: {SECRET}",
    ],
)
def test_a_secret_within_a_text_is_masked(text: str) -> None:
    found = redact_text(text)
    assert SECRET not in found
    assert MASK in found


def test_what_is_left_of_a_url_still_says_where() -> None:
    assert redact_text(f"amqp://ml:{SECRET}@localhost:5672/v") == f"amqp://ml:{MASK}@localhost:5672/v"
    assert redact_text(f"https://h/a?api_key={SECRET}&y=2") == f"https://h/a?api_key={MASK}&y=2"


@pytest.mark.parametrize(
    "text",
    [
        "wrong user or password: check RABBITMQ_URL",
        "403 ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN",
        "localhost:5672",
        "http://127.0.0.1:3001/docs",
        "task 0a1b token bucket is empty",
        "basic.publish to ml.tasks",
    ],
)
def test_an_ordinary_message_stays_as_it_is(text: str) -> None:
    assert redact_text(text) == text


@pytest.mark.parametrize(
    "key",
    ["password", "PASSWORD", "rabbitmq_password", "api_key", "api-key", "ML_API_KEYS", "Authorization", "x-api-key",
     "token", "access_token", "client_secret", "cookie", "private_key", "passwd"],
)  # fmt: skip
def test_a_value_under_a_secret_key_is_masked_whatever_it_is(key: str) -> None:
    assert redact({key: SECRET}) == {key: MASK}
    assert redact({key: [SECRET]}) == {key: MASK}
    assert redact({"outer": [{key: {"inner": SECRET}}]}) == {"outer": [{key: MASK}]}


@pytest.mark.parametrize("key", ["task_id", "task_type", "bypass_count", "tokens_used", "node", "passed", "key"])
def test_an_ordinary_key_is_no_secret(key: str) -> None:
    assert redact({key: "value"}) == {key: "value"}


def test_a_missing_secret_is_seen_to_be_missing() -> None:
    assert redact({"password": None}) == {"password": None}


def test_bytes_and_objects_are_masked_by_their_text() -> None:
    assert SECRET not in str(redact({"body": f"password={SECRET}".encode()}))
    assert SECRET not in str(redact({"error": ValueError(f"amqp://a:{SECRET}@h/")}))


def test_no_value_can_start_a_line_of_its_own() -> None:
    found = redact("one\n2024-01-01 [error] forged\r\x1b[31m\u2028")
    assert isinstance(found, str)
    assert found == "one\\n2024-01-01 [error] forged\\r\\x1b[31m\\u2028"


def test_a_value_that_holds_itself_ends() -> None:
    loop: list[object] = []
    loop.append(loop)
    assert "..." in str(redact(loop))


def test_numbers_stay_numbers() -> None:
    assert redact({"count": 3, "seconds": 0.5, "ok": True, "none": None}) == {
        "count": 3, "seconds": 0.5, "ok": True, "none": None,
    }  # fmt: skip


_PASSWORDS = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="\"'<>*"), min_size=4)


@given(_PASSWORDS, st.sampled_from(["amqp", "amqps", "redis", "postgresql"]))
def test_no_password_of_a_url_survives(password: str, scheme: str) -> None:
    found = redact_text(f"{scheme}://user:{password}@host.example/vhost")
    assert found == f"{scheme}://user:{MASK}@host.example/vhost"
