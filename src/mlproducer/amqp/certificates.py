"""Certificates and keys from files, or an error that names the setting and the file at fault."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

from mlproducer.errors import SettingsError

MOST_PASSPHRASE: Final = 1_024
"""Bytes that OpenSSL takes."""


class _Encrypted(Exception):
    """The key asked for its pass phrase, and there is none."""


def trust(authority: Path | None, name: str) -> ssl.SSLContext:
    """A context that trusts the authority of this file, or without one the system's. Raises: SettingsError."""
    if authority is None:
        return ssl.create_default_context()
    _check(authority, name)
    try:
        return ssl.create_default_context(cafile=str(authority))
    except (OSError, ssl.SSLError) as exc:
        raise SettingsError(f"{name}: {authority} holds no certificate in PEM: {_said(exc)}") from None


def load_client(context: ssl.SSLContext, certificate: Path, key: Path, passphrase: str, names: tuple[str, str]) -> None:
    """The client's certificate and key; `names` are those of their settings. Never a prompt on the terminal, which is
    what OpenSSL would do for an encrypted key. Raises: SettingsError.
    """
    certificate_name, key_name = names
    _check(certificate, certificate_name)
    _check(key, key_name)
    if len(passphrase.encode()) > MOST_PASSPHRASE:
        raise SettingsError(f"RABBITMQ_SSL_KEY_PASSWORD: it is longer than {MOST_PASSPHRASE} bytes")

    def asked() -> str:
        if not passphrase:
            raise _Encrypted
        return passphrase

    try:
        context.load_cert_chain(certificate, key, asked)
    except _Encrypted:
        raise SettingsError(
            f"{key_name}: {key} is encrypted: give its pass phrase in RABBITMQ_SSL_KEY_PASSWORD"
        ) from None
    except (OSError, ssl.SSLError) as exc:
        reason = getattr(exc, "reason", None) or ""
        if reason == "KEY_VALUES_MISMATCH":
            words = f"{certificate_name}, {key_name}: {key} is not the key of the certificate {certificate}"
        elif passphrase and _asks(key):
            words = f"RABBITMQ_SSL_KEY_PASSWORD: it does not open {key}"
        else:
            words = (
                f"{certificate_name}, {key_name}: {certificate} and {key} must hold a certificate and its key in PEM: "
                f"{_said(exc)}"
            )
        raise SettingsError(words) from None


def _asks(key: Path) -> bool:
    return b"ENCRYPTED" in key.read_bytes()


def _check(path: Path, name: str) -> None:
    try:
        if path.is_dir():
            raise SettingsError(f"{name}: {path} is a folder, not a file")
        empty = not path.read_bytes().strip()
    except OSError as exc:
        raise SettingsError(f"{name}: {path} cannot be read: {exc.strerror or exc}") from None
    if empty:
        raise SettingsError(f"{name}: {path} is empty")


def _said(exc: Exception) -> str:
    return str(getattr(exc, "reason", None) or getattr(exc, "strerror", None) or type(exc).__name__)
