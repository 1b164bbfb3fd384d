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
set for a session, and no statement is prepared where a pooler is met. Limits are set within each transaction. LISTEN
would hear nothing there, and is left out: the drain's poll finds the rows.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import zlib
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import Connection, Engine, exc

from mlproducer.errors import SpoolUnavailable
from mlproducer.spool import server_connections
from mlproducer.spool.migrations import VERSION, check_for_visitor, migrate, version_of
from mlproducer.spool.server_address import Address
from mlproducer.spool.server_connections import Moves, Sockets
from mlproducer.spool.store_time import ServerTime

SLOTS: Final = 64
"""Rows of the totals: enough that few of a handful of writers share one."""

_READ_ONLY: Final = (
    "the server takes no writes (a standby, or set read-only): name the primary, or all servers with commas in between"
)
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
    ("private key", "is it encrypted, or another certificate's? See sslkey and sslpassword"),
    ("SSL", "see sslmode and the certificates"),
    ("closed", "the connection was lost, or the server did not answer within ?timeout="),
)


@dataclass(frozen=True, slots=True)
class PostgresStore:
    """An open and migrated database: a `store.Store`."""

    address: Address
    writing: Engine
    reading: Engine
    who: str = field(default_factory=lambda: secrets.token_hex(8))
    sockets: dict[Engine, Sockets] = field(default_factory=dict)
    moves: Moves = field(default_factory=Moves)
    time: ServerTime = field(default_factory=ServerTime)

    @property
    def name(self) -> str:
        return str(self.address)

    @property
    def slot(self) -> int:
        return zlib.crc32(self.who.encode()) % SLOTS

    @property
    def patience(self) -> float:
        """Longer than the server was told: it is the one to say that a statement took too long."""
        return self.address.timeout + 1.0

    @property
    def overdue(self) -> float:
        return self.patience

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
        became read-only, or had gone since we last wrote: nothing was done there, and the next connection may be to
        another.
        """
        return _sqlstate(error) in {"40P01", "40001", "25006"} or server_connections.begin_failed(error)


def open_server(address: Address, *, owner: bool) -> PostgresStore:
    """Blocks on the network. Raises: SpoolUnavailable; then nothing stays open.

    Nothing is released here: leases are of instances that may well be alive.
    """
    # Our statements say at which isolation they are right; the database's default is another's business.
    writing = server_connections.engine(address, "READ COMMITTED", 1, writes=True)
    reading = server_connections.engine(address, "REPEATABLE READ", 4, writes=False)
    store = PostgresStore(address, writing, reading)
    for engine in (writing, reading):
        store.sockets[engine] = Sockets()
        store.sockets[engine].watch(engine)
        store.moves.watch(engine)
    stop_waiting = threading.Timer(store.patience, store.cut, (writing,))
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
