"""TLS against a real broker: who is verified, and what is said when it fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import pytest

from certificates import DAY, Authority
from mlproducer import Producer, Settings, SettingsError, Task
from mlproducer.events import ConnectionFailed, Event
from mlproducer.testing.rabbitmq import PrivateRabbit


@dataclass
class Secured:
    rabbit: PrivateRabbit
    certificate: Path
    key: Path
    authority: Authority
    folder: Path

    def settings(self, *, host: str = "localhost", folder: Path, **given: object) -> Settings:
        fields: dict[str, object] = {
            "rabbitmq_url": f"amqps://ml:ml_password@{host}:{self.rabbit.tls_port}/",
            "rabbitmq_ssl_cacert": self.authority.file,
            "ml_data_dir": folder,
            **given,
        }
        return Settings.load(**fields)

    @contextmanager
    def showing(self, certificate: Path, key: Path) -> Iterator[None]:
        """Within it, the broker shows another certificate than its own to who connects."""
        files = {self.certificate: certificate, self.key: key}
        own = {file: file.read_bytes() for file in files}
        for file, other in files.items():
            file.write_bytes(other.read_bytes())
        self.rabbit.eval("ssl:clear_pem_cache().")
        try:
            yield
        finally:
            for file, content in own.items():
                file.write_bytes(content)
            self.rabbit.eval("ssl:clear_pem_cache().")


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("tls")
    authority = Authority(folder, "authority")
    certificate, key = authority.sign("server", "localhost")
    rabbit = PrivateRabbit(
        folder / "rabbit",
        tls={
            "cacertfile": str(authority.file),
            "certfile": str(certificate),
            "keyfile": str(key),
            "verify": "verify_peer",
            "fail_if_no_peer_cert": "false",
        },
        config={
            "auth_mechanisms.1": "PLAIN",
            "auth_mechanisms.2": "EXTERNAL",
            "ssl_cert_login_from": "common_name",
        },
        plugins=("rabbitmq_auth_mechanism_ssl",),
    )
    with rabbit:
        yield Secured(rabbit, certificate, key, authority, folder)


async def _error(settings: Settings) -> str:
    async with Producer(settings) as producer:
        assert not await producer.connected(10)
        return producer.status().last_error


async def _confirms(settings: Settings) -> bool:
    async with Producer(settings) as producer:
        assert await producer.connected(10), producer.status().last_error
        task = Task(task_type="embed_vectors", payload={"share_id": "1", "content": "secret"})
        return (await producer.publish(task)).confirmed


async def test_a_verified_broker_takes_tasks(secured: Secured, tmp_path: Path) -> None:
    assert await _confirms(secured.settings(folder=tmp_path))


async def test_a_client_certificate_alone_logs_in_with_external(secured: Secured, tmp_path: Path) -> None:
    certificate, key = secured.authority.sign("ml")
    assert await _confirms(
        secured.settings(
            folder=tmp_path, rabbitmq_auth="external", rabbitmq_ssl_certfile=certificate, rabbitmq_ssl_keyfile=key
        )
    )


async def test_a_client_certificate_of_nobody_known_is_refused(secured: Secured, tmp_path: Path) -> None:
    certificate, key = secured.authority.sign("stranger")
    error = await _error(
        secured.settings(
            folder=tmp_path, rabbitmq_auth="external", rabbitmq_ssl_certfile=certificate, rabbitmq_ssl_keyfile=key
        )
    )
    assert "refuses the login" in error


async def test_an_authority_that_is_not_trusted_is_named_with_its_setting(secured: Secured, tmp_path: Path) -> None:
    other = Authority(secured.folder, "other-authority")
    error = await _error(secured.settings(folder=tmp_path, rabbitmq_ssl_cacert=other.file))
    assert "certificate is not accepted" in error
    assert "RABBITMQ_SSL_CACERT" in error


async def test_a_host_that_is_not_in_the_certificate_is_refused(secured: Secured, tmp_path: Path) -> None:
    error = await _error(secured.settings(host="127.0.0.1", folder=tmp_path))
    assert "certificate is not accepted" in error
    assert "127.0.0.1" in error


async def test_an_unverified_peer_is_possible_only_if_told_so(secured: Secured, tmp_path: Path) -> None:
    other = Authority(secured.folder, "third-authority")
    given = {"folder": tmp_path, "rabbitmq_ssl_cacert": other.file, "rabbitmq_verify_peer": False}
    assert await _confirms(secured.settings(host="127.0.0.1", **given))  # type: ignore[arg-type]  # settings by name


async def test_the_url_alone_says_whom_to_trust_and_by_which_name(secured: Secured, tmp_path: Path) -> None:
    certificate, key = secured.authority.sign("ml")
    given = {
        "cacertfile": secured.authority.file,
        "certfile": certificate,
        "keyfile": key,
        "verify": "verify_peer",
        "server_name_indication": "localhost",
        "auth_mechanism": "external",
        "heartbeat": 5,
    }
    url = f"amqps://127.0.0.1:{secured.rabbit.tls_port}/?{urlencode(given)}"
    assert await _confirms(Settings.load(rabbitmq_url=url, ml_data_dir=tmp_path))
    other = url.replace("=localhost", "=elsewhere.example")
    assert "certificate is not accepted" in await _error(Settings.load(rabbitmq_url=other, ml_data_dir=tmp_path))


async def test_plain_amqp_to_a_tls_port_guesses_the_cause(secured: Secured, tmp_path: Path) -> None:
    url = f"amqp://ml:ml_password@localhost:{secured.rabbit.tls_port}/"
    error = await _error(secured.settings(folder=tmp_path, rabbitmq_url=url))
    assert "amqps://" in error


async def test_tls_to_a_plain_port_guesses_the_cause(secured: Secured, tmp_path: Path) -> None:
    url = f"amqps://ml:ml_password@localhost:{secured.rabbit.port}/"
    error = await _error(secured.settings(folder=tmp_path, rabbitmq_url=url))
    assert "is TLS on" in error


async def test_an_expired_certificate_is_refused_and_said_to_be(secured: Secured, tmp_path: Path) -> None:
    with secured.showing(*secured.authority.sign("expired", "localhost", until=-DAY)):
        assert "expired" in await _error(secured.settings(folder=tmp_path))


async def test_files_that_are_renewed_while_we_run_are_read_at_the_next_connect(
    secured: Secured, tmp_path: Path
) -> None:
    trusted, certificate, key = tmp_path / "trusted.pem", tmp_path / "ours.pem", tmp_path / "ours.key"
    new = Authority(tmp_path, "next-authority")

    def put(authority: Authority) -> None:
        trusted.write_bytes(authority.file.read_bytes())
        for file, made in zip((certificate, key), secured.authority.sign("ml"), strict=True):
            file.write_bytes(made.read_bytes())

    put(secured.authority)
    events: list[Event] = []
    settings = secured.settings(
        folder=tmp_path,
        rabbitmq_auth="external",
        ml_reconnect_cap=0.5,
        rabbitmq_ssl_cacert=trusted,
        rabbitmq_ssl_certfile=certificate,
        rabbitmq_ssl_keyfile=key,
    )
    async with Producer(settings, listeners=[events.append]) as producer:
        assert await producer.connected(10), producer.status().last_error
        with secured.showing(*new.sign("server", "localhost")):
            key.write_text("half of a k")  # somebody is about it
            producer.reconnect()
            await _until(lambda: any("RABBITMQ_SSL_KEYFILE" in told for told in _failures(events)))
            put(new)
            await _until(producer.is_healthy)
            task = Task(task_type="embed_vectors", payload={"share_id": "1", "content": "secret"})
            assert (await producer.publish(task)).confirmed


def _failures(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, ConnectionFailed)]


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110  # what is awaited has no event
            await asyncio.sleep(0.02)


def test_a_certificate_file_that_is_not_there_is_an_error_of_the_setting(secured: Secured, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="RABBITMQ_SSL_CACERT"):
        Producer(secured.settings(folder=tmp_path, rabbitmq_ssl_cacert=tmp_path / "nothing.pem"))
