"""RABBITMQ_URL: RabbitMQ's URI and its parameters, Celery's ways of writing it, and what the connection makes of it."""

from __future__ import annotations

import ssl
from typing import Any

import pytest

from mlproducer import Settings, SettingsError
from mlproducer.amqp.config import AmqpConfig, Endpoint

SECRET = "s3cret-Word"


def endpoints(url: str, **given: Any) -> tuple[Endpoint, ...]:
    return AmqpConfig.from_settings(Settings.load(rabbitmq_url=url, **given), ()).endpoints


def endpoint(url: str, **given: Any) -> Endpoint:
    (found,) = endpoints(url, **given)
    return found


@pytest.mark.parametrize(
    ("url", "there"),
    [
        # The examples of RabbitMQ's URI specification that name a host, but for the path of one slash.
        ("amqp://user:pass@host:10000/vhost", ("user", "pass", "host", 10000, "vhost")),
        ("amqp://user%61:%61pass@ho%61st:10000/v%2fhost", ("usera", "apass", "hoast", 10000, "v/host")),
        ("amqp://user@host", ("user", "guest", "host", 5672, "/")),
        ("amqp://user:pass@host", ("user", "pass", "host", 5672, "/")),
        ("amqp://host", ("guest", "guest", "host", 5672, "/")),
        ("amqp://host/", ("guest", "guest", "host", 5672, "/")),
        ("amqp://host/%2F", ("guest", "guest", "host", 5672, "/")),
        ("amqp://[::1]", ("guest", "guest", "::1", 5672, "/")),
        ("amqp://user:@host", ("user", "", "host", 5672, "/")),
        ("amqps://host", ("guest", "guest", "host", 5671, "/")),
        ("AMQP://host:5673", ("guest", "guest", "host", 5673, "/")),
        # As Celery writes it.
        ("pyamqp://guest:guest@host:5672//", ("guest", "guest", "host", 5672, "/")),
        ("amqp://u:a%2Fb%23c%3Fd%40e%3Af%25g@host/%C3%A9", ("u", "a/b#c?d@e:f%g", "host", 5672, "é")),
        ("amqp://u:a,b;c:d@host", ("u", "a,b;c:d", "host", 5672, "/")),
    ],
)
def test_a_url_is_understood_whole(url: str, there: tuple[str, str, str, int, str]) -> None:
    found = endpoint(url)
    login = found.credentials
    assert (login.user, login.password, found.host, found.port, found.vhost) == there


@pytest.mark.parametrize("between", [",", ";", " , ", ";\n", ",;"])
def test_a_list_is_one_broker_each(between: str) -> None:
    settings = Settings.load(rabbitmq_url=f"amqp://a:{SECRET}@one/v{between}amqps://b:{SECRET}@[::2]:99{between}")
    assert settings.broker_nodes == ("one:5672", "[::2]:99")
    assert [each.credentials.user for each in AmqpConfig.from_settings(settings, ()).endpoints] == ["a", "b"]


def test_nodes_and_endpoints_have_one_port() -> None:
    settings = Settings.load(rabbitmq_url="amqp://one,amqp://[::1]", rabbitmq_use_ssl=True)
    assert settings.broker_nodes == ("one:5671", "[::1]:5671")
    assert [each.node for each in AmqpConfig.from_settings(settings, ()).endpoints] == ["one:5671", "[::1]:5671"]


def test_each_url_has_its_own_parameters_and_the_settings_for_the_rest() -> None:
    url = (
        "amqps://one?heartbeat=5&connection_timeout=2500&channel_max=99&frame_max=8192&verify=verify_none"
        "&server_name_indication=broker.example,amqp://two"
    )
    config = AmqpConfig.from_settings(Settings.load(rabbitmq_url=url, rabbitmq_heartbeat=30), ())
    one, two = config.endpoints
    own = config.of(one)
    assert (own.heartbeat, own.connection_timeout, own.channel_max, own.frame_max) == (5, 2.5, 99, 8192)
    assert one.server_name == "broker.example"
    assert one.tls is not None
    assert one.tls.verify_mode is ssl.CERT_NONE
    other = config.of(two)
    assert (other.heartbeat, other.connection_timeout, other.frame_max) == (30, 10.0, 131_072)
    assert two.tls is None


def test_the_parameter_goes_before_the_setting() -> None:
    there = endpoint("amqps://one?verify=verify_peer", rabbitmq_verify_peer=False).tls
    assert there is not None
    assert there.verify_mode is ssl.CERT_REQUIRED
    with pytest.raises(SettingsError, match=r"^RABBITMQ_URL: cacertfile: /no/such\.pem cannot be read"):
        endpoint("amqps://one?cacertfile=%2Fno%2Fsuch.pem", rabbitmq_ssl_cacert="/dev/null")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (f"amqp://u:{SECRET}@h?heartbeats=5", "`heartbeats` of its query is unknown; there are heartbeat"),
        (f"amqp://u:{SECRET}@h?blocked_connection_timeout=5", "`blocked_connection_timeout`"),
        (f"amqp://u:{SECRET}@h?heartbeat=often", "`heartbeat` is a whole number from 0 to 3600"),
        (f"amqp://u:{SECRET}@h?heartbeat=5&heartbeat=6", "twice"),
        (f"amqp://u:{SECRET}@h?frame_max=100", "`frame_max`"),
        (f"amqps://u:{SECRET}@h?verify=yes", "`verify` is verify_peer or verify_none"),
        (f"amqp://u:{SECRET}@h?verify=verify_none", "`verify` is of TLS alone"),
        (f"amqps://u:{SECRET}@h?certfile=/a.pem", "go together"),
        (f"amqps://u:{SECRET}@h?server_name_indication=disable", "cannot be turned off"),
        (f"amqp://u:{SECRET}@h?auth_mechanism=external", "auth_mechanism.* needs RABBITMQ_SSL_CERTFILE"),
        (f"amqp://u:{SECRET}@h/a/b", "second / in its path"),
        (f"amqp://u:{SECRET}@/v", "names no host"),
        (f"amqp://u:{SECRET}@one,two:5672/", "no name of a host|host and port"),
        (f"amqp://one;amqp://u:12/{SECRET}@two", "URL 2 of 2: .* before an @"),
        (f"redis://u:{SECRET}@one", "must look like amqp://"),
        (" , ", "it is empty"),
    ],
)
def test_what_is_not_understood_is_refused_by_its_name(url: str, words: str) -> None:
    with pytest.raises(SettingsError, match=rf"RABBITMQ_URL.*(?:{words})") as caught:
        Settings.load(rabbitmq_url=url)
    assert SECRET not in str(caught.value)
