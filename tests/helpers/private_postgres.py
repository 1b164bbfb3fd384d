"""A private PostgreSQL from the machine's own binaries, in a folder of its own, on loopback only.

It can be killed, paused and started again on the same data, with fsync on as it is by default. Only the processes
started here are ever signalled, by process id. PostgreSQL refuses to run as root; then it runs as the user that
Debian's package made for it. All calls block: from async code use `asyncio.to_thread`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote

import psycopg
import pytest

from mlproducer.testing.rabbitmq import free_port

USER: Final = "ml"
PASSWORD: Final = "s3cr&t pass/word"
_START_SECONDS: Final = 60.0


def binaries() -> Path:
    """The folder of the newest version's programs, which Debian does not put into the PATH."""
    for found in sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), reverse=True):
        return found.parent
    on_path = shutil.which("postgres")
    if on_path is None:
        raise RuntimeError("this machine has no PostgreSQL: apt-get install postgresql")
    return Path(on_path).parent


class PrivatePostgres:
    """A context manager: made and started on entry, stopped and removed on exit. One that `follows` another is its
    standby: a copy, which streams what that one writes, and takes no writes until it is promoted.
    """

    def __init__(self, *, follows: PrivatePostgres | None = None, **settings: str) -> None:
        # Not within pytest's folder: the server's user could not reach it.
        self.folder = Path(tempfile.mkdtemp(prefix="mlproducer-pg-"))
        self.port = free_port()
        self._follows = follows
        self._settings = {"shared_buffers": "64MB", "max_connections": "80", **settings}
        self._server: subprocess.Popen[bytes] | None = None
        self._databases = itertools.count(1)
        self.schemas = itertools.count(1)

    def __enter__(self) -> Self:
        try:
            self._make()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()  # a polite stop would first write out what is removed now
        shutil.rmtree(self.folder)

    @property
    def runs(self) -> bool:
        return self._server is not None and self._server.poll() is None

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def url(self, database: str, **query: object) -> str:
        return self.url_as(USER, PASSWORD, database, **query)

    def url_as(self, user: str, password: str, database: str, **query: object) -> str:
        rest = "&".join(f"{name}={value}" for name, value in query.items())
        return f"postgresql://{user}:{quote(password, safe='')}@127.0.0.1:{self.port}/{database}{rest and '?' + rest}"

    def new_database(self) -> str:
        """Its name."""
        name = f"test_{next(self._databases)}"
        self.sql(f"CREATE DATABASE {name}")
        return name

    def sql(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def start(self) -> None:
        """Start, or start again on the same data and port. Returns when it takes connections."""
        if self.runs:
            return
        settings = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "lc_messages": "C",
            **({} if self._follows is None else {"primary_conninfo": self._follows.url("postgres")}),
            **self._settings,
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with self.log.open("ab") as out:
            self._server = subprocess.Popen(
                [binaries() / "postgres", "-D", self.folder / "data", *options],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C at the terminal is for us, who stop it in order
                **_as_server(),
            )
        end = time.monotonic() + _START_SECONDS
        while True:
            try:
                self.sql("SELECT 1")
            except psycopg.OperationalError as error:
                if self._server.poll() is not None or time.monotonic() > end:
                    text = self.log.read_text(errors="replace")
                    raise RuntimeError(f"the private PostgreSQL did not start: {error}\n{text[-2_000:]}") from error
                time.sleep(0.05)
            else:
                return

    def kill(self) -> None:
        """SIGKILL to all of its processes, as a power cut would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Fast: transactions are rolled back, connections closed by the server."""
        self._end(signal.SIGINT)

    def pause(self) -> None:
        """SIGSTOP: the kernel still takes bytes and connections, nobody answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def follow(self, primary: PrivatePostgres) -> None:
        """Come back as its standby, with a copy of what that one has by now. Returns when it takes reads."""
        self.kill()
        shutil.rmtree(self.folder / "data")
        self._copy(primary)
        self.start()

    def promote(self) -> None:
        """Returns when it takes writes. Nobody follows it yet, so it holds for nobody."""
        self._follows = None
        assert self.sql("SELECT pg_promote()") == [(True,)]
        self.sql("ALTER SYSTEM RESET synchronous_standby_names")
        self.sql("SELECT pg_reload_conf()")

    def hold_for_standby(self) -> None:
        """From now on a commit returns when the standby has it too. Returns when one is there and in step."""
        self.sql("ALTER SYSTEM SET synchronous_standby_names = '*'")
        self.sql("SELECT pg_reload_conf()")
        end = time.monotonic() + _START_SECONDS
        while self.sql("SELECT sync_state FROM pg_stat_replication") != [("sync",)]:
            assert time.monotonic() < end, "no standby is in step"
            time.sleep(0.02)

    def _make(self) -> None:
        if os.geteuid() == 0:
            server = pwd.getpwnam("postgres")
            os.chown(self.folder, server.pw_uid, server.pw_gid)
        if self._follows is not None:
            self._copy(self._follows)
            return
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)  # the folder is the server's alone
        command = [str(binaries() / "initdb"), "-D", str(self.folder / "data"), "-U", USER, f"--pwfile={secret}"]
        auth = ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]
        subprocess.run([*command, *auth], check=True, stdout=subprocess.DEVNULL, cwd="/", **_as_server())

    def _copy(self, primary: PrivatePostgres) -> None:
        self._follows = primary
        command = [str(binaries() / "pg_basebackup"), "-D", str(self.folder / "data"), "-d", primary.url("postgres")]
        quickly = ["--checkpoint=fast", "--no-sync", "--wal-method=stream", "--write-recovery-conf"]
        subprocess.run([*command, *quickly], check=True, stdout=subprocess.DEVNULL, cwd="/", **_as_server())

    def _end(self, number: signal.Signals) -> None:
        server, self._server = self._server, None
        if server is None or server.poll() is not None:
            return
        children = _children(server.pid)
        for pid in (server.pid, *children):
            _send(pid, signal.SIGCONT)  # a paused one could not end
        for pid in (server.pid, *(children if number is signal.SIGKILL else ())):
            _send(pid, number)
        server.wait(60)
        end = time.monotonic() + 30
        while any(_lives(pid) for pid in children) and time.monotonic() < end:
            time.sleep(0.01)  # they hold the shared memory until they have ended too

    def _signal(self, number: signal.Signals) -> None:
        assert self._server is not None
        for pid in (self._server.pid, *_children(self._server.pid)):
            _send(pid, number)


def _as_server() -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    return {"user": "postgres", "group": "postgres", "extra_groups": []}


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PrivatePostgres]:
    """One server for the whole run. Tests on it must not kill or pause it."""
    with PrivatePostgres() as server:
        yield server


@pytest.fixture
def postgres_url(postgres: PrivatePostgres) -> str:
    """Of a fresh database on the shared server: nothing of other tests is in it."""
    return postgres.url(postgres.new_database())


@pytest.fixture
def postgres_schema_url(postgres: PrivatePostgres) -> str:
    """As `postgres_url`, but only a schema of a database, which is made in a tenth of the time."""
    schema = f"s{next(postgres.schemas)}"
    postgres.sql(f"CREATE SCHEMA {schema}")
    return postgres.url("postgres", options=f"-csearch_path%3D{schema}")


@pytest.fixture(scope="session")
def breakable_postgres() -> Iterator[PrivatePostgres]:
    """One server for the whole run to kill and pause: to make one costs seconds of processor time."""
    with PrivatePostgres() as server:
        yield server


@pytest.fixture
def own_postgres(breakable_postgres: PrivatePostgres) -> Iterator[PrivatePostgres]:
    """A server for the test alone: it runs, whatever the last test did. Take a `new_database`."""
    breakable_postgres.start()
    yield breakable_postgres
    if breakable_postgres.runs:
        breakable_postgres.resume()
