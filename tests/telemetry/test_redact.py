from __future__ import annotations

import base64
import html
import json
import traceback
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlproducer.errors import MLProducerError, SettingsError
from mlproducer.loggers import get_logger
from mlproducer.redact import MASK, clean, masked, redact, redact_known, redact_text, remember, remember_environment

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


KNOWN = "k\u00e9y/with#a?lot & 'more'"


@pytest.mark.parametrize(
    "form",
    [
        KNOWN,
        quote(KNOWN),
        quote(KNOWN, safe=""),
        quote_plus(KNOWN),
        quote(KNOWN, safe="").replace("%2F", "%2f").replace("%3F", "%3f").replace("%C3%A9", "%c3%a9"),
        json.dumps(KNOWN)[1:-1],
        repr(KNOWN)[1:-1],
        html.escape(KNOWN),
        base64.b64encode(KNOWN.encode()).decode(),
    ],
)
def test_a_known_secret_is_masked_in_each_form_that_it_travels_in(form: str) -> None:
    remember(KNOWN)
    assert redact_text(f"it said: {form}!") == f"it said: {MASK}!"
    assert redact_known(f"<{form}>") == f"<{MASK}>"
    assert masked({"status": [f"<{form}>", 1, None]}) == {"status": [f"<{MASK}>", 1, None]}


def test_short_words_and_the_placeholder_of_our_own_hints_stay() -> None:
    remember("guest", "password", "", None)
    assert redact_text("wrong user or password: guest") == "wrong user or password: guest"
    hint = "it must look like postgresql://user:password@host:5432/database"
    assert redact_text(hint) == hint


def test_secrets_of_the_environment_are_known_by_their_names() -> None:
    remember_environment({"AWS_SECRET_ACCESS_KEY": "aws-very-secret", "AWS_REGION": "eu-central-1"})
    assert redact_text("aws-very-secret of eu-central-1") == f"{MASK} of eu-central-1"


def test_an_error_of_ours_holds_no_secret_and_neither_does_what_it_came_from() -> None:
    remember(SECRET)
    with pytest.raises(MLProducerError) as caught:
        _fail()
    error: BaseException | None = caught.value
    told = "".join(traceback.format_exception(error))
    assert "RuntimeError" in told
    while error is not None:
        told += f"{error} {error!r} {error.args}"
        error = error.__context__
    assert SECRET not in told
    assert MASK in told


def _fail() -> None:
    try:
        try:
            int(f"bad dsn {SECRET}")
        except ValueError as inner:
            raise RuntimeError("driver", f"postgresql://u:{SECRET}-x@h") from inner
    except RuntimeError as driver:
        raise SettingsError(f"ML_SPOOL_URL: {driver}") from driver


def test_an_error_that_cannot_be_masked_is_not_told() -> None:
    class StubbornError(Exception):
        def __str__(self) -> str:
            return SECRET

    remember(SECRET)
    outer = RuntimeError("outer")
    outer.__cause__ = outer.__context__ = StubbornError()
    clean(outer)
    assert outer.__cause__ is outer.__context__ is None


def test_a_quoted_password_with_blanks_is_masked_whole() -> None:
    assert redact_text("host=h password='two words' user=u") == f"host=h password='{MASK}' user=u"


def test_a_line_of_ours_holds_no_secret_for_anybodys_handler(caplog: pytest.LogCaptureFixture) -> None:
    remember(SECRET)
    log = get_logger("mlproducer.somewhere")
    assert get_logger("mlproducer.somewhere") is log
    try:
        int(SECRET)
    except ValueError:
        log.exception("it failed with %s", SECRET)
    assert "ValueError" in caplog.text
    assert SECRET not in caplog.text
    assert len(log.filters) == 1
