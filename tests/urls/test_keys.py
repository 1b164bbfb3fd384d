"""An encrypted key in a store's URL: refused, or opened with the pass phrase that is given, and nobody is asked."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from mlproducer import SettingsError
from mlproducer.spool import open_spool
from mlproducer.worker.claims import open_claims

PHRASE = "s3cret-phrase"
POSTGRES = "postgresql://u:p@127.0.0.1:1/db?sslmode=require&sslcert={cert}&sslkey={key}{more}"
REDIS = "rediss://127.0.0.1:1/0?ssl_certfile={cert}&ssl_keyfile={key}{more}"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate, its key, and the key encrypted, where libpq looks for them too."""
    home = tmp_path_factory.mktemp("home")
    folder = home / ".postgresql"
    folder.mkdir()
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=ml", "-days", "2"]
    files = ["-keyout", str(home / "plain.key"), "-out", str(folder / "postgresql.crt")]
    subprocess.run(["openssl", "req", "-x509", *curve, *files], check=True, capture_output=True)
    lock = ["openssl", "pkcs8", "-topk8", "-v2", "aes256", "-in", str(home / "plain.key")]
    locked = folder / "postgresql.key"
    subprocess.run([*lock, "-passout", f"pass:{PHRASE}", "-out", str(locked)], check=True, capture_output=True)
    locked.chmod(0o600)
    return home


def url(template: str, made: Path, key: str, more: str = "") -> str:
    folder = made / ".postgresql"
    path = folder / "postgresql.key" if key == "locked" else made / "plain.key"
    return template.format(cert=folder / "postgresql.crt", key=path, more=more)


@pytest.mark.parametrize("opens", [open_spool, open_claims])
@pytest.mark.parametrize(("like", "name"), [(POSTGRES, "sslpassword"), (REDIS, "ssl_password")])
def test_an_encrypted_key_is_refused_before_anything_is_opened_unless_its_pass_phrase_is_given(
    opens: object, like: str, name: str, made: Path
) -> None:
    assert callable(opens)
    with pytest.raises(SettingsError, match=rf"key.* is encrypted: give its pass phrase as `{name}`"):
        opens(url(like, made, "locked"))
    opens(url(like, made, "locked", f"&{name}={PHRASE}"))
    opens(url(like, made, "plain"))


ASKED = """
import asyncio, socket, sys, threading
from mlproducer.errors import MLProducerError, OnceUnavailable
from mlproducer.spool import open_spool
from mlproducer.worker.claims import Claim, open_claims

server = socket.create_server(("127.0.0.1", 0))

def serve():
    # libpq asks whether TLS is spoken here, and loads its key when it hears yes.
    while True:
        peer, _ = server.accept()
        if len(peer.recv(8)) == 8:
            peer.sendall(b"S")
        peer.close()

threading.Thread(target=serve, daemon=True).start()
for like in sys.argv[1:]:
    url = like.replace(":1/", f":{server.getsockname()[1]}/")
    try:
        asyncio.run(open_spool(url).open())
    except MLProducerError as error:
        print("spool:", error)
    try:
        open_claims(url.replace("&timeout=2", "")).claim(Claim("t", "me", 0), 1.0)
    except OnceUnavailable as error:
        print("once:", error)
"""


def test_at_a_terminal_nobody_is_asked_for_a_pass_phrase_neither_for_a_key_in_libpqs_own_place(made: Path) -> None:
    """Some keys are found by the client alone, and some pass phrases are wrong."""
    urls = (
        "postgresql://u:p@127.0.0.1:1/db?sslmode=require&timeout=2",
        url(POSTGRES, made, "locked", "&sslpassword=wrong&timeout=2"),
        url(REDIS, made, "locked", "&ssl_password=wrong&timeout=2"),
    )
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            ["setsid", "-c", sys.executable, "-c", ASKED, *urls],
            stdin=theirs,
            capture_output=True,
            text=True,
            env={**os.environ, "HOME": str(made)},
            timeout=120,
            check=True,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    said = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in said] == ["spool", "once"] * 3, done.stdout
    assert "sslkey and sslpassword" in said[0]
    assert "sslkey and sslpassword" in said[2]
    assert "ssl_password for a key" in said[4]
    assert "pass phrase:" not in done.stdout + done.stderr
    assert PHRASE not in done.stdout
