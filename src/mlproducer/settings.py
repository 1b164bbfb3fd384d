"""Every setting, its environment name, its unit and its default (design: defaults of the product).

Read once, frozen, and handed down; nothing else reads the environment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    AliasChoices,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from mlproducer.envelope.tenants import checked_header
from mlproducer.envfile import meant, names_in, read_env_file
from mlproducer.errors import SettingsError
from mlproducer.homes import data_dir, expanded, no_home
from mlproducer.redact import remember
from mlproducer.urls.brokers import Broker, read_brokers
from mlproducer.urls.parts import BadUrl, read_url
from mlproducer.weights import Weights

DEFAULT_URL = "amqp://ml:ml_password@localhost:5672/"
MIN_KEY_LENGTH = 16
"""Characters: 64 bits of hex, beyond guessing over a network."""
_OF_PATHS = frozenset({"sqlite", "memory", "file", "local"})
"""Schemes that have a path and no host."""
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


ENV_FILE = Path(".env")
"""In the working directory."""
_ELSEWHERE = ("ML_ONCE_URL", "ML_RESULTS_URL", "ML_RESULTS_KEY")
"""What workers read: see `mlproducer.worker`."""


def _env(name: str) -> AliasChoices:
    """Accept both the Python name (in code) and the environment name."""
    return AliasChoices(name, name.lower())


class Settings(BaseSettings):
    """All settings. Construct with Python names, or let the environment (and a `.env` file) speak.

    Raises: SettingsError from `Settings.load()`, naming the environment variable at fault and never its value.
    """

    model_config = SettingsConfigDict(
        env_ignore_empty=True,
        frozen=True,
        extra="ignore",
        populate_by_name=True,
        hide_input_in_errors=True,
    )

    # The broker
    rabbitmq_url: SecretStr = Field(SecretStr(DEFAULT_URL), validation_alias=_env("RABBITMQ_URL"))
    """One URL, or several separated by commas or semicolons: tried in turn. See `urls.brokers` for its parameters."""
    rabbitmq_heartbeat: Annotated[int, Field(ge=0, le=3600)] = Field(60, validation_alias=_env("RABBITMQ_HEARTBEAT"))
    """Seconds; the lower of this and the broker's wins; 0 leaves it to the broker."""
    rabbitmq_connection_timeout: Annotated[int, Field(ge=50, le=600_000)] = Field(
        10_000, validation_alias=_env("RABBITMQ_CONNECTION_TIMEOUT")
    )
    """Milliseconds for one whole connect: TCP, TLS, handshake, channels, topology."""
    rabbitmq_use_ssl: bool = Field(False, validation_alias=_env("RABBITMQ_USE_SSL"))
    rabbitmq_ssl_cacert: Path | None = Field(None, validation_alias=_env("RABBITMQ_SSL_CACERT"))
    rabbitmq_ssl_certfile: Path | None = Field(None, validation_alias=_env("RABBITMQ_SSL_CERTFILE"))
    rabbitmq_ssl_keyfile: Path | None = Field(None, validation_alias=_env("RABBITMQ_SSL_KEYFILE"))
    rabbitmq_ssl_key_password: SecretStr = Field(SecretStr(""), validation_alias=_env("RABBITMQ_SSL_KEY_PASSWORD"))
    """The pass phrase of an encrypted client key."""
    rabbitmq_verify_peer: bool = Field(True, validation_alias=_env("RABBITMQ_VERIFY_PEER"))
    rabbitmq_auth: Literal["plain", "external"] = Field("plain", validation_alias=_env("RABBITMQ_AUTH"))
    """`external` takes the identity from the client certificate."""
    ml_connection_name: Annotated[str, Field(max_length=255)] = Field("", validation_alias=_env("ML_CONNECTION_NAME"))
    """What RabbitMQ's list of connections calls ours; empty is the program, the host and the process id."""
    rabbitmq_management_url: SecretStr = Field(SecretStr(""), validation_alias=_env("RABBITMQ_MANAGEMENT_URL"))
    """Root of RabbitMQ's management API: what workers hold, rates of queues, and what `mlproducer doctor` looks for.
    Without a user in it, that of RABBITMQ_URL asks.
    """
    ml_exchange: Annotated[str, Field(min_length=1, max_length=127)] = Field(
        "ml.tasks", validation_alias=_env("ML_EXCHANGE")
    )
    ml_declare_topology: bool = Field(True, validation_alias=_env("ML_DECLARE_TOPOLOGY"))
    """Create the exchange, queues and bindings that are used and missing. Existing ones are never changed."""

    # Connection keeping (design §3)
    ml_reconnect_first: Annotated[float, Field(gt=0)] = Field(0.5, validation_alias=_env("ML_RECONNECT_FIRST"))
    ml_reconnect_cap: Annotated[float, Field(gt=0)] = Field(32.0, validation_alias=_env("ML_RECONNECT_CAP"))
    ml_reconnect_jitter: Annotated[float, Field(ge=0, le=1)] = Field(0.3, validation_alias=_env("ML_RECONNECT_JITTER"))
    ml_reconnect_attempts: Annotated[int, Field(ge=1)] = Field(10, validation_alias=_env("ML_RECONNECT_ATTEMPTS"))
    ml_health_interval: Annotated[float, Field(gt=0)] = Field(30.0, validation_alias=_env("ML_HEALTH_INTERVAL"))
    ml_health_timeout: Annotated[float, Field(gt=0)] = Field(5.0, validation_alias=_env("ML_HEALTH_TIMEOUT"))
    ml_breaker_failures: Annotated[int, Field(ge=1)] = Field(10, validation_alias=_env("ML_BREAKER_FAILURES"))
    ml_breaker_cooldown: Annotated[float, Field(gt=0)] = Field(30.0, validation_alias=_env("ML_BREAKER_COOLDOWN"))

    # Publishing
    ml_confirm_timeout: Annotated[float, Field(gt=0, le=300)] = Field(5.0, validation_alias=_env("ML_CONFIRM_TIMEOUT"))
    """Seconds for the whole direct publish, from the call."""
    ml_confirm_cap: Annotated[float, Field(gt=0, le=600)] = Field(30.0, validation_alias=_env("ML_CONFIRM_CAP"))
    """Seconds for which an answer is listened for after its time, and to which the wait for confirms grows on a route
    whose answers come late; the latter to half of ML_DRAIN_LEASE at most."""
    ml_accept_timeout: Annotated[float, Field(gt=0, le=3600)] = Field(10.0, validation_alias=_env("ML_ACCEPT_TIMEOUT"))
    """Seconds for a whole `publish` that names no `timeout` of its own: the direct attempt, then the spool."""
    ml_max_in_flight: Annotated[int, Field(ge=1)] = Field(5_000, validation_alias=_env("ML_MAX_IN_FLIGHT"))
    ml_max_in_flight_bytes: Annotated[int, Field(ge=1)] = Field(
        64 * 1024 * 1024, validation_alias=_env("ML_MAX_IN_FLIGHT_BYTES")
    )
    ml_max_message_bytes: Annotated[int, Field(ge=1024)] = Field(
        8 * 1024 * 1024, validation_alias=_env("ML_MAX_MESSAGE_BYTES")
    )
    """Half of the 16 MiB that RabbitMQ 4 takes by default, so that no default broker refuses what we accepted."""
    ml_blob_url: SecretStr = Field(SecretStr(""), validation_alias=_env("ML_BLOB_URL"))
    """Where payloads over `ML_CLAIM_CHECK_BYTES` go: a folder, or any URL of fsspec such as `s3://bucket/prefix`."""
    ml_claim_check_bytes: Annotated[int, Field(ge=1024)] = Field(
        1024 * 1024, validation_alias=_env("ML_CLAIM_CHECK_BYTES")
    )
    """With a blob store: the message size above which the payload goes there and the message carries a reference."""
    ml_max_payload_bytes: Annotated[int, Field(ge=1024)] = Field(
        256 * 1024 * 1024, validation_alias=_env("ML_MAX_PAYLOAD_BYTES")
    )
    """With a blob store: the largest payload that is taken."""
    ml_blob_timeout: Annotated[float, Field(gt=0)] = Field(30.0, validation_alias=_env("ML_BLOB_TIMEOUT"))
    """Seconds for one read or write of the blob store."""

    # Retry, spool
    ml_retry_attempts: Annotated[int, Field(ge=1)] = Field(3, validation_alias=_env("ML_RETRY_ATTEMPTS"))
    ml_retry_first: Annotated[float, Field(gt=0)] = Field(1.0, validation_alias=_env("ML_RETRY_FIRST"))
    ml_retry_cap: Annotated[float, Field(gt=0)] = Field(10.0, validation_alias=_env("ML_RETRY_CAP"))
    ml_retry_jitter: Annotated[float, Field(ge=0, le=1)] = Field(0.3, validation_alias=_env("ML_RETRY_JITTER"))
    ml_route_patience: Annotated[float, Field(ge=0)] = Field(300.0, validation_alias=_env("ML_ROUTE_PATIENCE"))
    """Seconds for which a route may be broken before its tasks spend attempts; 0: each fault is its task's own."""
    ml_route_weights: Weights = Field({}, validation_alias=_env("ML_ROUTE_WEIGHTS"))
    """Routing keys and what each gets of the window and the leases, as in `ml.embed=3,ml.summarize=2`; others: 1."""
    ml_tenant_header: Annotated[str, AfterValidator(checked_header)] = Field(
        "", validation_alias=_env("ML_TENANT_HEADER")
    )
    """The header of a task that says whose it is: tenants share what their route gets. Empty: there are none."""
    ml_tenant_weights: Weights = Field({}, validation_alias=_env("ML_TENANT_WEIGHTS"))
    """Values of that header and what each gets, as in `acme=3,free=1`; others, who are shared out by a hash: 1."""
    ml_data_dir: Annotated[Path, AfterValidator(expanded)] = Field(
        default_factory=data_dir, validation_alias=_env("ML_DATA_DIR")
    )
    ml_spool_url: SecretStr = Field(SecretStr(""), validation_alias=_env("ML_SPOOL_URL"))
    """`sqlite:///path`, `postgresql://…`, `redis://…`, `memory://`; empty is `mlproducer.db` in `ML_DATA_DIR`.

    docs/durability.md has what each of them takes and promises.
    """
    ml_spool_max_tasks: Annotated[int, Field(ge=1)] = Field(1_000_000, validation_alias=_env("ML_SPOOL_MAX_TASKS"))
    ml_spool_max_bytes: Annotated[int, Field(ge=1)] = Field(
        4 * 1024 * 1024 * 1024, validation_alias=_env("ML_SPOOL_MAX_BYTES")
    )
    ml_spool_max_age: Annotated[float, Field(gt=0)] = Field(604_800.0, validation_alias=_env("ML_SPOOL_MAX_AGE"))
    """Seconds. While a task has been due for longer, the spool takes no new one: nobody looks after it."""
    ml_spool_low_mark: Annotated[float, Field(gt=0, le=1)] = Field(0.9, validation_alias=_env("ML_SPOOL_LOW_MARK"))
    """A full spool opens again under this share of its limits, so that it does not flap."""
    ml_spool_overflow: Literal["reject", "wait"] = Field("reject", validation_alias=_env("ML_SPOOL_OVERFLOW"))
    """What a full spool does with a new task: refuse it at once, or let its caller wait up to his deadline."""
    ml_drain_batch: Annotated[int, Field(ge=1, le=10_000)] = Field(500, validation_alias=_env("ML_DRAIN_BATCH"))
    ml_drain_lease: Annotated[float, Field(gt=0)] = Field(60.0, validation_alias=_env("ML_DRAIN_LEASE"))
    """Seconds; must exceed the confirm timeout, or a slow confirm would let a second drain publish the same row."""
    ml_drain_poll: Annotated[float, Field(gt=0)] = Field(1.0, validation_alias=_env("ML_DRAIN_POLL"))
    ml_drain_rate: Annotated[float, Field(ge=0)] = Field(0.0, validation_alias=_env("ML_DRAIN_RATE"))
    """Tasks a second from the spool at most; 0 is as fast as the broker confirms them."""
    ml_drain_share: Annotated[float, Field(gt=0, le=1)] = Field(0.5, validation_alias=_env("ML_DRAIN_SHARE"))
    """Of ML_MAX_IN_FLIGHT: what the drain may have in flight, so that it never crowds out new tasks."""
    ml_dlq_publish: bool = Field(False, validation_alias=_env("ML_DLQ_PUBLISH"))
    """Also publish a copy of each dead letter to `ML_DLQ_QUEUE`; the spool keeps it all the same."""
    ml_dlq_queue: Annotated[str, Field(min_length=1, max_length=255)] = Field(
        "ml.dlq", validation_alias=_env("ML_DLQ_QUEUE")
    )
    ml_receipts: Literal["explicit", "all"] = Field("explicit", validation_alias=_env("ML_RECEIPTS"))
    """Which tasks the spool remembers from before their first attempt (docs/adr/0007): those whose id the caller chose,
    or all. Tasks that went through the spool are remembered in any case."""
    ml_receipt_retention: Annotated[float, Field(ge=0)] = Field(86_400.0, validation_alias=_env("ML_RECEIPT_RETENTION"))
    """Seconds that the spool remembers a confirmed task."""
    ml_receipts_kept: Annotated[int, Field(ge=0)] = Field(100_000, validation_alias=_env("ML_RECEIPTS_KEPT"))
    """Receipts of confirmed tasks kept in memory for look-ups; the oldest go first."""

    # Tasks
    preferred_llm_backend: str = Field("api", validation_alias=_env("PREFERRED_LLM_BACKEND"))
    preferred_stt: str = Field("api", validation_alias=_env("PREFERRED_STT"))
    preferred_embedding_backend: str = Field("api", validation_alias=_env("PREFERRED_EMBEDDING_BACKEND"))
    ml_builtin_types: bool = Field(True, validation_alias=_env("ML_BUILTIN_TYPES"))
    """`no` leaves the built-in task types out: there are the user's own, and no others."""
    ml_task_types: Path | None = Field(None, validation_alias=_env("ML_TASK_TYPES"))
    """A TOML file with the user's own task types."""
    ml_allow_private_media: bool = Field(False, validation_alias=_env("ML_ALLOW_PRIVATE_MEDIA"))
    """Let a share name media on a private, loopback or link-local address."""

    # Analytics
    ml_analytics_flush: Annotated[float, Field(gt=0, le=3600)] = Field(5.0, validation_alias=_env("ML_ANALYTICS_FLUSH"))
    """Seconds between two writes of what was counted; a producer that is killed loses what it counted since."""
    ml_celery_events: Annotated[str, Field(max_length=127)] = Field("", validation_alias=_env("ML_CELERY_EVENTS"))
    """The exchange of Celery's task events (`celeryev`): their results are counted. Empty reads none."""
    ml_result_retention: Annotated[float, Field(ge=60)] = Field(86_400.0, validation_alias=_env("ML_RESULT_RETENTION"))
    """Seconds for which a result that was reported again adds nothing."""
    ml_budget_hourly: Annotated[Decimal, Field(ge=0)] | None = Field(None, validation_alias=_env("ML_BUDGET_HOURLY"))
    """What an hour of UTC may cost, in the currency that workers report in."""
    ml_budget_daily: Annotated[Decimal, Field(ge=0)] | None = Field(None, validation_alias=_env("ML_BUDGET_DAILY"))
    ml_budget_warn: Annotated[Decimal, Field(gt=0, le=1)] = Field(
        Decimal("0.8"), validation_alias=_env("ML_BUDGET_WARN")
    )
    """The share of a budget from which on its state is `warn`."""

    # HTTP
    ml_host: str = Field("127.0.0.1", validation_alias=_env("ML_HOST"))
    ml_port: Annotated[int, Field(ge=0, le=65535)] = Field(3001, validation_alias=_env("ML_PORT"))
    ml_api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field((), validation_alias=_env("ML_API_KEYS"))
    """Separated by commas; several at once allow rotation."""
    ml_insecure: bool = Field(False, validation_alias=_env("ML_INSECURE"))
    ml_max_body_bytes: Annotated[int, Field(ge=1024)] = Field(
        16 * 1024 * 1024, validation_alias=_env("ML_MAX_BODY_BYTES")
    )
    ml_shutdown_timeout: Annotated[float, Field(ge=0)] = Field(10.0, validation_alias=_env("ML_SHUTDOWN_TIMEOUT"))
    """Seconds that a stopping producer waits for what is in flight, before the rest is spooled."""

    # What others see
    ml_metrics_dir: Path | None = Field(None, validation_alias=_env("ML_METRICS_DIR"))
    """A folder on a local disk in which the processes of one application count their metrics together (docs/adr/0008):
    a scrape of any of them shows all."""
    ml_ready_when: Literal["connected", "accepting"] = Field("accepting", validation_alias=_env("ML_READY_WHEN"))
    """What readiness means: `connected`, a channel is open and the topology was seen; `accepting`, a new task would be
    accepted, into the spool too."""

    # Logs
    ml_log_level: Literal["debug", "info", "warning", "error"] = Field("info", validation_alias=_env("ML_LOG_LEVEL"))
    ml_log_format: Literal["console", "json"] = Field("console", validation_alias=_env("ML_LOG_FORMAT"))

    @classmethod
    def load(cls, **given: object) -> Self:
        """Settings from the environment, over them what is given; errors name the setting, never the value.

        Raises: SettingsError.
        """
        try:
            return cls(**given)  # type: ignore[arg-type]  # the names are checked by the model itself
        except ValidationError as exc:
            faults = "; ".join(f"{cls._place('.'.join(map(str, e['loc'])), given)}: {e['msg']}" for e in exc.errors())
            raise SettingsError(faults) from None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, _EnvFile(settings_cls), dotenv_settings, file_secret_settings

    @classmethod
    def _place(cls, name: str, given: Mapping[str, object]) -> str:
        """The setting at fault, and where its value is from if that is a file."""
        lower = name.lower()
        if not name or lower in os.environ or name.upper() in os.environ or {lower, name.upper()} & given.keys():
            return name.upper() or "settings"
        line = read_env_file(ENV_FILE, cls.model_fields).get(lower)
        return name.upper() if line is None else f"{ENV_FILE.absolute()}, line {line.number}: {name.upper()}"

    @classmethod
    def mistyped(cls) -> tuple[str, ...]:
        """A sentence for each name in the environment and in `.env` that is no setting and looks like one of ours. Not
        an error: it may be another program's. Raises: SettingsError, if `.env` cannot be read.
        """
        known = (*map(str.upper, cls.model_fields), *_ELSEWHERE)
        places = (("the environment", tuple(os.environ)), (str(ENV_FILE.absolute()), names_in(ENV_FILE)))
        return tuple(
            f"{name} in {place} is no setting: did you mean {near}?"
            for place, names in places
            for name in dict.fromkeys(names)
            if (near := meant(name, known)) is not None
        )

    @model_validator(mode="before")
    @classmethod
    def _known_names(cls, given: object) -> object:
        """A name in code is meant for us: one that is none would be a value that nobody reads."""
        for name in given if isinstance(given, dict) else ():
            if str(name).lower() not in cls.model_fields:
                near = meant(str(name), [each.upper() for each in cls.model_fields])
                raise ValueError(f"{name} is no setting{near and f': did you mean {near.lower()}?'}")
        return given

    @field_validator("ml_api_keys", mode="before")
    @classmethod
    def _split_keys(cls, value: object) -> object:
        return tuple(k.strip() for k in value.split(",") if k.strip()) if isinstance(value, str) else value

    @field_validator("ml_api_keys")
    @classmethod
    def _long_keys(cls, keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if any(len(k.get_secret_value()) < MIN_KEY_LENGTH for k in keys):
            raise ValueError(f"each key needs {MIN_KEY_LENGTH} characters or more (openssl rand -hex 16)")
        return keys

    @field_validator("rabbitmq_url")
    @classmethod
    def _good_urls(cls, value: SecretStr) -> SecretStr:
        read_brokers(value.get_secret_value(), secure=True)  # whether it is, only all settings together can tell
        return value

    @model_validator(mode="after")
    def _secrets_known(self) -> Self:
        """Passwords within URLs are told by who reads those."""
        for value in (getattr(self, name) for name in type(self).model_fields):
            for secret in value if isinstance(value, tuple) else (value,):
                if isinstance(secret, SecretStr) and "://" not in secret.get_secret_value():
                    remember(secret.get_secret_value())
        return self

    @field_validator("ml_spool_url", "ml_blob_url")
    @classmethod
    def _good_store(cls, value: SecretStr) -> SecretStr:
        """What would be dropped or misread; the store itself knows which parameters it takes."""
        text = value.get_secret_value()
        scheme = text.partition("://")[0]
        if "://" in text and scheme.lower() not in _OF_PATHS:
            like = f"{scheme}://user:password@host/name"
            read_url(text, (scheme.lower(),), like=like, several_hosts=True)
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if bool(self.rabbitmq_ssl_certfile) != bool(self.rabbitmq_ssl_keyfile):
            raise ValueError("RABBITMQ_SSL_CERTFILE and RABBITMQ_SSL_KEYFILE go together")
        if self.ml_tenant_weights and not self.ml_tenant_header:
            raise ValueError("ML_TENANT_WEIGHTS are of what a header says: name that in ML_TENANT_HEADER")
        if self.ml_drain_lease <= self.ml_confirm_timeout:
            raise ValueError("ML_DRAIN_LEASE must be longer than ML_CONFIRM_TIMEOUT")
        try:
            brokers = self.brokers
        except BadUrl as error:
            raise ValueError(f"RABBITMQ_URL: {error}") from None
        for given in (broker.words for broker in brokers):
            certificate = "certfile" in given or self.rabbitmq_ssl_certfile
            if given.get("auth_mechanism", self.rabbitmq_auth) == "external" and not certificate:
                raise ValueError(
                    "RABBITMQ_AUTH=external (RABBITMQ_URL: auth_mechanism) needs RABBITMQ_SSL_CERTFILE and "
                    "RABBITMQ_SSL_KEYFILE"
                )
        return self

    @property
    def brokers(self) -> tuple[Broker, ...]:
        """Each URL of `RABBITMQ_URL`, with its password: for the AMQP shell, never for a log."""
        return read_brokers(self.rabbitmq_url.get_secret_value(), secure=self.rabbitmq_use_ssl)

    @property
    def longest_confirm(self) -> float:
        """The most seconds for a confirm on any route. A lease must not end before what it is held for is answered, and
        half of it is left for a store that is slow.
        """
        return max(self.ml_confirm_timeout, min(self.ml_confirm_cap, self.ml_drain_lease / 2))

    @property
    def broker_nodes(self) -> tuple[str, ...]:
        """`host:port` of each broker: for logs and people."""
        return tuple(broker.node(secure=self.rabbitmq_use_ssl) for broker in self.brokers)

    @property
    def spool_url(self) -> str:
        """Raises: SettingsError, if it would be in a home folder and there is none."""
        url = self.ml_spool_url.get_secret_value()
        fault = "" if url or "ml_data_dir" in self.model_fields_set else no_home(self.ml_data_dir)
        if fault:
            raise SettingsError(
                f"ML_DATA_DIR: {fault}: name a folder that this user may write, or a store in ML_SPOOL_URL"
            )
        return url or f"sqlite:///{self.ml_data_dir / 'mlproducer.db'}"

    @property
    def loopback_only(self) -> bool:
        return self.ml_host in LOOPBACK


class _EnvFile(EnvSettingsSource):
    """`.env`, as `envfile` reads it."""

    def _load_env_vars(self) -> Mapping[str, str | None]:
        lines = read_env_file(ENV_FILE, self.settings_cls.model_fields)
        return {name: line.value for name, line in lines.items() if line.value}
