import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from mlproducer.cli.output import percentile, size, span
from mlproducer.cli.settings import masked
from mlproducer.urls.parts import shown


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0.0 ms"),
        (0.0123, "12.3 ms"),
        (1, "1.0 s"),
        (119, "119.0 s"),
        (120, "2.0 min"),
        (7200, "2.0 h"),
        (172_800, "2.0 d"),
    ],
)
def test_a_duration_is_told_in_the_unit_that_people_would_use(seconds: float, words: str) -> None:
    assert span(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 * 2**20, "5.0 MiB"), (2**51, "2048.0 TiB")]
)
def test_sizes_are_told_in_binary_units(count: int, words: str) -> None:
    assert size(count) == words


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1), st.floats(0, 1))
def test_a_percentile_is_the_smallest_value_that_the_share_does_not_exceed(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert found in values
    at_most = sum(value <= found for value in values)
    below = sum(value < found for value in values)
    assert at_most >= share * len(values) - 1e-9
    assert below <= math.ceil(share * len(values))


def test_nothing_has_no_percentile() -> None:
    assert percentile([], 0.5) is None


@pytest.mark.parametrize(
    ("url", "there"),
    [
        ("amqp://ml:s3cret@host:5672/v", "amqp://ml:***@host:5672/v"),
        ("amqp://ml:p@ss@host/", "amqp://ml:***@host/"),
        ("amqp://host/", "amqp://host/"),
        ("amqp://ml@host/", "amqp://ml@host/"),
        ("postgresql://u:s3cret@db/x?password=s3cret", "postgresql://u:***@db/x?***"),
        ("sqlite:////data/mlproducer.db", "sqlite:////data/mlproducer.db"),
    ],
)
def test_a_url_is_shown_without_password_and_query(url: str, there: str) -> None:
    assert shown(url) == there


def test_secrets_are_masked_one_by_one() -> None:
    assert masked(SecretStr("amqp://a:b@one/,amqp://a:b@two/")) == "amqp://a:***@one/,amqp://a:***@two/"
    assert masked((SecretStr("0123456789abcdef"), SecretStr("fedcba9876543210"))) == ["***", "***"]
    assert masked(SecretStr("")) == ""
