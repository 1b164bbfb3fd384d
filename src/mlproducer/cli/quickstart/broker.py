"""A broker for quickstart: the one that answers, else a private one, installed first where that can be done."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from mlproducer.cli.check import look
from mlproducer.cli.quickstart.children import Program
from mlproducer.cli.quickstart.places import Places
from mlproducer.errors import BrokerError, MLProducerError
from mlproducer.settings import DEFAULT_URL, Settings
from mlproducer.testing.rabbitmq import PrivateRabbit, installed

USUAL_PORT: Final = 5672
PROBE_TIMEOUT_MS: Final = 3_000
"""For a broker that may not be there; one on this machine answers in a few milliseconds."""
NODE: Final = "quickstart@localhost"
"""The same each time, so that what its queues hold is there again at the next run."""

_TICK: Final = 0.2
"""Seconds between two looks at an installation."""

Say = Callable[[str], None]
Start = Callable[[Callable[[], "Found"]], "Found"]


class NoBroker(MLProducerError):
    """There is no broker, and none can be started."""


@dataclass(frozen=True, slots=True)
class Found:
    """A broker that answers. `private` is ours to stop."""

    url: str
    words: str
    private: PrivateRabbit | None = None

    def stop(self) -> None:
        if self.private is not None:
            self.private.stop()


def find_broker(settings: Settings, places: Places, say: Say, start: Start) -> Found:
    """`start` calls what it is given, and keeps what that returns until it is stopped.

    Raises: NoBroker, saying what to do.
    """
    say(f"looking for a broker at {', '.join(settings.broker_nodes)}")
    try:
        facts = look(settings.model_copy(update={"rabbitmq_connection_timeout": PROBE_TIMEOUT_MS}))
    except BrokerError:
        pass  # none is there, or none that these settings may use
    else:
        return Found(settings.rabbitmq_url.get_secret_value(), f"RabbitMQ at {facts.node}")
    if not installed():
        _install(places, say)
    node = _node(places)
    say(f"starting a private RabbitMQ at localhost:{node.port}")
    return start(lambda: _started(node))


def _node(places: Places) -> PrivateRabbit:
    """A node of our own, with the user and password of the default URL, so that other tools find it too."""
    parts = urlsplit(DEFAULT_URL)
    return PrivateRabbit(
        places.broker,
        name=NODE,
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        port=USUAL_PORT,
    )


def _started(node: PrivateRabbit) -> Found:
    node.start()
    return Found(node.url, f"private RabbitMQ at localhost:{node.port}", node)


def _install(places: Places, say: Say) -> None:
    """Raises: NoBroker."""
    if not install_server(places.root, places.log("install"), say):
        user, password = "ml", "ml_password"
        raise NoBroker(
            "no broker answers and rabbitmq-server cannot be installed without root or sudo; start one with: "
            f"docker run -d -p 5672:5672 -e RABBITMQ_DEFAULT_USER={user} -e RABBITMQ_DEFAULT_PASS={password} rabbitmq:4"
        )


def install_server(root: Path, log: Path, say: Say) -> bool:
    """Debian's package, without its service, by the script of the checkout `root`. False where that cannot be done:
    no Debian, no checkout, or neither root nor sudo. Raises: NoBroker, if it fails.
    """
    script = root / "scripts" / "apt-install"
    if shutil.which("apt-get") is None or not script.is_file() or not _may_install():
        return False
    say("installing rabbitmq-server from Debian's packages, once")
    child = Program("installation", (str(script), "rabbitmq-server"), os.environ, root, log).start()
    began = time.monotonic()
    try:
        while child.running:
            seconds = int(time.monotonic() - began) // 10 * 10
            say(f"installing rabbitmq-server from Debian's packages, once ({seconds} s)")
            time.sleep(_TICK)
    finally:
        child.process.wait()  # also after Ctrl-C: half an installation would be in everybody's way
    if child.process.returncode != 0 or not installed():
        raise NoBroker(f"installing rabbitmq-server failed; try: sudo apt-get install rabbitmq-server\n{child.tail()}")
    return True


def _may_install() -> bool:
    if os.geteuid() == 0:
        return True
    sudo = shutil.which("sudo")
    return sudo is not None and subprocess.run([sudo, "-n", "true"], check=False, capture_output=True).returncode == 0  # noqa: S603  # asks only whether sudo would need a password
