"""A private RabbitMQ from the machine's own `rabbitmq-server`, in a folder of its own, on loopback only.

Own node name, ports, port mapper (epmd), cookie, data and log: it touches nothing of a RabbitMQ that the machine may
run, and can be killed, paused and started again on the same data. Only the processes started here are ever signalled,
by process id. All calls block: from async code use `asyncio.to_thread`.

Another version of RabbitMQ comes from another Debian release, in a folder: its root (see `release`).
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self
from urllib.parse import quote

from mlproducer.errors import MLProducerError
from mlproducer.testing.port_mapper import PortMapper
from mlproducer.testing.release import inside

ROOT: Final = "PRIVATE_RABBIT_ROOT"
"""Names the root for every private broker that is given none: so one test suite runs on several versions."""

SCRIPTS: Final = Path("/usr/lib/rabbitmq/bin")
"""Debian's scripts without the wrapper that would change the user."""

_MACHINE: Final = Path("/")
_LIBRARIES: Final = "usr/lib/rabbitmq/lib"
"""Debian's RabbitMQ: `rabbitmq_server-<version>/plugins` holds the broker's own libraries and its plugins."""

_ERLANG: Final = "usr/lib/erlang/lib"

_START_SECONDS: Final = 120.0  # RabbitMQ 4.3 on a loaded machine
_STOP_SECONDS: Final = 30.0


class PrivateRabbitError(MLProducerError):
    """The private broker could not be started, or did not do as told."""


def free_port(preferred: int = 0) -> int:
    """A TCP port that is free on loopback now: the preferred one if it can be had.

    Drawn below 32768, where Linux has its own range for outgoing connections: a server that was killed finds its port
    free when it is started again, however many clients call each other meanwhile.
    """
    drawn = random.SystemRandom().sample(range(20_000, 32_768), 100)
    for port in ([preferred] if preferred else []) + drawn:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise PrivateRabbitError("no free TCP port on 127.0.0.1")


def installed(root: Path | None = None) -> bool:
    """True if this machine, or the root, has Debian's rabbitmq-server."""
    return bool(_servers(root or _named_root()))


def version(root: Path | None = None) -> str:
    """Of the installed RabbitMQ, such as `4.0.5`; empty if there is none."""
    return max((server.name.partition("-")[2] for server in _servers(root or _named_root())), default="")


def _servers(root: Path | None) -> list[Path]:
    return list(((root or _MACHINE) / _LIBRARIES).glob("rabbitmq_server-*"))


def _named_root() -> Path | None:
    named = os.environ.get(ROOT)
    return Path(named) if named else None


class PrivateRabbit:
    """One node in `folder`. A context manager: started on entry, stopped on exit.

    Data belongs to the node's `name`: give one, such as `mine@localhost`, to find it again in the next process.
    `tls` holds the broker's own options for a TLS listener, such as `cacertfile`, `certfile`, `keyfile`, `verify`;
    `config` holds more lines of rabbitmq.conf; `plugins` names plugins to enable. `root` is the folder of another
    Debian release whose RabbitMQ is started instead of the machine's; PRIVATE_RABBIT_ROOT names one for all.
    `mapper` is one that somebody else stops, for nodes that are to know each other: see `cluster`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        user: str = "ml",
        password: str = "ml_password",  # noqa: S107  # the default of a private loopback broker, as in the default URL
        port: int = 0,
        name: str | None = None,
        tls: Mapping[str, str] | None = None,
        config: Mapping[str, str] | None = None,
        plugins: tuple[str, ...] = (),
        root: Path | None = None,
        mapper: PortMapper | None = None,
    ) -> None:
        self.folder = folder
        self.root = root or _named_root()
        self.user = user
        self.password = password
        self.port = free_port(port)
        self.tls_port = free_port() if tls is not None else None
        self._tls = dict(tls or {})
        self._config = dict(config or {})
        self._plugins = plugins
        self._node = name or f"mlproducer-{secrets.token_hex(4)}@localhost"
        self._mapper = mapper or PortMapper(free_port(), self.root)
        self._owns_mapper = mapper is None
        self._dist_port = free_port()
        self._beam: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """With user and password, for the default virtual host."""
        return self.url_of("/")

    @property
    def name(self) -> str:
        """As Erlang knows it."""
        return self._node

    @property
    def log(self) -> Path:
        return self.folder / "rabbitmq.log"

    @property
    def pid(self) -> int | None:
        """Of the Erlang VM, while it runs."""
        return self._beam.pid if self._beam is not None and self._beam.poll() is None else None

    def url_of(self, vhost: str) -> str:
        name = "" if vhost == "/" else quote(vhost, safe="")
        return f"amqp://{quote(self.user, safe='')}:{quote(self.password, safe='')}@127.0.0.1:{self.port}/{name}"

    def start(self) -> None:
        """Start, or start again after `kill`, on the same data and ports. Returns when it takes connections.

        Raises: PrivateRabbitError, with the end of its log.
        """
        if self.pid is not None:
            return
        if not installed(self.root):
            where = "this machine" if self.root is None else self.root
            raise PrivateRabbitError(f"{where} has no rabbitmq-server: apt-get install rabbitmq-server")
        self._write_config()
        try:
            self._mapper.start()
            self._start_beam()
        except BaseException:
            self.stop()
            raise

    def kill(self) -> None:
        """SIGKILL, as a power cut would."""
        if self._beam is not None:
            with contextlib.suppress(ProcessLookupError):
                self._beam.send_signal(signal.SIGKILL)
            self._beam.wait()

    def pause(self) -> None:
        """SIGSTOP: the kernel still takes bytes and connections, nobody answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def restart(self) -> None:
        """Politely: connections are closed by the broker."""
        self._end_beam()
        self.start()

    def stop(self) -> None:
        """End both processes. The folder stays: it is the caller's."""
        self._end_beam()
        if self._owns_mapper:
            self._mapper.stop()

    def ctl(self, *words: str) -> str:
        """Run rabbitmqctl against this node (1 to 2 s: it starts an Erlang VM). Raises: PrivateRabbitError."""
        return self._told([str(SCRIPTS / "rabbitmqctl"), "-q", "-n", self._node, *words], f"rabbitmqctl {words[0]}")

    def eval(self, expression: str) -> str:
        """Evaluate an Erlang expression on the node (10 ms); its value as text. Raises: PrivateRabbitError."""
        text = self._told(["erl_call", "-n", self._node, "-e"], "the evaluation", expression + "\n").strip()
        if not text.startswith("{ok, "):
            raise PrivateRabbitError(f"the evaluation failed: {text}")
        return text[len("{ok, ") : -1]

    def _told(self, command: list[str], what: str, text: str = "") -> str:
        done = subprocess.run(  # noqa: S603  # our own arguments
            inside(self.root, command),
            env=self._env(),
            cwd=self.folder,
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            raise PrivateRabbitError(f"{what} failed: {(done.stderr or done.stdout).strip()}")
        return done.stdout

    def memory_alarm(self, *, on: bool) -> None:
        """Raise the memory alarm, of which a publisher is told at its next publish, or end it."""
        limit = "{absolute, 1000}" if on else "0.6"
        self.eval(f"vm_memory_monitor:set_vm_memory_high_watermark({limit}).")

    def add_vhost(self, name: str) -> str:
        """A fresh virtual host with full permissions; returns its URL."""
        return self.add_vhosts(name)[0]

    def add_vhosts(self, *names: str) -> list[str]:
        """Several at once, for what one costs."""
        self.eval(
            ", ".join(
                f'rabbit_vhost:add(<<"{name}">>, <<"test">>), rabbit_auth_backend_internal:set_permissions('
                f'<<"{self.user}">>, <<"{name}">>, <<".*">>, <<".*">>, <<".*">>, <<"test">>)'
                for name in names
            )
            + "."
        )
        return [self.url_of(name) for name in names]

    def set_permissions(self, vhost: str, *, user: str = "", configure: str = ".*", write: str = ".*") -> None:
        """What `user` may configure and write there from now on; an empty pattern is nothing. It may read all."""
        self.eval(
            f'rabbit_auth_backend_internal:set_permissions(<<"{user or self.user}">>, <<"{vhost}">>, '
            f'<<"{configure}">>, <<"{write}">>, <<".*">>, <<"test">>).'
        )

    def add_user(self, name: str, password: str) -> None:
        """Without any permission yet."""
        self.eval(f'rabbit_auth_backend_internal:add_user(<<"{name}">>, <<"{password}">>, <<"test">>).')

    def close_connections(self) -> None:
        """Of all clients, as `rabbitmqctl close_all_connections` does."""
        self.eval('rabbit_networking:close_connections(rabbit_networking:connections(), "closed by the test").')

    def sync(self) -> None:
        """Bring the names of quorum queues that were just declared onto the disk.

        RabbitMQ 3.10 registers them in a file that it flushes lazily, some seconds later. A SIGKILL before that makes
        it start such a queue anew, without its confirmed messages and with no leader: a fault of the broker's own that
        a test of the producer must step around. A queue that is a few seconds old is not affected.
        """
        self.eval("[dets:sync(Table) || Table <- dets:all()].")

    def _write_config(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "home").mkdir(mode=0o700, exist_ok=True)
        lines = {
            "listeners.tcp.local": f"127.0.0.1:{self.port}",
            "default_user": self.user,
            "default_pass": self.password,
            "default_vhost": "/",
            "loopback_users": "none",
            "log.console": "false",
            "log.file": str(self.log),
            "log.file.level": "info",
            "disk_free_limit.absolute": "50MB",
            **self._config,
        }
        if self.tls_port is not None:
            lines["listeners.ssl.local"] = f"127.0.0.1:{self.tls_port}"
            lines |= {f"ssl_options.{name}": value for name, value in self._tls.items()}
        text = "".join(f"{name} = {value}\n" for name, value in lines.items())
        (self.folder / "rabbitmq.conf").write_text(text)
        (self.folder / "enabled_plugins").write_text(f"[{','.join(self._plugins)}].\n")
        self._link_libraries()

    def _link_libraries(self) -> None:
        """A folder of the broker's own libraries, and one of all their modules, which the broker puts before those.

        It loads 1,000 modules at its start, and looks for each in one folder after the other: 100 of them with Debian's
        plugins. This halves the processor time of a start.
        """
        own = self.folder / "libraries"
        modules = own / "zz_modules-1" / "ebin"  # the last by name is the first that is searched
        if modules.exists():
            return
        modules.mkdir(parents=True)
        root = self.root or _MACHINE
        libraries = [
            library
            for library in root.glob(f"{_LIBRARIES}/rabbitmq_server-*/plugins/*-*")
            if self._plugins
            or not library.name.startswith("rabbitmq_")
            or library.name.startswith("rabbitmq_prelaunch")
        ]
        for library in libraries:
            (own / library.name).symlink_to(_MACHINE / library.relative_to(root))
        for library in (*libraries, *root.glob(f"{_ERLANG}/*-*")):
            for module in library.glob("ebin/*.beam"):
                with contextlib.suppress(FileExistsError):
                    (modules / module.name).symlink_to(_MACHINE / module.relative_to(root))

    def _env(self) -> dict[str, str]:
        folder = self.folder
        return {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "LANG": "C.UTF-8",
            "HOME": str(folder / "home"),  # the cookie
            "ERL_EPMD_PORT": str(self._mapper.port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self._node,
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "no-rabbitmq-env.conf"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_PLUGINS_DIR": str(folder / "libraries"),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder),
            "RABBITMQ_PID_FILE": str(folder / "rabbitmq.pid"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "generated"),
            # With this set the script replaces itself by the VM, so that the process we started is the VM.
            "RUNNING_UNDER_SYSTEMD": "true",
            "RABBITMQ_ALLOW_INPUT": "",
            # No busy waiting: an idle broker for tests leaves the cores to the tests.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "-noinput -kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none"
            ),
        }

    def _start_beam(self) -> None:
        with (self.folder / "startup.log").open("wb") as out:
            self._beam = subprocess.Popen(  # noqa: S603  # our own arguments
                inside(self.root, [SCRIPTS / "rabbitmq-server"]),
                env=self._env(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        end = time.monotonic() + _START_SECONDS
        while not self._answers():
            if self._beam.poll() is not None or time.monotonic() > end:
                raise PrivateRabbitError(f"the private RabbitMQ did not start:\n{self._tail()}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        # RabbitMQ opens its listeners last in its boot, so connections that are taken mean it is ready. From 4.0 on,
        # the one with TLS may come a moment after the plain one.
        try:
            for port in filter(None, (self.port, self.tls_port)):
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            return False
        return True

    def _end_beam(self) -> None:
        beam, self._beam = self._beam, None
        if beam is None or beam.poll() is not None:
            return
        beam.send_signal(signal.SIGCONT)  # a paused one could not end
        beam.send_signal(signal.SIGTERM)
        try:
            beam.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            beam.kill()
            beam.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self.pid is None or self._beam is None:
            raise PrivateRabbitError("the private RabbitMQ does not run")
        self._beam.send_signal(number)

    def _tail(self) -> str:
        texts = [path.read_text(errors="replace") for path in (self.folder / "startup.log", self.log) if path.exists()]
        return "\n".join("\n".join(texts).splitlines()[-20:])
