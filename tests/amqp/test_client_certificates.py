"""Certificates and keys of a client: what is wrong with one is said by its setting, and nobody is asked at a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from mlproducer import Settings, SettingsError
from mlproducer.amqp.config import AmqpConfig

PASSPHRASE = "s3cret phrase ü"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate, its key, the key encrypted, and the key of another."""
    folder = tmp_path_factory.mktemp("certificates")
    new = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        "/CN=ml",
        "-days",
        "2",
    ]
    for name in ("our", "other"):
        _run([*new, "-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.pem")])
    lock = ["openssl", "pkcs8", "-topk8", "-v2", "aes256", "-in", str(folder / "our.key")]
    _run([*lock, "-passout", f"pass:{PASSPHRASE}", "-out", str(folder / "locked.key")])
    (folder / "empty").touch()
    (folder / "text").write_text("this is no certificate\n")
    return folder


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True)


def config(folder: Path, certificate: str = "our.pem", key: str = "our.key", **given: object) -> AmqpConfig:
    files = {"rabbitmq_ssl_certfile": folder / certificate, "rabbitmq_ssl_keyfile": folder / key}
    settings = Settings.load(rabbitmq_url="amqps://host/", ml_spool_url="memory://", **{**files, **given})
    return AmqpConfig.from_settings(settings, ())


def test_a_key_is_loaded_plain_or_with_its_pass_phrase(made: Path) -> None:
    assert config(made).endpoints[0].tls is not None
    assert config(made, rabbitmq_ssl_key_password="not needed").endpoints[0].tls is not None
    assert config(made, key="locked.key", rabbitmq_ssl_key_password=PASSPHRASE).endpoints[0].tls is not None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"key": "locked.key"}, "RABBITMQ_SSL_KEYFILE: .*locked.key is encrypted: .*RABBITMQ_SSL_KEY_PASSWORD"),
        (
            {"key": "locked.key", "rabbitmq_ssl_key_password": "wrong"},
            "RABBITMQ_SSL_KEY_PASSWORD: it does not open .*locked.key",
        ),
        ({"key": "locked.key", "rabbitmq_ssl_key_password": "x" * 2_000}, "RABBITMQ_SSL_KEY_PASSWORD: it is longer"),
        ({"key": "other.key"}, "other.key is not the key of the certificate .*our.pem"),
        ({"key": "nowhere"}, "RABBITMQ_SSL_KEYFILE: .*nowhere cannot be read: No such file"),
        ({"certificate": "nowhere"}, "RABBITMQ_SSL_CERTFILE: .*nowhere cannot be read: No such file"),
        ({"certificate": "empty"}, "RABBITMQ_SSL_CERTFILE: .*empty is empty"),
        ({"key": "empty"}, "RABBITMQ_SSL_KEYFILE: .*empty is empty"),
        ({"certificate": "."}, "RABBITMQ_SSL_CERTFILE: .* is a folder"),
        ({"key": "text"}, "RABBITMQ_SSL_CERTFILE, RABBITMQ_SSL_KEYFILE: .*must hold a certificate and its key in PEM"),
        ({"certificate": "text"}, "RABBITMQ_SSL_CERTFILE, RABBITMQ_SSL_KEYFILE: .*must hold a certificate"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_by_its_setting(made: Path, given: dict[str, str], words: str) -> None:
    with pytest.raises(SettingsError, match=f"^{words}|{words}") as refused:
        config(made, **given)
    assert PASSPHRASE not in str(refused.value)
    assert "wrong" not in str(refused.value)


@pytest.mark.parametrize("name", ["nowhere", "empty", "text", "."])
def test_so_it_is_with_the_authority(made: Path, name: str) -> None:
    with pytest.raises(SettingsError, match=r"^RABBITMQ_SSL_CACERT: "):
        config(made, rabbitmq_ssl_cacert=made / name)


def test_at_a_terminal_too_nobody_is_asked_for_the_pass_phrase(made: Path) -> None:
    program = (
        "from mlproducer import Producer, Settings, SettingsError\n"
        "try:\n    Producer(Settings.load())\nexcept SettingsError as error:\n    print('refused:', error)\n"
    )
    environment = {
        **os.environ,
        "RABBITMQ_URL": "amqps://host/",
        "ML_SPOOL_URL": "memory://",
        "RABBITMQ_SSL_CERTFILE": str(made / "our.pem"),
        "RABBITMQ_SSL_KEYFILE": str(made / "locked.key"),
    }
    ours, theirs = pty.openpty()
    try:
        command = [sys.executable, "-c", program]
        done = subprocess.run(
            ["setsid", "-c", *command], stdin=theirs, capture_output=True, env=environment, timeout=120, check=True
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert b"refused: RABBITMQ_SSL_KEYFILE" in done.stdout
    assert b"PEM pass phrase" not in done.stdout + done.stderr
