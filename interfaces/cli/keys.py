"""`keyledger key`: create, list, show, history, revoke, rotate, extend; any account's, as its operator."""

from argparse import Namespace
from datetime import timedelta
from typing import Any, TypeVar

import msgspec

from application.keys import IssuedKey, KeyChange, ManagedKey, NewKey
from domain.access import Networks, Scopes
from domain.credential import Environment
from domain.errors import InvalidError
from domain.key_status import KeyStatus
from domain.naming import Name
from interfaces.cli.exits import Exit
from interfaces.cli.paging import limit_of, show_page
from interfaces.cli.render import as_json, fields, rfc3339
from interfaces.cli.session import operator
from interfaces.cli.terminal import say, write
from interfaces.http.caller import in_utc, parsed
from interfaces.http.errors import problem_of
from interfaces.http.key_bodies import note_of
from interfaces.http.keys import (
    ChangeKey,
    CreateKey,
    EventBody,
    ExtendGrace,
    IssuedKeyBody,
    KeyBody,
    ReceiptBody,
    RevokedKeyBody,
    RevokeKey,
    RotateKey,
)
from interfaces.http.paging import Pager
from interfaces.settings import Settings

Body = TypeVar("Body", bound=msgspec.Struct)


def create(arguments: Namespace, settings: Settings) -> int:
    """Creates a key. The key alone on stdout, or with --json the key's object; nothing shows it again."""
    asked = _asked(
        CreateKey,
        name=arguments.name,
        environment=arguments.environment,
        scopes=arguments.scope,
        allowed_ips=arguments.allow_ip,
        expires_at=arguments.expires_at,
        rotation_due_days=arguments.rotation_due_days,
    )
    new = NewKey(
        name=parsed("name", Name.parse, asked.name),
        environment=asked.environment,
        scopes=None if asked.scopes is None else parsed("scopes", Scopes.parse, asked.scopes),
        # Whether the plan has networks is asked of the customer; an operator may restrict any key.
        networks=None if asked.allowed_ips is None else parsed("allowed_ips", Networks.parse, asked.allowed_ips),
        expires_at=None if asked.expires_at is None else parsed("expires_at", in_utc, asked.expires_at),
        rotation_due_days=asked.rotation_due_days,
    )
    with operator(settings) as op:
        account = op.account(arguments.account)
        issued = op.manage.keys.create(account_id=account.account_id, new=new, by=op.origin)
        _hand_over(arguments, issued)
        view = issued.key.view
        say(f"{view.environment} key {view.key_id} created for {view.account_id}; it is shown only this once")
    return Exit.OK


def list_all(arguments: Namespace, settings: Settings) -> int:
    """An account's keys, newest first, without their secrets."""
    limit = limit_of(arguments)
    environment = None if arguments.environment is None else Environment(arguments.environment)
    status = None if arguments.status is None else KeyStatus(arguments.status)
    with operator(settings) as op:
        account_id = op.account(arguments.account).account_id
        pager = Pager(op.cursors, listing=f"keys {account_id} {environment} {status}")
        keys = op.manage.keys.page(
            account_id=account_id,
            environment=environment,
            status=status,
            before=pager.position(arguments.cursor),
            limit=limit + 1,
        )
        show_page(
            arguments,
            [KeyBody.of(key) for key in keys],
            pager=pager,
            positions=[key.view.created_position for key in keys],
            columns={
                "id": lambda key: key.id,
                "name": lambda key: key.name,
                "status": lambda key: key.status,
                "prefix": lambda key: key.prefix,
                "created at": lambda key: key.created_at,
                "last used at": lambda key: key.last_used_at,
                "requests": lambda key: key.request_count,
                "failed": lambda key: key.failed_attempts,
            },
        )
    return Exit.OK


def show(arguments: Namespace, settings: Settings) -> int:
    """One key, without its secret."""
    with operator(settings) as op:
        view = op.key(arguments.id)
        _show(arguments, op.manage.keys.get(account_id=view.account_id, key_id=view.key_id))
    return Exit.OK


def history(arguments: Namespace, settings: Settings) -> int:
    """A key's events and settled uses, oldest first."""
    limit = limit_of(arguments)
    with operator(settings) as op:
        view = op.key(arguments.id)
        pager = Pager(op.cursors, listing=f"events {view.account_id} {view.key_id}")
        entries = op.manage.keys.events(
            account_id=view.account_id,
            key_id=view.key_id,
            after=pager.position(arguments.cursor) or 0,
            limit=limit + 1,
        )
        show_page(
            arguments,
            [
                EventBody(each.position, each.version, each.type, each.occurred_at, each.actor, each.data)
                for each in entries
            ],
            pager=pager,
            positions=[entry.position for entry in entries],
            columns={
                "position": lambda event: event.position,
                "occurred at": lambda event: event.occurred_at,
                "type": lambda event: event.type,
                "actor": lambda event: event.actor,
                "data": lambda event: event.data,
            },
        )
    return Exit.OK


def revoke(arguments: Namespace, settings: Settings) -> int:
    """Ends a key; the receipt says where in the ledger, and how many processes had to hear of it."""
    asked = _asked(RevokeKey, reason=arguments.reason, note=arguments.note)
    with operator(settings) as op:
        view = op.key(arguments.id)
        key, freshness = op.manage.keys.revoke(
            account_id=view.account_id, key_id=view.key_id, reason=asked.reason, note=note_of(asked), by=op.origin
        )
        body = RevokedKeyBody.of(key, receipt=ReceiptBody.of(freshness))
        write(as_json(body) if arguments.json else fields(body))
        say(f"{body.id} is revoked: no process accepts it any more")
    return Exit.OK


def rotate(arguments: Namespace, settings: Settings) -> int:
    """Creates a key's successor. The new key alone on stdout, or with --json its object."""
    given = {"grace_seconds": arguments.grace_seconds, "grace_starts": arguments.grace_starts}
    asked = _asked(
        RotateKey,
        compromised=arguments.compromised,
        **{name: value for name, value in given.items() if value is not None},
    )
    with operator(settings) as op:
        view = op.key(arguments.id)
        issued = op.manage.keys.rotate(
            account_id=view.account_id,
            key_id=view.key_id,
            grace=timedelta(seconds=asked.grace_seconds),
            grace_starts=asked.grace_starts,
            compromised=asked.compromised,
            by=op.origin,
        )
        _hand_over(arguments, issued)
        ends = op.key(view.key_id).retires_at
        until = f"until {rfc3339(ends)}" if ends else f"for {asked.grace_seconds} s from its successor's first use"
        say(f"{issued.key.view.key_id} replaces {view.key_id}; the new key is shown only this once")
        ended = asked.compromised or not asked.grace_seconds
        say(f"{view.key_id} is accepted {'no more' if ended else until}")
    return Exit.OK


def extend(arguments: Namespace, settings: Settings) -> int:
    """Puts off the retirement of a key that is being replaced."""
    given = {} if arguments.grace_seconds is None else {"grace_seconds": arguments.grace_seconds}
    asked = _asked(ExtendGrace, **given)
    with operator(settings) as op:
        view = op.key(arguments.id)
        grace = timedelta(seconds=asked.grace_seconds)
        key = op.manage.keys.extend_grace(account_id=view.account_id, key_id=view.key_id, grace=grace, by=op.origin)
        _show(arguments, key)
    return Exit.OK


def rotate_after(arguments: Namespace, settings: Settings) -> int:
    """Sets the age at which a key is to be rotated."""
    _asked(ChangeKey, rotation_due_days=arguments.days)  # within the bounds of the HTTP API
    with operator(settings) as op:
        view = op.key(arguments.id)
        change = KeyChange(rotation_due_days=arguments.days)
        _show(
            arguments,
            op.manage.keys.change(account_id=view.account_id, key_id=view.key_id, change=change, by=op.origin),
        )
    return Exit.OK


def _show(arguments: Namespace, key: ManagedKey) -> None:
    body = KeyBody.of(key)
    write(as_json(body) if arguments.json else fields(body))


def _asked(kind: type[Body], **values: Any) -> Body:
    """The values as the HTTP API takes them, under the same bounds; InvalidError."""
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        raise InvalidError((problem_of(error),)) from error


def _hand_over(arguments: Namespace, issued: IssuedKey) -> None:
    """Writes the secret: the one place of the command line that does."""
    body = IssuedKeyBody.of(issued.key, key=issued.secret.reveal())
    try:
        write(as_json(body) if arguments.json else f"{body.key}\n")
    except OSError:
        say(f"{body.id} was created, but its key could not be written and is lost: rotate it, or revoke it")
        raise
