"""Every setting of the service: read once from the environment, frozen, and the only place that reads it.

Each is ``KEYLEDGER_`` + the field's name in capitals, but for those of traces, whose names are OpenTelemetry's. A value
that cannot be meant refuses the start.
"""

import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Literal, Self, TypeVar
from urllib.parse import unquote, urlsplit

from application.mail import MailServer, Sender
from application.traces import SERVICE_NAME, TraceReceiver
from application.verified_keys import Lease
from domain.access import unmapped_network
from domain.credential import Environment
from domain.mail_address import MailAddress

DIGITS_MAX = 20

Durability = Literal["commit", "buffered"]
LogFormat = Literal["json", "console"]
ClientIp = Literal["full", "truncated", "none"]
Choice = TypeVar("Choice", bound=str)
Parsed = TypeVar("Parsed")


class SettingError(Exception):
    """A setting's value cannot be meant; the message names it and what it takes."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings, with their defaults and why they are so."""

    data_dir: Path = Path("var")
    """Where the embedded PostgreSQL and generated secrets live; unused parts stay empty with a database of your own."""
    database_url: str | None = field(default=None, repr=False)
    """A libpq URL or conninfo of PostgreSQL 15 or newer; None starts one in data_dir."""
    secret_keys: tuple[str, ...] = field(default=(), repr=False)
    """Root secrets, newest first, comma separated (or one a line in KEYLEDGER_SECRET_KEYS_FILE), 32 bytes or more in
    hex or base64url. Empty: generated once into data_dir, which only the embedded database allows."""
    host: str = "127.0.0.1"
    """The address that is listened on, IPv4 or IPv6. Loopback: TLS and the outside world are a proxy's work."""
    port: int = 8000
    workers: int = 1
    """Serving processes; one per core is the most that helps."""
    environments: frozenset[Environment] = frozenset(Environment)
    """The key environments that this server accepts (comma separated); all by default."""
    access_log_durability: Durability = "commit"
    """`commit`: no answer before its access row is on disk. `buffered`: faster, may lose 200 ms of rows at a crash."""
    access_log_days: int = 90
    """How long access rows are kept."""
    log_client_ip: ClientIp = "full"
    """How much of a client's address access rows and log lines keep; `truncated` is IPv4 to /24, IPv6 to /48."""
    failed_attempts_per_minute: int = 20
    """Refused credentials that one client network (IPv4 address, IPv6 /64) may send a minute before it gets 429."""
    attack_threshold: int = 50
    """Refused attempts with one key's id within ten minutes that put `key.attacked` on record.

    Refused credentials and networks; a missing scope, or a feature that the plan lacks, does not count.
    """
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    """Networks whose X-Forwarded-For is believed; nobody's by default."""
    metrics_networks: tuple[IPv4Network | IPv6Network, ...] = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
    """Peers that may read `/metrics`; a request that came through a proxy never may."""
    database_connections: int = 8
    """At most so many in one process's pool. Beside it a serving process has three of its own (follower, access log,
    metrics), the background process six (leader, metrics, and four that listen: tailer, two channels, workflows)."""
    body_bytes_max: int = 65_536
    """A larger request body is 413; the largest legitimate one is a few kilobytes."""
    bcrypt_cost: int = 12
    """Each step doubles the work of hashing; below 10 is refused."""
    lease: Lease = field(default_factory=Lease)
    """KEYLEDGER_LEASE_SECONDS: how long a serving process may believe its memory without asking PostgreSQL. Longer
    survives longer silences of the database; a revoke waits as long for a process that cannot be reached."""
    cache_keys: int = 100_000
    """Keys that one serving process remembers, about 2.4 kB each; the least recently used leave first."""
    log_format: LogFormat = "console"
    """`console` on a terminal, `json` otherwise, unless set."""
    supervisor: int | None = None
    """Set by `keyledger serve` for its own processes: its process id, whose end is theirs, however early it comes."""
    demo: bool = True
    """Whether the first start makes a demo account with one key."""
    public_url: str | None = None
    """Where people reach this service, for the links in mails; None: its own host and port."""
    smtp: MailServer | None = None
    """KEYLEDGER_SMTP_URL: where mail is handed over, ``smtp://user:password@host:port`` (STARTTLS where offered) or
    ``smtps://``; None: mail is kept in a folder of data_dir."""
    mail_from: Sender = field(default_factory=lambda: Sender(MailAddress("keyledger@localhost"), "Keyledger"))
    """Whom mail comes from; must be set with a mail server."""
    webhook_allowed_networks: tuple[IPv4Network | IPv6Network, ...] = ()
    """Private networks that webhooks may go to, by http as well; else public addresses alone, by https."""
    webhook_timeout: timedelta = timedelta(seconds=15)
    """KEYLEDGER_WEBHOOK_TIMEOUT_SECONDS: how long one attempt may take once the receiver's name is resolved."""
    outbox_days: int = 30
    """How long webhooks and mails that have come to their end stay on record, with their attempts."""
    traces: TraceReceiver | None = None
    """OTEL_EXPORTER_OTLP_ENDPOINT and its likes: where a span for each request goes; None: there are none."""
    settlement_window: timedelta = timedelta(seconds=10)
    """KEYLEDGER_SETTLEMENT_WINDOW_SECONDS: how often uses become `keys.used` events."""

    @property
    def own_url(self) -> str:
        """Where it serves, by its own host and port."""
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"

    @classmethod
    def read(cls, environment: Mapping[str, str] | None = None) -> Self:
        """The settings of the process's environment, or of the given one; SettingError for a bad value."""
        values = _Reader(os.environ if environment is None else environment)  # noqa: TID251 - read here, once
        default = cls()
        smtp, sender = values.parsed_secret("SMTP_URL", _mail_server), values.parsed("MAIL_FROM", _sender)
        if smtp is not None and sender is None:
            raise SettingError("KEYLEDGER_MAIL_FROM must be set with KEYLEDGER_SMTP_URL")
        terminal: LogFormat = "console" if sys.stderr.isatty() else "json"
        return cls(
            data_dir=Path(values.text("DATA_DIR") or default.data_dir).absolute(),
            database_url=values.secret("DATABASE_URL"),
            secret_keys=values.parsed_secret("SECRET_KEYS", _secret_keys) or (),
            host=values.parsed("HOST", _address) or default.host,
            port=values.number("PORT", default.port, low=1, high=65_535),
            workers=values.number("WORKERS", default.workers, low=1, high=256),
            environments=frozenset(values.listed("ENVIRONMENTS", _environment)) or default.environments,
            access_log_durability=values.choice("ACCESS_LOG_DURABILITY", ("commit", "buffered"), "commit"),
            access_log_days=values.number("ACCESS_LOG_DAYS", default.access_log_days, low=1, high=3650),
            log_client_ip=values.choice("LOG_CLIENT_IP", ("full", "truncated", "none"), "full"),
            failed_attempts_per_minute=values.number(
                "FAILED_ATTEMPTS_PER_MINUTE", default.failed_attempts_per_minute, low=1, high=1_000_000
            ),
            attack_threshold=values.number("ATTACK_THRESHOLD", default.attack_threshold, low=1, high=1_000_000),
            trusted_proxies=tuple(values.listed("TRUSTED_PROXIES", _network)),
            metrics_networks=tuple(values.listed("METRICS_NETWORKS", _network)) or default.metrics_networks,
            database_connections=values.number("DATABASE_CONNECTIONS", default.database_connections, low=2, high=100),
            body_bytes_max=values.number("BODY_BYTES_MAX", default.body_bytes_max, low=1024, high=10_485_760),
            bcrypt_cost=values.number("BCRYPT_COST", default.bcrypt_cost, low=10, high=16),
            lease=Lease(values.number("LEASE_SECONDS", int(default.lease.seconds), low=1, high=60)),
            cache_keys=values.number("CACHE_KEYS", default.cache_keys, low=1, high=10_000_000),
            log_format=values.choice("LOG_FORMAT", ("json", "console"), terminal),
            supervisor=values.number("SUPERVISOR", 0, low=1, high=2**22) or None,
            demo=values.choice("DEMO", ("0", "1"), "1") == "1",
            public_url=values.parsed("PUBLIC_URL", _public_url),
            smtp=smtp,
            mail_from=sender or default.mail_from,
            webhook_allowed_networks=tuple(values.listed("WEBHOOK_ALLOWED_NETWORKS", _network)),
            webhook_timeout=timedelta(seconds=values.number("WEBHOOK_TIMEOUT_SECONDS", 15, low=1, high=60)),
            outbox_days=values.number("OUTBOX_DAYS", default.outbox_days, low=1, high=3650),
            traces=_traces(values),
            settlement_window=timedelta(seconds=values.number("SETTLEMENT_WINDOW_SECONDS", 10, low=1, high=600)),
        )


class _Reader:
    """Typed values out of an environment, each error naming its variable."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def text(self, name: str) -> str | None:
        return self._environment.get(f"KEYLEDGER_{name}") or None

    def standard(self, name: str) -> str | None:
        """A variable whose name is not ours."""
        return self._environment.get(name) or None

    def secret(self, name: str) -> str | None:
        """The variable, or the contents of the file that its ``_FILE`` twin names.

        An empty file is none: what is not there yet must not be taken for what is not wanted.
        """
        file = self.text(f"{name}_FILE")
        if file is None:
            return self.text(name)
        try:
            text = Path(file).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise SettingError(f"KEYLEDGER_{name}_FILE: {file} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError:  # which holds what it has read, so it is not kept as the cause
            raise SettingError(f"KEYLEDGER_{name}_FILE: {file} is not text (UTF-8)") from None
        if not text:
            raise SettingError(f"KEYLEDGER_{name}_FILE: {file} is empty")
        return text

    def number(self, name: str, default: int, *, low: int, high: int) -> int:
        text = self.text(name)
        if text is None:
            return default
        if not (text.isascii() and text.isdigit() and len(text) <= DIGITS_MAX and low <= int(text) <= high):
            raise SettingError(f"KEYLEDGER_{name} must be a whole number from {low} to {high}")
        return int(text)

    def choice(self, name: str, allowed: tuple[Choice, ...], default: Choice) -> Choice:
        text = self.text(name)
        if text is None:
            return default
        for value in allowed:
            if value == text:
                return value
        raise SettingError(f"KEYLEDGER_{name} must be one of: {', '.join(allowed)}")

    def parsed(self, name: str, parse: Callable[[str], Parsed]) -> Parsed | None:
        text = self.text(name)
        return None if text is None else _parsed(name, parse, text)

    def parsed_secret(self, name: str, parse: Callable[[str], Parsed]) -> Parsed | None:
        """As ``parsed``, or from the file of its ``_FILE`` twin; ``parse`` repeats nothing of it in its errors."""
        text = self.secret(name)
        return None if text is None else _parsed(name, parse, text)

    def listed(self, name: str, parse: Callable[[str], Parsed]) -> list[Parsed]:
        text = self.text(name)
        parts = [part.strip() for part in (text or "").split(",") if part.strip()]
        if text is not None and not parts:
            raise SettingError(f"KEYLEDGER_{name} names nothing: leave it empty for the default")
        try:
            return [parse(part) for part in parts]
        except ValueError as error:
            raise SettingError(f"KEYLEDGER_{name}: {error}") from error


def _parsed(name: str, parse: Callable[[str], Parsed], text: str) -> Parsed:
    try:
        return parse(text)
    except ValueError as error:
        # Without the cause: the library's own words may repeat a password.
        raise SettingError(f"KEYLEDGER_{name} {error}") from None


def _network(text: str) -> IPv4Network | IPv6Network:
    return unmapped_network(ip_network(text))


def _secret_keys(text: str) -> tuple[str, ...]:
    keys = tuple(text.replace(",", "\n").split())
    if not keys:
        raise ValueError("holds no secret")
    return keys


def _environment(text: str) -> Environment:
    for environment in Environment:
        if environment == text:
            return environment
    raise ValueError(f"{text!r} is none of {', '.join(Environment)}")


def _address(text: str) -> str:
    try:
        address = ip_address(text)
    except ValueError:
        address = None
    if address is None or "%" in text:
        raise ValueError("must be an IPv4 or IPv6 address, as 127.0.0.1 or ::1")
    return str(address)


def _mail_server(text: str) -> MailServer:
    try:
        url = urlsplit(text)
        host, port = url.hostname, url.port
    except ValueError:
        url, host, port = urlsplit(""), None, None
    if url.scheme not in {"smtp", "smtps"} or not host or url.path.strip("/") or url.query or url.fragment or port == 0:
        raise ValueError(
            "must be smtp://user:password@host:port or smtps://…, with % for what is not a letter or digit"
        )
    if url.password is not None and not url.username:
        raise ValueError("has a password and no user")
    is_encrypted = url.scheme == "smtps"
    usual = 465 if is_encrypted else 587 if url.username else 25  # RFC 8314 section 3.3, RFC 6409, RFC 5321
    return MailServer(
        host=host,
        port=port or usual,
        is_encrypted=is_encrypted,
        user=unquote(url.username) if url.username else None,
        password=None if url.password is None else unquote(url.password),
    )


def _sender(text: str) -> Sender:
    name, bracket, rest = text.strip().partition("<")
    address = rest.removesuffix(">") if bracket else name
    name = name.strip().strip('"') if bracket else ""
    if not name.isprintable() or (bracket and not rest.endswith(">")):
        raise ValueError("must be an e-mail address, or a name and an address in angle brackets")
    return Sender(MailAddress.parse(address), name)


def _traces(values: _Reader) -> TraceReceiver | None:
    """As OpenTelemetry's "OTLP Exporter Configuration" and "General SDK Configuration" name and mean them."""
    endpoint, ratio = values.standard("OTEL_EXPORTER_OTLP_ENDPOINT"), values.standard("OTEL_TRACES_SAMPLER_ARG") or "1"
    headers, name = values.standard("OTEL_EXPORTER_OTLP_HEADERS"), values.standard("OTEL_SERVICE_NAME")
    if not re.fullmatch(r"0(?:\.[0-9]+)?|1(?:\.0+)?", ratio):
        raise SettingError("OTEL_TRACES_SAMPLER_ARG must be a share from 0 to 1")
    if endpoint is None:
        return None
    try:
        url = _public_url(endpoint)
    except ValueError as error:
        raise SettingError(f"OTEL_EXPORTER_OTLP_ENDPOINT {error}") from None
    pairs = [part.partition("=") for part in (headers or "").split(",") if part.strip()]
    given = {unquote(key.strip()): unquote(value.strip()) for key, _, value in pairs}
    if not all(
        re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", key) and value.isascii() and value.isprintable()
        for key, value in given.items()
    ):
        raise SettingError("OTEL_EXPORTER_OTLP_HEADERS must be name=value, comma separated")  # they may be secrets
    return TraceReceiver(f"{url}/v1/traces", given, name or SERVICE_NAME, float(ratio))


def _public_url(text: str) -> str:
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        url, port = urlsplit(""), None
    if (
        url.scheme not in {"http", "https"}
        or not url.hostname
        or url.query
        or url.fragment
        or url.username
        or port == 0
    ):
        raise ValueError("must be the beginning of an address, as https://keys.example.com")
    if not re.fullmatch(r"[!-;=?-~]+", text):  # what stands in a header and between angle brackets
        raise ValueError("has characters that an address does not have")
    return text.rstrip("/")
