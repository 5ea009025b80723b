"""The service in an operator's hands for one command: the database, the use cases, and a name in the history."""

import os
import pwd
import signal
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

from application.accounts import UNKNOWN_ACCOUNT
from application.keys import UNKNOWN_KEY
from application.ports import AccountView, Cursors, Keys, KeyView
from application.webhooks import UNKNOWN_WEBHOOK, EndpointView, Webhooks
from domain.access import Feature, Plan
from domain.errors import ConflictError, NotFoundError
from domain.events import Origin
from domain.ids import AccountId, KeyId, MalformedIdError, WebhookEndpointId
from interfaces.bootstrap import (
    Core,
    Management,
    management,
    migrate_database,
    open_core,
    open_database,
    set_clock,
    start_logging,
)
from interfaces.cli.exits import Exit
from interfaces.cli.terminal import say
from interfaces.settings import Settings


@dataclass(frozen=True, slots=True)
class Operator:
    """The use cases and every account's keys; all that one command does has one ``origin``."""

    manage: Management
    keys: Keys
    webhooks: Webhooks
    cursors: Cursors
    origin: Origin

    def account(self, text: str) -> AccountView:
        """The account of an id as it was typed; NotFoundError."""
        try:
            account_id = AccountId.parse(text)
        except MalformedIdError as error:
            raise NotFoundError(UNKNOWN_ACCOUNT) from error
        return self.manage.accounts.get(account_id)

    def account_with_webhooks(self, text: str) -> AccountView:
        """As `account`; ConflictError where its plan has no webhooks, since nothing would be sent."""
        account = self.account(text)
        if not Plan(account.plan).includes(Feature.WEBHOOKS):
            raise ConflictError(f"The account's plan ({account.plan}) has no webhooks")
        return account

    def key(self, text: str) -> KeyView:
        """The key of an id as it was typed, whoever owns it; NotFoundError."""
        try:
            view = self.keys.find(KeyId.parse(text))
        except MalformedIdError as error:
            raise NotFoundError(UNKNOWN_KEY) from error
        if view is None:
            raise NotFoundError(UNKNOWN_KEY)
        return view

    def webhook(self, text: str) -> EndpointView:
        """The webhook of an id as it was typed, whoever owns it; NotFoundError."""
        try:
            endpoint = self.webhooks.find(WebhookEndpointId.parse(text))
        except MalformedIdError as error:
            raise NotFoundError(UNKNOWN_WEBHOOK) from error
        if endpoint is None:
            raise NotFoundError(UNKNOWN_WEBHOOK)
        return endpoint


@contextmanager
def database(settings: Settings) -> Generator[tuple[str, list[str]]]:
    """The conninfo of the migrated database while the block runs, and the names of the migrations applied for it.

    SIGTERM ends the block in order, so that a database started for the call is stopped.
    """
    signal.signal(signal.SIGTERM, _end)
    start_logging(settings, service="cli")
    with ExitStack() as stack:
        conninfo, _ = open_database(settings, stack)
        yield conninfo, migrate_database(conninfo)


@contextmanager
def opened(settings: Settings) -> Generator[Core]:
    """What every process builds first, by the database's clock, while the block runs; a missing schema is made before.

    UnavailableError when the database cannot be asked.
    """
    with database(settings) as (conninfo, applied), ExitStack() as stack:
        if applied:
            say(f"schema migrated ({', '.join(applied)})")
        core = open_core(settings, conninfo, stack)
        set_clock(core)
        yield core


@contextmanager
def operator(settings: Settings) -> Generator[Operator]:
    """The service while the block runs; a schema that is missing is made first."""
    with opened(settings) as core:
        manage = management(core)
        origin = Origin(f"cli:{login_name()}", manage.new_request_id(), manage.clock.now())
        yield Operator(manage=manage, keys=core.keys, webhooks=manage.webhooks_view, cursors=core.ring, origin=origin)


def login_name() -> str:
    """Who logged in on this terminal, also under sudo; without a terminal the user of the process."""
    try:
        return os.getlogin()
    except OSError:
        pass
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user need not have a name
        return str(os.getuid())


def _end(*_: Any) -> NoReturn:
    raise SystemExit(Exit.TERMINATED)
