"""`keyledger serve`: the database, the serving processes and the background process, started and ended together."""

import errno
import http.client
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from time import monotonic

import structlog

from application.keys import NewKey
from domain.access import Plan
from domain.credential import Environment, Secret
from domain.errors import UnavailableError
from domain.events import Origin
from domain.mail_address import MailAddress
from domain.naming import Name
from interfaces.bootstrap import (
    keep_running,
    management,
    migrate_database,
    open_core,
    open_database,
    secret_file,
    set_clock,
    start_logging,
)
from interfaces.cli.exits import Exit
from interfaces.settings import Settings
from interfaces.stopping import stop_on_signals

CHECK_SECONDS = 1.0
STOP_SECONDS = 20
START_CHECK_SECONDS = 0.1
QUICK_END_SECONDS = 5
QUICK_ENDS_MAX = 3
PAUSE_SECONDS_MAX = 30

log = structlog.get_logger()


class QuickEnds:
    """How often in a row a process has ended within seconds of its start, and how long to wait before the next one."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, lived_seconds: float) -> None:
        """One more end, after so long a life; a longer one forgets those before it."""
        self.count = self.count + 1 if lived_seconds < QUICK_END_SECONDS else 0

    @property
    def pause_seconds(self) -> int:
        """None after a life of its length, then 1, 2, 4 and so on, half a minute at most."""
        return min(2**self.count // 2, PAUSE_SECONDS_MAX)


class Child:
    """One of our processes, started again when it ends.

    One that serves is given up when it ends at once several times: the service cannot be had. Another (``serves`` is
    False) is started again for ever, after pauses that grow, and serving goes on without it.
    """

    def __init__(self, name: str, command: list[str], environment: Mapping[str, str], *, serves: bool) -> None:
        self.name = name
        self._command = command
        self._environment = dict(environment)
        self._serves = serves
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._quick_ends = QuickEnds()
        self._start_at: float | None = None

    def start(self) -> None:
        """Starts it in a session of its own: Ctrl-C reaches this process alone, which ends its children in order."""
        self._started, self._start_at = monotonic(), None
        self._process = subprocess.Popen(self._command, env=self._environment, start_new_session=True)  # noqa: S603 - our own

    def keep(self) -> bool:
        """Starts it again if it has ended and its pause is over; False when it cannot be kept."""
        if self._process is None or self._process.poll() is None:
            return True
        if self._start_at is None and not self._has_ended(self._process.returncode):
            return False
        if self._start_at is None or monotonic() >= self._start_at:
            self.start()
        return True

    def _has_ended(self, code: int) -> bool:
        self._quick_ends.add(monotonic() - self._started)
        pause = 0 if self._serves else self._quick_ends.pause_seconds
        log.error("process_ended", process=self.name, code=code, starts_again_in_seconds=pause)
        self._start_at = monotonic() + pause
        return not self._serves or self._quick_ends.count < QUICK_ENDS_MAX

    def stop(self) -> None:
        """Asks it to end."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def join(self) -> None:
        """Waits for its end; kills it when it does not come."""
        if self._process is None:
            return
        try:
            self._process.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            log.warning("process_killed", process=self.name)
            self._process.kill()
            self._process.wait()


def serve(settings: Settings) -> int:
    """Runs until SIGTERM or SIGINT; the exit code: 0 after a stop, 5 when the service cannot be kept running."""
    stop = stop_on_signals()
    start_logging(settings, service="serve")
    obstacle = _obstacle(settings)
    if obstacle is not None:
        print(f"keyledger: {settings.host}:{settings.port} {obstacle}", file=sys.stderr)  # noqa: T201 - talk
        return Exit.UNAVAILABLE
    with ExitStack() as stack:
        conninfo, embedded = open_database(settings, stack)
        migrate_database(conninfo)
        with ExitStack() as opened:
            open_core(settings, conninfo, opened)  # makes the root secrets that the children read
        children = [
            Child(name, [sys.executable, "-m", *module], _environment(settings, conninfo), serves=name == "http")
            for name, module in (("http", ["interfaces.http.server"]), ("work", ["interfaces.cli.main", "work"]))
        ]
        for child in children:
            stack.callback(child.join)
        for child in children:
            stack.callback(child.stop)
            child.start()
        ready = False
        while not stop.wait(CHECK_SECONDS if ready else START_CHECK_SECONDS):
            try:
                keep_running(embedded)
            except UnavailableError as error:
                # The serving processes refuse meanwhile; what keeps PostgreSQL down may pass without a hand.
                log.error("database_not_running", reason=error.message)  # noqa: TRY400 - said in the message
            if not all(child.keep() for child in children):
                return Exit.UNAVAILABLE
            if not ready and _is_ready(settings):
                ready = True
                # Made only now that it can be shown: a start that was stopped before would have made it for nobody.
                _announce(settings, _demo(settings, conninfo) if settings.demo else None)
    return 0


def _environment(settings: Settings, conninfo: str) -> dict[str, str]:
    environment = dict(os.environ)  # noqa: TID251 - handed on to our own processes, not read
    if settings.database_url is None:
        # They use the cluster that this process holds, and the secrets beside it where none were given.
        environment["KEYLEDGER_DATABASE_URL"] = conninfo
        if not settings.secret_keys:
            environment["KEYLEDGER_SECRET_KEYS_FILE"] = str(secret_file(settings))
    environment["KEYLEDGER_LOG_FORMAT"] = settings.log_format
    environment["KEYLEDGER_SUPERVISOR"] = str(os.getpid())
    return environment


def _obstacle(settings: Settings) -> str | None:
    """Why the address cannot be listened on; None when it can."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((settings.host, settings.port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return "is in use (KEYLEDGER_PORT)"
        return f"cannot be listened on: {error.strerror} (KEYLEDGER_HOST, KEYLEDGER_PORT)"
    return None


def _demo(settings: Settings, conninfo: str) -> Secret | None:
    """On the first start, an account with a campaign and a key; its secret, None ever after."""
    with ExitStack() as stack:
        core = open_core(settings, conninfo, stack)
        set_clock(core)
        manage = management(core)
        if manage.accounts.page(limit=1):
            return None
        by = Origin("system:demo", manage.new_request_id(), manage.clock.now())
        email = MailAddress("demo@example.com")
        account = manage.accounts.open(name=Name("Demo"), email=email, plan=Plan.SCALE, by=by)
        manage.campaigns.create(
            account_id=account.account_id, environment=Environment.LIVE, name=Name("Backend engineers"), by=by
        )
        new = NewKey(name=Name("Demo key"), environment=Environment.LIVE)
        return manage.keys.create(account_id=account.account_id, new=new, by=by).secret


def _announce(settings: Settings, demo: Secret | None) -> None:
    url = settings.own_url
    print(f"Keyledger serves on {url} (Ctrl-C stops it)", file=sys.stderr, flush=True)  # noqa: T201 - as above
    if demo is not None:
        print("Your first API key, shown once:", flush=True)  # noqa: T201 - the command's own output
        print(f"  {demo.reveal()}", flush=True)  # noqa: T201 - the command's own output
        print("Use it:", flush=True)  # noqa: T201 - the command's own output
        print(f'  curl {url}/api/campaigns -H "Authorization: Bearer {demo.reveal()}"', flush=True)  # noqa: T201 - the command's own output


def _is_ready(settings: Settings) -> bool:
    connection = http.client.HTTPConnection(settings.host, settings.port, timeout=2)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == http.client.OK
    except OSError:
        return False
    finally:
        connection.close()
