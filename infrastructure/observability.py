"""What this process says: one chain for structlog and for the standard library's loggers, to stderr, redacted last.

    event ─▶ context, time, level ─▶ traceback as text, without locals ─▶ plain values ─▶ a line
        does the line look as if it could hold a credential?   no  ─▶ written
                                                               yes ─▶ values redacted, a new line, redacted, written

What is taken for a credential, and what is left of it, is told in `infrastructure.redaction`.
"""

import logging
import sys
import threading
import traceback
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from contextvars import Token
from functools import cache
from itertools import islice
from types import TracebackType
from typing import Any, Final, Literal, TextIO, cast

import msgspec
import structlog
from structlog.contextvars import bind_contextvars, merge_contextvars, reset_contextvars
from structlog.typing import FilteringBoundLogger, Processor

from infrastructure.redaction import is_suspect, redact, redact_line, redact_values
from infrastructure.system import SystemClock

LogFormat = Literal["json", "console"]
LogLevel = Literal["debug", "info", "warning", "error"]
Event = MutableMapping[str, Any]

TRACEBACK_CHARACTERS_MAX: Final = 16_000
DEPTH_MAX: Final = 6
ENTRIES_MAX: Final = 200

SERVER_LOGGING: Final[dict[str, Any]] = {
    "formatters": {},
    "handlers": {},
    "loggers": {
        "_granian": {"level": "INFO", "propagate": True},
        "granian.access": {"level": "WARNING", "propagate": True},
    },
}
"""For `Granian(log_dictconfig=…)`: without it granian gives its loggers handlers of their own, past the chain."""


class NotRedactingError(RuntimeError):
    """A credential would reach the log as it is."""


_SCALARS: Final = frozenset({str, int, float, bool, type(None)})


def _plain(value: Any, depth: int = 0) -> Any:
    """Reduce to what JSON has. Objects are asked for `str`, never for their fields, so that secrets stay inside."""
    if type(value) in _SCALARS:
        return value
    if not isinstance(value, dict | Mapping | list | tuple | set | frozenset):
        return _text(value)
    if depth == DEPTH_MAX:
        return "…"
    if isinstance(value, dict | Mapping):
        entries = cast("Mapping[Any, Any]", value).items()
        # The two scalars' ways are written out, since every value of every line comes here.
        return {
            key if type(key) is str else _text(key): entry if type(entry) in _SCALARS else _plain(entry, depth + 1)
            for key, entry in islice(entries, ENTRIES_MAX)
        }
    return [_plain(item, depth + 1) for item in islice(cast("Iterable[Any]", value), ENTRIES_MAX)]


def _text(value: Any) -> str:
    try:
        return repr(value) if isinstance(value, BaseException | bytes | bytearray) else str(value)
    except Exception:  # noqa: BLE001 - an object that cannot be shown must not break the caller that logs it
        return f"<{type(value).__name__} that cannot be shown>"


class _Line:
    """The end of the chain: an event becomes one redacted string."""

    def __init__(self, log_format: LogFormat) -> None:
        self._render = _as_json if log_format == "json" else _as_console

    def __call__(self, _logger: Any, _method: str, event: Event) -> str:
        plain = _plain(event)
        line = self._render(plain)
        if not is_suspect(line):
            return line
        return redact_line(self._render(redact_values(plain)))


_encode_json: Final = msgspec.json.Encoder().encode


def _as_json(event: dict[str, Any]) -> str:
    try:
        return _encode_json(event).decode()
    except (ValueError, OverflowError):  # lone surrogates, integers beyond 64 bits
        return _encode_json({ascii(key): ascii(value) for key, value in event.items()}).decode()


def _as_console(event: dict[str, Any]) -> str:
    # `repr` keeps newlines, escape sequences and bidirectional marks of untrusted text from acting on a terminal.
    rest = dict(event)
    head = f"{rest.pop('timestamp')} {rest.pop('level'):<7} {rest.pop('service')} "
    what, trace = str(rest.pop("event")), rest.pop("exception", None)
    pairs = " ".join(f"{key if key.isidentifier() else repr(key)}={value!r}" for key, value in rest.items())
    line = f"{head}{what if what.isprintable() else repr(what)} {pairs}".rstrip()
    return f"{line}\n{trace}" if trace else line


class _Stamp:
    """Put time, level, service and event first, so that every line begins alike."""

    _LEVELS: Final = {"exception": "error", "warn": "warning", "fatal": "critical"}

    def __init__(self, service: str) -> None:
        self._service = service
        self._clock = SystemClock()

    def __call__(self, _logger: Any, _method: str, event: Event) -> Event:
        return {
            "timestamp": self._clock.now().isoformat().replace("+00:00", "Z"),
            "level": self._LEVELS.get(_method, _method),
            "service": self._service,
            "event": event.pop("event", ""),
            **event,
        }


def _trace(_logger: Any, _method: str, event: Event) -> Event:
    """Turn `exc_info` into text without locals, cut only when redacted: a cut may take the prefix that tells."""
    raised: Any = event.pop("exc_info", None)
    if raised is True:
        raised = sys.exc_info()
    error = cast("Any", raised[1] if isinstance(raised, tuple) else raised)
    if isinstance(error, BaseException):
        text = redact("".join(traceback.format_exception(error)).rstrip())
        half = TRACEBACK_CHARACTERS_MAX // 2
        event["exception"] = text if len(text) <= 2 * half else f"{text[:half]}\n…\n{text[-half:]}"
    return event


def chain(*, log_format: LogFormat, service: str) -> list[Processor]:
    """The processors that every line passes; the last gives the line as redacted text without its newline."""
    return [merge_contextvars, _Stamp(service), _trace, _Line(log_format)]


class _ChainFormatter(logging.Formatter):
    """The same chain for records of the standard library's loggers."""

    def __init__(self, processors: Sequence[Processor]) -> None:
        super().__init__()
        self._processors = processors

    def format(self, record: logging.LogRecord) -> str:
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - arguments that do not fit; logging would print them raw
            message = f"{record.msg} (its arguments do not fit)"
        event: Any = {"event": message, "logger": record.name, "exc_info": record.exc_info}
        if record.stack_info:
            event["stack"] = record.stack_info
        for processor in self._processors:
            event = processor(None, record.levelname.lower(), event)
        return str(event)


class _Output:
    """Where lines go. One that cannot be written is lost, as whoever reads them has gone: who said it goes on."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream  # None: stderr was closed before the start

    def write(self, text: str) -> int:
        """Write what can be written."""
        if self._stream is not None:
            with suppress(OSError, ValueError):  # a closed stream raises ValueError
                self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Send out what can be sent."""
        if self._stream is not None:
            with suppress(OSError, ValueError):
                self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def configure_logging(
    *,
    format: LogFormat,  # noqa: A002 - the name of the setting
    level: LogLevel,
    service: str,
    stream: TextIO | None = None,
) -> None:
    """Send all that this process logs through the redacting chain to `stream` (None: stderr as it is now).

    A line that cannot be written is lost, and nothing is raised.

    Also uncaught exceptions, those of threads and of finalisers, and Python's warnings. Handlers that libraries gave
    their own loggers are taken away, so call it after them; calling it again replaces the former set-up.
    """
    out = cast("TextIO", _Output(stream or sys.stderr))
    processors = chain(log_format=format, service=service)
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(out),
        cache_logger_on_first_use=False,  # a cached logger would keep the chain of an earlier call,
    )
    _request_log.cache_clear()
    handler = logging.StreamHandler(out)
    handler.setFormatter(_ChainFormatter(processors))
    for logger in _library_loggers():
        logger.handlers.clear()
        logger.propagate = True
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(number)
    # One line for each run of a job says less than the run's own record.
    logging.getLogger("apscheduler").setLevel(max(number, logging.WARNING))
    logging.raiseExceptions = False  # its reports of failed handlers print the arguments raw
    logging.captureWarnings(capture=True)
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread
    sys.unraisablehook = _unraisable


def _library_loggers() -> list[logging.Logger]:
    return [logger for logger in logging.root.manager.loggerDict.values() if isinstance(logger, logging.Logger)]


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        _log.warning("interrupted")
        return
    _log.critical("uncaught_exception", exc_info=error.with_traceback(trace))


def _uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if not issubclass(args.exc_type, SystemExit):
        name = args.thread.name if args.thread else None
        _log.critical("uncaught_exception", thread=name, exc_info=args.exc_value)


def _unraisable(args: "sys.UnraisableHookArgs") -> None:
    _log.error("unraisable_exception", reason=args.err_msg, exc_info=args.exc_value)


_CANARY_SHOWN: Final = "sk_live_C4n4ryK3y"
_CANARY_HIDDEN: Final = "Redact1onMustHideThisOrTheProcessWi11NotStar"


def assert_redacting() -> None:
    """Send a made-up key through structlog's chain and through every handler that logging has; for the start.

    NotRedactingError when its secret part comes out of any of them, or nothing does.
    """
    canary = f"{_CANARY_SHOWN}_{_CANARY_HIDDEN}"
    raised = NotRedactingError(canary)
    event: Any = {"event": canary, "value": canary, "nested": {canary: [canary.encode()]}, "exc_info": raised}
    for processor in structlog.get_config()["processors"]:
        event = processor(None, "info", event)
    lines = {"structlog": str(event)}
    record = logging.LogRecord("canary", logging.INFO, __file__, 1, "%s", (canary,), (type(raised), raised, None))
    for logger in (logging.root, *_library_loggers()):
        lines |= {f"{logger.name}: {handler!r}": handler.format(record) for handler in logger.handlers}
    if not logging.root.handlers:
        raise NotRedactingError("the standard library's loggers do not pass the chain: configure_logging comes first")
    leaks = [where for where, line in lines.items() if _CANARY_HIDDEN in line or _CANARY_SHOWN not in line]
    if leaks:
        raise NotRedactingError(f"a credential would reach the log as it is, by {', '.join(leaks)}")


def bind(**values: str) -> Mapping[str, Token[Any]]:
    """Add values, such as `request_id`, to every line of this task from here on; `unbind` takes what this gives."""
    return bind_contextvars(**values)


def unbind(tokens: Mapping[str, Token[Any]]) -> None:
    """Put back what `bind` had replaced, in the same task."""
    reset_contextvars(**tokens)


_log: Final[FilteringBoundLogger] = structlog.get_logger()


@cache
def _request_log() -> FilteringBoundLogger:
    """The logger of the canonical line, bound once: binding it anew would be a third of the line's cost."""
    return cast("FilteringBoundLogger", structlog.get_logger().bind())


def log_request(  # noqa: PLR0913 - the canonical line is these fields
    *,
    method: str,
    path: str,
    route: str | None,
    status: int,
    duration_ms: float,
    request_id: str,
    key_id: str | None,
    account_id: str | None,
    outcome: str | None,
    client_ip: str | None,
) -> None:
    """Write the one canonical line of a request, `http_request`.

    `path` loses its query, and what a client chooses is cut; `route` is the template, None where no route matched;
    `key_id` and `account_id` are None for a caller that is not known.
    """
    _request_log().info(
        "http_request",
        method=method[:16],
        path=path.partition("?")[0][:256],
        route=route,
        status=status,
        duration_ms=round(duration_ms, 3),
        request_id=request_id[:64],
        key_id=key_id,
        account_id=account_id,
        outcome=outcome,
        client_ip=client_ip,
    )
