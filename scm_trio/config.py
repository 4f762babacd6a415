"""The configuration as frozen values; the names, defaults and units of the file are in docs/protocol.md, section 8.

The file speaks kebab-case, milliseconds and bytes. Here durations are seconds (``*_s``); ``metadata["key"]`` holds the
file's name of a field where it is not simply the field's name in kebab-case, ``metadata["unit"]`` is ``ms`` where the
file's number has to be divided by 1000, ``metadata["secret"]`` marks values that are never printed,
``metadata["min"]`` and ``metadata["max"]`` are the numbers allowed, ``metadata["url"]`` marks URLs, of which users,
passwords and queries are never printed, ``metadata["kinds"]`` names the kinds of provider that know the key.
``config_loader`` reads files and the environment into these.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Any, Literal

from attrs import field, frozen


def _ms(default_ms: int, key: str, minimum: int = 1) -> Any:
    return field(default=default_ms / 1000, metadata={"key": key, "unit": "ms", "min": minimum})


def _patience(key: str) -> Any:
    return field(default=None, metadata={"key": key, "unit": "ms", "min": 1})


def _number(default: int, key: str | None = None, minimum: int = 1) -> Any:
    return field(default=default, metadata={"min": minimum, **({"key": key} if key else {})})


def _secret(default: Any = None, *kinds: str) -> Any:
    return field(default=default, metadata={"secret": True, **({"kinds": kinds} if kinds else {})}, repr=False)


def _url(default: str | None = None) -> Any:
    return field(default=default, metadata={"url": True}, repr=False)


def _only(*kinds: str, default: Any = None) -> Any:
    return field(default=default, metadata={"kinds": kinds})


@frozen
class Tls:
    """Paths of PEM files; both or neither."""

    certificate: str | None = None
    key: str | None = None


@frozen
class Server:
    host: str = "127.0.0.1"
    port: int = field(default=8088, metadata={"min": 0, "max": 65_535})
    """0: any free one."""
    shutdown_grace_s: float = _ms(30_000, "shutdown-grace", 0)
    workers: int = _number(1)
    tls: Tls = Tls()
    trusted_proxies: tuple[str, ...] = ()


@frozen
class Heartbeat:
    interval_s: float = _ms(30_000, "interval")
    timeout_s: float = _ms(300_000, "timeout")


@frozen
class Connections:
    """The seed's ``session`` section: what it calls sessions are connections."""

    cleanup_interval_s: float = _ms(30_000, "cleanup-interval")
    max_connections: int = _number(1000)
    max_connections_per_user: int = _number(10)
    handshake_timeout_s: float = _ms(10_000, "handshake-timeout")


@frozen
class Messages:
    max_size_bytes: int = _number(1_048_576, "max-size", 1024)
    rate_limit_per_minute: int = _number(100, "rate-limit", 0)
    """Counted messages per user and minute; 0: no limit."""
    write_timeout_s: float = _ms(10_000, "write-timeout")
    max_prompt_chars: int = _number(100_000, "max-prompt-length")
    """Code points of one CHAT_REQUEST's message."""


@frozen
class Streams:
    connect_timeout_s: float = _ms(10_000, "connect-timeout")
    first_token_timeout_s: float = _ms(60_000, "first-token-timeout")
    idle_timeout_s: float = _ms(60_000, "idle-timeout")
    total_timeout_s: float = _ms(600_000, "total-timeout")
    orphan_grace_s: float = _ms(60_000, "orphan-grace", 0)
    resume_window_s: float = _ms(300_000, "resume-window", 0)
    max_per_connection: int = _number(8)
    max_per_user: int = _number(16)
    max_response_bytes: int = _number(1_048_576, "max-response-size", 1024)


@frozen
class WebSocket:
    allowed_origins: tuple[str, ...] = ()
    heartbeat: Heartbeat = Heartbeat()
    session: Connections = Connections()
    message: Messages = Messages()
    stream: Streams = Streams()


Algorithm = Literal["HS256", "RS256", "ES256", "EdDSA"]


@frozen
class Auth:
    secret: str | None = _secret()
    algorithm: Algorithm = "HS256"
    public_key: str | None = None
    """A PEM text, or the path of a PEM file."""
    jwks_url: str | None = _url()
    issuer: str | None = None
    audience: str | None = None
    leeway_s: float = field(default=10.0, metadata={"key": "leeway", "min": 0})
    """Already seconds in the file, as token times are."""
    user_claim: str = "sub"
    query_token: bool = True
    refresh: bool = False


ProviderKind = Literal["openai", "azure", "anthropic", "spark", "local", "scripted"]
PACKAGED_MODEL = "smollm2-135m-instruct"
"""What the extra ``local`` brings."""
ECHO_MODEL = "echo"
"""What the kind ``scripted`` calls saying the question back."""
PLACED_SPARK_MODELS = (
    "lite",
    "general",
    "generalv2",
    "generalv3",
    "pro-128k",
    "generalv3.5",
    "max-32k",
    "4.0Ultra",
    "x1",
    "spark-x",
    "kjwx",
)
"""Those of Spark that need no ``base-url`` over WebSocket: where each of them is asked is known."""


@frozen
class Price:
    """Per million tokens, in any currency."""

    prompt: float = field(default=0.0, metadata={"min": 0})
    completion: float = field(default=0.0, metadata={"min": 0})


@frozen
class Provider:
    kind: ProviderKind
    base_url: str | None = _url()
    api_key: str | None = _secret()
    api_keys: tuple[str, ...] = _secret(())
    models: tuple[str, ...] = ()
    max_concurrency: int = _number(64)
    retries: int = _number(2, minimum=0)
    first_token_timeout_s: float | None = _patience("first-token-timeout")
    idle_timeout_s: float | None = _patience("idle-timeout")
    """These two make silence a failure of this provider before it is one of the answer; None: as ``fallback.Link`` does."""
    prices: dict[str, Price] = field(factory=dict)
    context_tokens: int | None = field(default=None, metadata={"min": 256})
    headers: tuple[str, ...] = _secret((), "openai", "azure", "anthropic", "spark")
    """Sent with every request over HTTP, each written like ``OpenAI-Project: proj_1``."""
    # openai, azure
    preset: Literal["deepseek", "qwen", "moonshot", "zhipu", "ollama", "vllm", "llamacpp"] | None = _only("openai")
    token_limit_field: Literal["max_tokens", "max_completion_tokens"] | None = _only("openai", "azure")
    include_usage: bool = _only("openai", "azure", default=True)
    images: bool | None = _only("openai", "azure", "anthropic", "scripted")
    """Whether the model takes images; None: as the vendor's usually do."""
    # azure, anthropic
    deployment: str | None = _only("azure")
    api_version: str | None = _only("azure", "anthropic")
    bearer_token: str | None = _secret(None, "azure")
    # spark
    transport: Literal["websocket", "http"] = _only("spark", default="http")
    app_id: str | None = _only("spark")
    api_secret: str | None = _secret(None, "spark")
    domain: str | None = _only("spark")
    # local
    model_path: str | None = _only("local")

    @property
    def offered(self) -> tuple[str, ...]:
        """The models that may be asked for, the default one first; empty: any."""
        if self.models:
            return self.models
        if self.kind == "local":
            return (PurePath(self.model_path).stem if self.model_path else PACKAGED_MODEL,)
        own = {"azure": self.deployment, "spark": self.domain, "scripted": ECHO_MODEL}.get(self.kind)
        return (own,) if own else ()

    @property
    def more_headers(self) -> dict[str, str]:
        """``headers`` by their names."""
        return {name: value.strip() for name, _, value in (line.partition(":") for line in self.headers)}

    @property
    def keys(self) -> tuple[str, ...]:
        return self.api_keys or ((self.api_key,) if self.api_key else ())


@frozen
class Alias:
    """Where requests go that ask for the alias as their ``model``."""

    provider: str
    model: str


@frozen
class UserQuota:
    """One user's own; None: as for everybody, 0: no limit."""

    tokens_per_day: int | None = field(default=None, metadata={"min": 0})
    requests_per_day: int | None = field(default=None, metadata={"min": 0})
    cost_per_day: float | None = field(default=None, metadata={"min": 0})


@frozen
class Quota:
    """What each user may spend in a day, UTC; 0: no limit."""

    tokens_per_day: int = _number(0, minimum=0)
    requests_per_day: int = _number(0, minimum=0)
    cost_per_day: float = field(default=0.0, metadata={"min": 0})
    """In the currency of the price tables; models without a price count nothing."""
    answer_tokens: int = _number(1024)
    """What is set aside for an answer whose request does not limit it."""
    users: dict[str, UserQuota] = field(factory=dict)


@frozen
class Ai:
    default_provider: str | None = None
    default_model: str | None = None
    """May be an alias, whose provider then comes before the default one."""
    system_prompt: str | None = None
    fallback: tuple[str, ...] = ()
    restart: bool = False
    """Whether an answer that breaks off after its first token begins anew at the next of ``fallback``."""
    titles: bool = True
    """Whether the model gives a title to a session that has none."""
    suggestions: bool = True
    """Whether the model may be asked for follow-up questions."""
    aliases: dict[str, Alias] = field(factory=dict)
    quota: Quota = Quota()
    providers: dict[str, Provider] = field(factory=dict)


DAY_S = 86_400


@frozen
class Retention:
    """How long conversations are kept; 0: for ever."""

    max_age_days: int = _number(0, minimum=0)
    max_messages_per_session: int = _number(0, minimum=0)

    @property
    def max_age_s(self) -> int:
        return self.max_age_days * DAY_S


@frozen
class Store:
    url: str = _url("sqlite:///scm-trio.db")
    """May carry a password, which is never printed."""
    retention: Retention = Retention()


@frozen
class Files:
    path: str = "scm-trio-files"
    """A folder; where it is relative, beside an SQLite database, else in the working directory."""
    max_size_bytes: int = _number(10_485_760, "max-size")
    max_per_message: int = _number(8, minimum=0)
    quota_bytes: int = _number(104_857_600, "quota", 0)
    """Per user; each file counts as 4 KiB at least."""
    orphan_age_s: float = _ms(86_400_000, "orphan-age", 60_000)


@frozen
class Broker:
    url: str = _url("memory://")


@frozen
class Log:
    format: Literal["console", "json"] = "console"
    level: Literal["debug", "info", "warning", "error"] = "info"


@frozen
class Config:
    server: Server = Server()
    websocket: WebSocket = WebSocket()
    auth: Auth = Auth()
    ai: Ai = Ai()
    store: Store = Store()
    files: Files = Files()
    broker: Broker = Broker()
    log: Log = Log()
