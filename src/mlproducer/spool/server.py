"""The PostgreSQL server: how it is reached, how long it may take, and what its faults mean in words.

Many instances share one database. Nobody owns it: a lease ends when its time is over, whoever held it.

`ML_SPOOL_URL=postgresql://user:password@host:5432/db?timeout=10`: `timeout` is ours, in seconds; whatever else is in
the query goes to libpq (`sslmode`, `sslrootcert`, `target_session_attrs`, …). It bounds each call three times over:

- the server itself ends a statement that takes longer, and waits a third of it for a row that another holds;
- a connection is made within it;
- a server that does not even answer that (hung, paused, its machine gone) is cut off by us. No socket option would do:
  the kernel of a paused server goes on acknowledging what it gets.

**Several servers** may be named, `postgresql://user:password@one:5432,two:5432/db`: each connection goes to the first
that takes writes. A server that stops taking them (demoted in a failover, set read-only, shut down) is left at once:
all connections to it are given up, the transaction that met it is run again on a new one, and LISTEN moves as well.

**A pooler of transactions** (PgBouncer) may stand in between, where each transaction has another session: so nothing is
set for a session and no statement is prepared in one. Limits are set within each transaction. LISTEN would hear
nothing there, and is left out: the drain's poll finds the rows.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, ExceptionContext, create_engine, event, exc
from sqlalchemy.pool import ConnectionPoolEntry

from mlproducer.errors import SettingsError, SpoolUnavailable
from mlproducer.spool.migrations import VERSION, check_for_visitor, migrate, version_of
from mlproducer.spool.store_time import ServerTime
from mlproducer.urls.parts import TAKE_WRITES, BadUrl, Host, choice, decoded, read_url

DEFAULT_TIMEOUT: Final = 10.0
_PORT: Final = 5432
_WANTED: Final = "target_session_attrs"
SLOTS: Final = 64
"""Rows of the totals: enough that few of a handful of writers share one."""

_READ_ONLY: Final = (
    "the server takes no writes (a standby, or set read-only): name the primary, or all servers with commas in between"
)
_LEFT: Final = frozenset({"25006", "57P01", "57P02", "57P03"})
"""Codes of a server that takes no more work of ours: read-only, or on its way down or up."""
_SQLSTATE_HINTS: Final = {
    "28": "its user name or password is wrong",
    "3D": "the database does not exist: create it, or name another",
    "42501": "its user may not do this: it needs to create, read and write the mlproducer_ tables",
    "42P01": "the mlproducer_ tables are gone: restart the producer, or name another database",
    "25006": _READ_ONLY,
    "53100": "the server's disk is full: make room there",
    "53300": "the server has no connection left: raise its max_connections, or run fewer producers",
    "57014": "it took longer than the server was given: is it overloaded? See ?timeout=",
    "57P": "the server is stopping or starting: it is tried again",
    "55P03": "another transaction, such as one that holds an outbox task of the same id, has been open for long",
}
_WORDS_HINTS: Final = (
    ("read-only", _READ_ONLY),
    ("hot standby", _READ_ONLY),
    (
        "unsupported startup parameter",
        "a pooler (PgBouncer) refuses ?options= in the URL: take it out, and give its role that (ALTER ROLE … SET …)",
    ),
    ("password authentication failed", _SQLSTATE_HINTS["28"]),
    ("no password supplied", _SQLSTATE_HINTS["28"]),
    ("pg_hba.conf", "the server does not let this user in from here: see its pg_hba.conf"),
    ("does not exist", "the user or the database does not exist: create it, or name another"),
    ("too many clients", _SQLSTATE_HINTS["53300"]),
    ("remaining connection slots", _SQLSTATE_HINTS["53300"]),
    ("starting up", _SQLSTATE_HINTS["57P"]),
    ("shutting down", _SQLSTATE_HINTS["57P"]),
    ("recovery mode", _SQLSTATE_HINTS["57P"]),
    ("refused", "is the server up, and are host and port right?"),
    ("resolve host", "is the host right?"),
    ("translate host", "is the host right?"),
    ("timeout", "the server does not answer: is it up? See host, port and ?timeout="),
    ("SSL", "see sslmode and the certificates"),
    ("closed", "the connection was lost, or the server did not answer within ?timeout="),
)


@dataclass(frozen=True, slots=True)
class Address:
    """`ML_SPOOL_URL` in parts. Its text is without user and password."""

    url: URL = field(repr=False)
    timeout: float

    def __str__(self) -> str:
        hosts = self.url.query.get("host", "localhost")
        if not self.url.host and not isinstance(hosts, str):
            return f"postgresql://{','.join(hosts)}/{self.url.database or ''}"
        host = self.url.host or str(hosts)
        return f"postgresql://{host}:{self.url.port or _PORT}/{self.url.database or ''}"

    @property
    def libpq(self) -> dict[str, Any]:
        """Arguments of `psycopg.connect`, with the password."""
        _, arguments = self.url.get_dialect()().create_connect_args(self.url)
        return {**arguments, **self.connect_args}

    @property
    def connect_args(self) -> dict[str, Any]:
        hosts, wanted = self.url.query.get("host", ""), self.url.query.get(_WANTED)
        servers = len(hosts.split(",")) if isinstance(hosts, str) else len(hosts)
        return {
            "connect_timeout": max(2, round(self.timeout / servers)),  # for each; libpq knows none shorter
            _WANTED: wanted if wanted == "primary" else "read-write",
            "prepare_threshold": None,
            "fallback_application_name": "mlproducer",
            # A machine that went away without a word is noticed while we only listen.
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
        }


def parse(url: str) -> Address:
    """Raises: SettingsError, which names ML_SPOOL_URL and quotes nothing of it."""
    try:
        import psycopg  # noqa: F401, PLC0415  # only who names a PostgreSQL needs its driver
    except ImportError:
        raise SettingsError(
            "ML_SPOOL_URL: postgresql:// needs the driver psycopg 3: pip install 'mlproducer[postgresql]'"
        ) from None
    like = "postgresql://user:password@host:5432/database?timeout=10 (in seconds)"
    try:
        parts = read_url(url, ("postgresql", "postgres", "postgresql+psycopg"), like=like, several_hosts=True)
        given = dict(parts.parameters((*_libpq_names(), "timeout"), several=("host", "port")))
        choice(given.get(_WANTED, "any"), _WANTED, TAKE_WRITES)
        database = decoded(parts.path[1:], "path")
    except BadUrl as error:
        raise SettingsError(f"ML_SPOOL_URL: {error}") from None
    timeout = _seconds(given.pop("timeout", str(DEFAULT_TIMEOUT)))
    query: dict[str, tuple[str, ...] | str] = {
        name: tuple(value for each, value in parts.query if each == name) if name in {"host", "port"} else given[name]
        for name in given
    }
    if len(parts.hosts) > 1:
        query["host"] = tuple(host.shown(_PORT) for host in parts.hosts)
    one = parts.host if len(parts.hosts) == 1 else Host("")
    return Address(
        URL.create(
            "postgresql+psycopg", parts.user, parts.password, one.name or None, one.port, database or None, query
        ),
        timeout,
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 3600:  # noqa: PLR2004  # an hour
        raise SettingsError("ML_SPOOL_URL: `timeout` is seconds, more than 0 and up to 3600")
    return seconds


def _libpq_names() -> frozenset[str]:
    """What may be in the query: libpq's own keywords, of the version that is installed."""
    from psycopg.pq import Conninfo  # noqa: PLC0415  # as above

    return frozenset(option.keyword.decode() for option in Conninfo.get_defaults())


class _Sockets:
    """A descriptor of our own for each open connection, so that another thread can break it.

    Not the driver's: it might close it, and the kernel give its number to a stranger, just before we act.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of: dict[object, socket.socket] = {}

    def watch(self, engine: Engine) -> None:
        event.listen(engine, "connect", self._connected, insert=True)  # before SQLAlchemy asks its first questions
        event.listen(engine, "close", self._closed)

    def cut(self) -> None:
        with self._lock:
            for each in self._of.values():
                with contextlib.suppress(OSError):  # it is broken already
                    each.shutdown(socket.SHUT_RDWR)

    def _connected(self, dbapi: Any, _record: object) -> None:  # noqa: ANN401  # the driver's own type
        ours = socket.socket(fileno=os.dup(dbapi.fileno()))
        with self._lock:
            self._of[dbapi] = ours

    def _closed(self, dbapi: object, _record: object) -> None:
        with self._lock:
            ours = self._of.pop(dbapi, None)
        if ours is not None:
            ours.close()


class _Moves:
    """A server that takes no more work of ours is left with all connections: those that are idle look well, and who
    reads there would see what was. Each connection that is older than the last move is given up when it is next used.
    """

    def __init__(self) -> None:
        self._number = 0

    def watch(self, engine: Engine) -> None:
        event.listen(engine, "connect", self._connected)
        event.listen(engine, "checkout", self._checked_out)
        event.listen(engine, "handle_error", self._failed)

    def _failed(self, context: ExceptionContext) -> None:
        if str(getattr(context.original_exception, "sqlstate", None)) in _LEFT:
            context.is_disconnect = True
            self._number += 1

    def _connected(self, _dbapi: object, record: ConnectionPoolEntry) -> None:
        record.info[_Moves] = self._number

    def _checked_out(self, _dbapi: object, record: ConnectionPoolEntry, _proxy: object) -> None:
        if record.info.get(_Moves) != self._number:
            raise exc.DisconnectionError("the server was left")


@dataclass(frozen=True, slots=True)
class PostgresStore:
    """An open and migrated database: a `store.Store`."""

    address: Address
    writing: Engine
    reading: Engine
    who: str = field(default_factory=lambda: secrets.token_hex(8))
    sockets: dict[Engine, _Sockets] = field(default_factory=dict)
    moves: _Moves = field(default_factory=_Moves)
    time: ServerTime = field(default_factory=ServerTime)

    @property
    def name(self) -> str:
        return str(self.address)

    @property
    def slot(self) -> int:
        return zlib.crc32(self.who.encode()) % SLOTS

    @property
    def patience(self) -> float | None:
        """Longer than the server was told: it is the one to say that a statement took too long."""
        return self.address.timeout + 1.0

    def close(self) -> None:
        self.reading.dispose()
        self.writing.dispose()

    def turn(self) -> contextlib.AbstractContextManager[None]:
        """The server lets many write at once."""
        return contextlib.nullcontext()

    def cut(self, engine: Engine) -> None:
        self.sockets[engine].cut()

    def refusal(self) -> str | None:
        """A server that answers has its tables where it had them, or says so."""
        return None

    def explain(self, error: Exception) -> SpoolUnavailable:
        return explain(self.address, error)

    def blames_the_store(self, error: Exception) -> bool:
        if not isinstance(error, exc.SQLAlchemyError):
            return False
        state = _sqlstate(error)
        # Data that no table takes (22), a constraint (23), and an id that another transaction holds for long.
        return state[:2] not in {"22", "23"} and state not in {"55P03", "40P01", "40001"}

    def may_pass(self, error: Exception) -> bool:
        """A deadlock or a serialization failure: the server ended ours, so that the other could go on. Or the server
        became read-only: nothing was done there, and the next connection may be to another.
        """
        return _sqlstate(error) in {"40P01", "40001", "25006"}


def open_server(address: Address, *, owner: bool) -> PostgresStore:
    """Blocks on the network. Raises: SpoolUnavailable; then nothing stays open.

    Nothing is released here: leases are of instances that may well be alive.
    """
    # Our statements say at which isolation they are right; the database's default is another's business.
    writing, reading = _engine(address, "READ COMMITTED", 1), _engine(address, "REPEATABLE READ", 4)
    store = PostgresStore(address, writing, reading)
    for engine in (writing, reading):
        store.sockets[engine] = _Sockets()
        store.sockets[engine].watch(engine)
        event.listen(engine, "begin", _set_limits(address, durable=engine is writing))
        store.moves.watch(engine)
    stop_waiting = threading.Timer(store.patience or 0.0, store.cut, (writing,))
    stop_waiting.daemon = True
    stop_waiting.start()
    try:
        with writing.begin() as connection:
            _bring_up(connection, owner=owner, stop_waiting=stop_waiting)
    except BaseException as error:
        store.close()
        if isinstance(error, exc.SQLAlchemyError):
            raise explain(address, error) from None
        raise
    finally:
        stop_waiting.cancel()
    return store


def explain(address: Address, error: Exception) -> SpoolUnavailable:
    """See `Store.explain`. Without a cause: PostgreSQL quotes the failing row in the details of an error."""
    spool = f"the spool {address} (ML_SPOOL_URL)"
    if not isinstance(error, exc.SQLAlchemyError):
        return SpoolUnavailable(f"{spool} cannot store this ({type(error).__name__})")
    fault = error.orig if isinstance(error, exc.DBAPIError) else None
    if fault is None:
        return SpoolUnavailable(f"{spool} cannot be used now ({type(error).__name__}): is the server overloaded?")
    state = _sqlstate(error)
    # Without a code it is libpq that speaks, of the connection: which host, port and user, and never of a row.
    said = getattr(getattr(fault, "diag", None), "message_primary", None) if state else str(fault)
    words = (said or type(fault).__name__).strip().splitlines()
    hint = next((hint for code, hint in _SQLSTATE_HINTS.items() if state.startswith(code)), None)
    if hint is None and not state:
        hint = next((hint for part, hint in _WORDS_HINTS if part in str(fault)), None)
    return SpoolUnavailable(f"{spool} cannot be used ({words[0]}){(hint and ': ' + hint) or ''}")


def _engine(address: Address, isolation: Any, connections: int) -> Engine:  # noqa: ANN401  # a literal of SQLAlchemy's
    return create_engine(
        address.url,
        connect_args=address.connect_args,
        isolation_level=isolation,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=address.timeout,
        pool_pre_ping=True,  # a connection that died while nobody used it is replaced before anything is sent
        hide_parameters=True,  # errors must not quote them: they are users' content
    )


def _set_limits(address: Address, *, durable: bool) -> Callable[[Connection], None]:
    """Within each transaction, since the session may be another's in the next one."""
    limits = {
        "statement_timeout": address.timeout,
        "lock_timeout": address.timeout / 3,
        # What a hung or paused producer holds is let go.
        "idle_in_transaction_session_timeout": address.timeout * 2,
    }
    set_ = [f"set_config('{name}', '{max(1, round(seconds * 1_000))}', true)" for name, seconds in limits.items()]
    if durable:
        # "Durable on return" is our promise; a server's weaker default is for its other users.
        weak = "current_setting('synchronous_commit') = 'off'"
        set_.append(f"CASE WHEN {weak} THEN set_config('synchronous_commit', 'on', true) END")
    statement = f"SELECT {', '.join(set_)}"

    def begun(connection: Connection) -> None:
        connection.exec_driver_sql(statement)

    return begun


def _bring_up(connection: Connection, *, owner: bool, stop_waiting: threading.Timer) -> None:
    found = version_of(connection)
    if not owner:
        check_for_visitor(found)
    elif found != VERSION:
        # An index over a large table takes its time, and so does another instance that is making it.
        stop_waiting.cancel()
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
        migrate(connection)


def _sqlstate(error: Exception) -> str:
    return str(getattr(getattr(error, "orig", None), "sqlstate", None) or "")
