"""What is said of a certificate that is refused, from a real handshake that checks as strictly as Python 3.13 does."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from certificates import DAY, Authority
from mlproducer.amqp.faults import connect_failed


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


def test_a_certificate_made_by_the_rules_passes_the_strict_check(authority: Authority) -> None:
    assert _refusal(authority.file, authority.sign("server", "broker.test")) is None


def test_a_certificate_of_the_wrong_form_is_to_be_issued_anew_and_no_authority_is_blamed(authority: Authority) -> None:
    said = _said(authority.file, authority.sign("server", "broker.test", identified=False))
    assert "Missing Authority Key Identifier" in said
    assert "Issue it anew" in said
    assert "Python 3.13" in said
    assert "RABBITMQ_SSL_CACERT" not in said
    assert "RABBITMQ_URL" not in said


def test_an_unknown_authority_is_blamed_alone(authority: Authority, tmp_path: Path) -> None:
    said = _said(Authority(tmp_path, "other").file, authority.sign("server", "broker.test"))
    assert "RABBITMQ_SSL_CACERT" in said
    assert "RABBITMQ_URL" not in said


def test_another_host_is_blamed_alone(authority: Authority) -> None:
    said = _said(authority.file, authority.sign("server", "elsewhere.test"))
    assert "RABBITMQ_URL" in said
    assert "RABBITMQ_SSL_CACERT" not in said


def test_dates_that_are_over_are_blamed_alone(authority: Authority) -> None:
    said = _said(authority.file, authority.sign("server", "broker.test", until=-DAY))
    assert "expired" in said
    assert "clock" in said
    assert "RABBITMQ_" not in said


def _said(trusted: Path, shown: tuple[Path, Path]) -> str:
    refusal = _refusal(trusted, shown)
    assert refusal is not None
    return str(connect_failed("broker.test:5671", refusal, tls=True))


def _refusal(trusted: Path, shown: tuple[Path, Path]) -> ssl.SSLCertVerificationError | None:
    """Of a handshake in memory with a server that shows this certificate and key."""
    ours = ssl.create_default_context(cafile=str(trusted))
    ours.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN  # the defaults since Python 3.13
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(*shown)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ours.wrap_bio(to_client, to_server, server_hostname="broker.test")
    server = theirs.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(3):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as refusal:
                return refusal
    assert client.version() is not None
    return None
