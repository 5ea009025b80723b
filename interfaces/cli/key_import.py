"""`keyledger key import`: keys that another system issued and hashed, one JSON object a line, for one account."""

import re
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, BinaryIO, TextIO, TypeVar, cast

import msgspec
from msgspec import Meta

from application.imports import ForeignKey, Imported, Outcome, Refusal
from domain.access import Networks, Scopes
from domain.credential import Environment
from domain.errors import FieldProblem, InvalidError
from domain.foreign_key import Algorithm, ForeignHash, parse_prefix
from domain.naming import Name
from interfaces.cli.exits import Exit
from interfaces.cli.render import as_json
from interfaces.cli.session import operator
from interfaces.cli.terminal import plain, say, without_credentials, write
from interfaces.http.caller import in_utc, parsed
from interfaces.http.errors import problem_of
from interfaces.settings import Settings

LINE_BYTES_MAX = 16_384
_BOM = b"\xef\xbb\xbf"
_FIELD = re.compile(r"[a-z_]{1,20}(\[[0-9]{1,5}\])?")
# A hash, whole or cut, that stands in the wrong field must not come back in a message.
_HASH = re.compile(r"\$2[a-z]?\$[0-9./A-Za-z][^\s'\"]*|[0-9A-Za-z+/=_-]{32,}")

Choice = TypeVar("Choice", bound=StrEnum)
Instant = Annotated[datetime, Meta(tz=True)]


class ImportLine(msgspec.Struct, forbid_unknown_fields=True):
    """One line of the source."""

    name: str
    environment: str
    prefix: str
    hash: str
    algorithm: str
    scopes: list[str] | None = None
    allowed_ips: list[str] | None = None
    expires_at: Instant | None = None
    created_at: Instant | None = None
    external_id: str | None = None


class ImportedLine(msgspec.Struct):
    """A line whose key is here. ``id`` is null in a dry run; ``is_new`` is false when it had been imported before."""

    line: int
    id: str | None
    prefix: str
    external_id: str | None
    is_new: bool


class RefusedLine(msgspec.Struct):
    """A line that was refused; ``field`` is "" for the whole of it."""

    line: int
    field: str
    message: str


class ImportBody(msgspec.Struct):
    """What an import did, or would do."""

    imported: int
    imported_before: int
    refused: int
    dry_run: bool
    keys: list[ImportedLine]
    refusals: list[RefusedLine]


_LINE = msgspec.json.Decoder(ImportLine)


def run(arguments: Namespace, settings: Settings) -> int:
    """Imports the lines that can be. Keys on stdout as they come, refusals on stderr, or with --json all at once."""
    body = ImportBody(0, 0, 0, arguments.dry_run, [], [])
    with _source(arguments.file) as source, operator(settings) as op:
        account = op.account(arguments.account)
        keys = (_key(number, line) for number, line in _lines(source))
        outcomes = op.manage.imports.run(
            account_id=account.account_id,
            keys=keys,
            by=op.origin,
            dry_run=arguments.dry_run,
            rotation_due_after=timedelta(days=account.rotation_due_days),
        )
        for outcome in outcomes:
            _count(body, outcome, keep=arguments.json)
            _tell(outcome, quiet=arguments.json)
        if arguments.json:
            write(as_json(body))
        say(_summary(body))
    return Exit.REFUSED if body.refused else Exit.OK


def _count(body: ImportBody, outcome: Outcome, *, keep: bool) -> None:
    if isinstance(outcome, Refusal):
        body.refused += 1
        if keep:
            body.refusals.append(RefusedLine(outcome.line, outcome.field, outcome.message))
        return
    if outcome.is_new:
        body.imported += 1
    else:
        body.imported_before += 1
    if keep:
        key = outcome.key
        body.keys.append(ImportedLine(key.line, outcome.key_id, key.prefix, key.external_id, outcome.is_new))


def _tell(outcome: Outcome, *, quiet: bool) -> None:
    if isinstance(outcome, Refusal):
        say(f"line {outcome.line}: {outcome.field}{': ' if outcome.field else ''}{outcome.message}")
    elif not quiet:
        write(f"{_row(outcome)}\n")


def _row(outcome: Imported) -> str:
    key = outcome.key
    cells = (str(key.line), outcome.key_id or "-", key.external_id or "-", "new" if outcome.is_new else "before")
    return "\t".join(map(plain, cells))


def _summary(body: ImportBody) -> str:
    if not (body.imported or body.refused):
        return f"nothing to import: {body.imported_before} keys were imported before"
    would = "would be " if body.dry_run else ""
    before = f", {body.imported_before} were before" if body.imported_before else ""
    return f"{body.imported} keys {would}imported{before}, {body.refused} lines {would}refused"


def _source(file: str) -> AbstractContextManager[BinaryIO]:
    """The file, or standard input for `-`; InvalidError when it cannot be opened."""
    if file == "-":
        given = cast("TextIO | None", sys.stdin)  # None where it is closed
        if given is None:
            raise InvalidError.of("file", "cannot be read: standard input is closed")
        return nullcontext(given.buffer)
    try:
        return Path(file).open("rb")
    except OSError as error:
        raise InvalidError.of("file", f"cannot be read: {error.strerror}") from error


def _lines(source: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """The lines with their numbers, blank ones left out; None for one that is too long."""
    number = 0
    while line := source.readline(LINE_BYTES_MAX + 1):
        number += 1
        whole = line
        while len(line) > LINE_BYTES_MAX and not line.endswith(b"\n"):
            line = source.readline(LINE_BYTES_MAX + 1)
        text = whole.removeprefix(_BOM if number == 1 else b"").strip()
        if text:
            yield number, text if len(whole) <= LINE_BYTES_MAX else None


def _key(number: int, line: bytes | None) -> ForeignKey | Refusal:
    """The key of one line, or what is wrong with it first."""
    if line is None:
        return Refusal(number, "", f"is longer than {LINE_BYTES_MAX} bytes")
    try:
        return _foreign(number, _LINE.decode(line))
    except msgspec.ValidationError as error:
        return _refusal(number, problem_of(error))
    except InvalidError as error:
        return _refusal(number, error.problems[0])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Refusal(number, "", "is not a JSON object")


def _foreign(number: int, line: ImportLine) -> ForeignKey:
    algorithm = parsed("algorithm", _one_of(Algorithm), line.algorithm)
    return ForeignKey(
        line=number,
        name=parsed("name", Name.parse, line.name),
        environment=parsed("environment", _one_of(Environment), line.environment),
        prefix=parsed("prefix", lambda text: parse_prefix(text, algorithm), line.prefix),
        hash=parsed("hash", lambda text: ForeignHash.parse(algorithm, text), line.hash),
        scopes=None if line.scopes is None else parsed("scopes", Scopes.parse, line.scopes),
        # As for a key that an operator creates: on any plan.
        networks=None if line.allowed_ips is None else parsed("allowed_ips", Networks.parse, line.allowed_ips),
        created_at=None if line.created_at is None else parsed("created_at", in_utc, line.created_at),
        expires_at=None if line.expires_at is None else parsed("expires_at", in_utc, line.expires_at),
        external_id=None if line.external_id is None else parsed("external_id", Name.parse, line.external_id),
    )


def _one_of(kind: type[Choice]) -> Callable[[str], Choice]:
    def parse(text: str) -> Choice:
        for choice in kind:
            if choice.value == text:
                return choice
        raise ValueError(f"must be one of: {', '.join(kind)}")

    return parse


def _refusal(number: int, problem: FieldProblem) -> Refusal:
    field = problem.field if _FIELD.fullmatch(problem.field) else ""
    return Refusal(number, field, _HASH.sub("…", without_credentials(problem.message)))
