"""A private PgBouncer in front of a private PostgreSQL, on loopback only: each transaction may get another connection."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final, Self
from urllib.parse import quote

import psycopg

from mlproducer.testing.rabbitmq import free_port
from private_postgres import PASSWORD, USER, PrivatePostgres

_START_SECONDS: Final = 60.0


def program() -> str:
    found = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if found is None:
        raise RuntimeError("this machine has no PgBouncer: apt-get install pgbouncer")
    return found


class PrivatePgBouncer:
    """A context manager. `connections` to the server for all clients together."""

    def __init__(self, server: PrivatePostgres, database: str, *, connections: int = 3) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mlproducer-pgbouncer-"))
        self.port = free_port()
        self.database = database
        users, configuration = self.folder / "users.txt", self.folder / "pgbouncer.ini"
        users.write_text(f'"{USER}" "{PASSWORD}"\n')
        configuration.write_text(
            f"[databases]\n{database} = host=127.0.0.1 port={server.port} dbname={database}\n"
            "[pgbouncer]\nlisten_addr = 127.0.0.1\n"
            f"listen_port = {self.port}\nauth_type = scram-sha-256\nauth_file = {users}\nunix_socket_dir =\n"
            f"pool_mode = transaction\ndefault_pool_size = {connections}\nmax_client_conn = 100\n"
            f"server_round_robin = 1\nlogfile = {self.folder / 'log'}\npidfile = {self.folder / 'pid'}\n"
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"postgresql://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}/{self.database}"

    def __enter__(self) -> Self:
        user = {}
        if os.geteuid() == 0:  # it refuses to run as root
            owner = pwd.getpwnam("postgres")
            for path in (self.folder, *self.folder.iterdir()):
                os.chown(path, owner.pw_uid, owner.pw_gid)
            user = {"user": "postgres", "group": "postgres", "extra_groups": []}
        self._process = subprocess.Popen(
            [program(), str(self.folder / "pgbouncer.ini")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            **user,  # type: ignore[call-overload]  # mypy: not what Popen takes
        )
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(60)
        shutil.rmtree(self.folder)

    def _wait(self) -> None:
        end = time.monotonic() + _START_SECONDS
        while True:
            try:
                psycopg.connect(self.url).close()
            except psycopg.OperationalError:
                assert self._process is not None
                if self._process.poll() is not None or time.monotonic() > end:
                    raise
                time.sleep(0.05)
            else:
                return
