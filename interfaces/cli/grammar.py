"""What can be typed, `keyledger NOUN VERB`, and the function that runs each.

A command is named as text, `module:function`, and its module is imported only when the command runs: `--help` and a
mistyped line are answered in 0.1 s, where importing the HTTP layer and the database first took 0.55 s.
"""

import argparse
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final, NoReturn, TypeAlias

from domain.access import Plan
from domain.api_key import GraceStart, RevocationReason
from domain.credential import Environment
from domain.key_status import KeyStatus
from domain.notices import MUTABLE
from domain.webhook_endpoint import EventType
from domain.workflow import ProcessState
from interfaces.cli.exits import EXIT_CODES, Exit
from interfaces.cli.terminal import say, without_credentials, write

DESCRIPTION: Final = """\
Keyledger's operator: accounts, API keys, and the service itself. It works on the database of KEYLEDGER_DATABASE_URL,
or else on the one in KEYLEDGER_DATA_DIR (default var/), which is started for the call when no service runs on it.
Data goes to stdout, talk to stderr.
"""

CURSOR: Final = "--cursor"
NOTIFICATIONS: Final = "interfaces.cli.notifications:notifications"

IMPORT_LINES: Final = """\
each line: {"name", "environment": "live|staging|dev", "prefix", "hash", "algorithm": "bcrypt|sha256", "scopes"?,
"allowed_ips"?, "expires_at"?, "created_at"?, "external_id"?}
  prefix   the key's first characters, shown in listings: 4 to 32 for bcrypt, where at most 8 keys may have the same;
           2 to 32 for sha256. The more, the fewer stray credentials have to be looked for.
  hash     $2a$, $2b$ or $2y$ of a key of at most 72 bytes, or the hex SHA-256 of a key too random to be guessed
A line that cannot be imported is refused alone; the exit code is then 3. Running it again imports nothing twice.
"""


class Parser(argparse.ArgumentParser):
    """Argparse with whole option names only, and errors in one line that repeats no credential."""

    def __init__(self, prog: str, **options: str) -> None:
        super().__init__(
            prog,
            description=options.get("description"),
            epilog=EXIT_CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Ends with exit code 2."""
        say(f"{without_credentials(message)} (see {self.prog} --help)")
        raise SystemExit(Exit.USAGE)


class _Version(argparse.Action):
    """Prints the release and ends."""

    def __call__(self, *_: Any) -> NoReturn:
        # Loaded here for the same reason: a fifth of the time of every other command line.
        write(f"keyledger {import_module('importlib.metadata').version('keyledger')}\n")
        raise SystemExit(Exit.OK)


Verbs: TypeAlias = "argparse._SubParsersAction[Parser]"  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - it has no public name


def grammar() -> Parser:
    """The whole command line; what it parses has `run`, the command's `module:function`."""
    root = Parser("keyledger", description=DESCRIPTION)
    root.add_argument("--version", action=_Version, nargs=0, help="print the release")
    nouns = root.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _account(nouns.add_parser("account", help="open, list, suspend and reinstate accounts, and their notices"))
    _key(nouns.add_parser("key", help="create, import, list, show, rotate and revoke API keys, and read their history"))
    _webhook(nouns.add_parser("webhook", help="create, list, change, test and delete webhooks, and their deliveries"))
    _mail(nouns.add_parser("mail", help="mails that were and are to be handed over, and those that failed"))
    _jobs(nouns.add_parser("jobs", help="what the background process does from time to time"))
    _usage(_verb(nouns, "usage", "interfaces.cli.usage:usage", "one key's requests over time"))
    _logs(_verb(nouns, "logs", "interfaces.cli.usage:logs", "the access log of an account or a key, newest first"))
    _workflow(nouns.add_parser("workflow", help="processes that end what was begun: rotations, failures of webhooks"))
    _projections(nouns.add_parser("projections", help="the views made from the ledger"))
    migrate = _verb(nouns, "migrate", "interfaces.cli.service:migrate", "bring the database's schema to this release")
    _json(migrate)
    _verb(nouns, "serve", "interfaces.cli.serve:run", "run the service: database, HTTP and background work")
    _verb(nouns, "work", "interfaces.cli.work:run", "run the background process alone")
    return root


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The parsed line; SystemExit with 2 when it cannot be meant, with 0 after `--help`."""
    parser = grammar()
    try:
        "".join(words).encode()
    except UnicodeEncodeError:  # bytes outside the locale's encoding; neither JSON nor the ledger could hold them
        parser.error("the command line is not readable text")
    return parser.parse_args(_with_cursors_joined(words))


def _with_cursors_joined(words: Sequence[str]) -> list[str]:
    """With each ``--cursor TEXT`` as ``--cursor=TEXT``: one in 64 begins with a dash, as an option does."""
    joined: list[str] = []
    for word in words:
        if joined and joined[-1] == CURSOR:
            joined[-1] = f"{CURSOR}={word}"
        else:
            joined.append(word)
    return joined


def _account(noun: Parser) -> None:
    verbs = _verbs(noun)
    create = _verb(verbs, "create", "interfaces.cli.accounts:create", "open an account")
    create.add_argument("--name", required=True, help="1 to 100 characters")
    create.add_argument("--email", required=True, help="where its notices go")
    create.add_argument("--plan", choices=[each.value for each in Plan], default=Plan.FREE.value, help="default: free")
    _json(create)
    accounts = _verb(verbs, "list", "interfaces.cli.accounts:list_all", "all accounts, the last changed first")
    _paged(accounts)
    for name, what in (("suspend", "refuse all keys of an account"), ("reinstate", "accept an account's keys again")):
        verb = _verb(verbs, name, f"interfaces.cli.accounts:{name}", what)
        verb.add_argument("id", metavar="ID", help="acc_…")
        _json(verb)
    rotate_after = _verb(
        verbs,
        "rotate-after",
        "interfaces.cli.accounts:rotate_after",
        "set the age at rotation of an account's new keys",
    )
    rotate_after.add_argument("id", metavar="ID", help="acc_…")
    _rotate_after(rotate_after)
    what = "choose the webhook that is handed over successors of keys that fall due"
    hand_over = _verb(verbs, "hand-over", "interfaces.cli.accounts:hand_over", what)
    hand_over.add_argument("id", metavar="ID", help="acc_…")
    hand_over.add_argument("endpoint", metavar="ENDPOINT", help="whe_…, a webhook of the account; none: no more")
    _json(hand_over)
    _notifications(_verb(verbs, "notifications", NOTIFICATIONS, "show or change where notices go, and which are sent"))


def _notifications(verb: Parser) -> None:
    kinds = [kind.value for kind in MUTABLE]
    verb.add_argument("id", metavar="ID", help="acc_…")
    verb.add_argument("--mute", action="append", choices=kinds, default=[], help="do not send these; may be repeated")
    verb.add_argument("--unmute", action="append", choices=kinds, default=[], help="send these again; may be repeated")
    address = verb.add_mutually_exclusive_group()
    address.add_argument("--email", metavar="ADDRESS", help="where they go")
    address.add_argument("--account-email", action="store_true", help="they go to the account's own address again")
    _json(verb)


def _key(noun: Parser) -> None:
    verbs = _verbs(noun)
    environments = [each.value for each in Environment]
    create = _verb(verbs, "create", "interfaces.cli.keys:create", "create a key and print it, once, alone on stdout")
    create.add_argument("--account", required=True, metavar="ID", help="acc_…")
    create.add_argument("--name", required=True, help="1 to 100 characters")
    create.add_argument("--environment", required=True, choices=environments)
    create.add_argument("--scope", action="append", help="may be repeated; without it, full access to the account")
    create.add_argument(
        "--allow-ip", action="append", metavar="CIDR", help="may be repeated; without it, from anywhere; on any plan"
    )
    create.add_argument("--rotation-due-days", type=int, help="age at rotation; default: what the account says")
    create.add_argument("--expires-at", metavar="TIME", help="RFC 3339 with an offset: 2030-01-31T00:00:00Z")
    _json(create)
    listing = _verb(verbs, "list", "interfaces.cli.keys:list_all", "an account's keys, newest first, without secrets")
    listing.add_argument("--account", required=True, metavar="ID", help="acc_…")
    listing.add_argument("--environment", choices=environments)
    listing.add_argument("--status", choices=[each.value for each in KeyStatus])
    _paged(listing)
    imports = _verb(verbs, "import", "interfaces.cli.key_import:run", "take over keys that were hashed elsewhere")
    imports.add_argument("--account", required=True, metavar="ID", help="acc_…")
    imports.add_argument("--file", required=True, metavar="FILE", help="JSON Lines, - for standard input; see below")
    imports.add_argument("--dry-run", action="store_true", help="decide the same and change nothing")
    imports.epilog = f"{IMPORT_LINES}\n{EXIT_CODES}"
    _json(imports)
    _json(_of_key(verbs, "show", "one key"))
    _paged(_of_key(verbs, "history", "a key's events and settled uses, oldest first"))
    revoke = _of_key(verbs, "revoke", "end a key: no process accepts it once this has answered; prints the receipt")
    revoke.add_argument("--reason", choices=[each.value for each in RevocationReason], default="other")
    revoke.add_argument("--note", help="for the history, at most 500 characters")
    _json(revoke)
    rotate = _of_key(verbs, "rotate", "create a key's successor and print it, once, alone on stdout")
    rotate.add_argument("--grace-seconds", type=int, help="how long the old key stays accepted; default: one day")
    rotate.add_argument("--compromised", action="store_true", help="end the old key at once, and say why")
    rotate.add_argument("--grace-starts", choices=[each.value for each in GraceStart], help="default: now")
    _json(rotate)
    extend = _of_key(verbs, "extend", "put off the retirement of a key that is being replaced")
    extend.add_argument("--grace-seconds", type=int, help="how long from now; default: one day")
    _json(extend)
    _rotate_after(_of_key(verbs, "rotate_after", "set the age at which a key is to be rotated"))


def _rotate_after(verb: Parser) -> None:
    verb.add_argument("--days", type=int, required=True, help="1 to 3650")
    _json(verb)


def _workflow(noun: Parser) -> None:
    verbs = _verbs(noun)
    listing = _verb(verbs, "list", "interfaces.cli.workflow:list_all", "processes, the last begun first")
    listing.add_argument("--state", choices=[each.value for each in ProcessState])
    listing.add_argument("--workflow", metavar="NAME", help="of one kind: rotation, webhook_failure")
    _paged(listing)
    for name, what in (
        ("show", "one process: where it stands, and when it is looked at"),
        ("resume", "let a stuck process go on; one that runs is looked at now"),
        ("cancel", "end a process before its time; what it has done stays done"),
    ):
        verb = _verb(verbs, name, f"interfaces.cli.workflow:{name}", what)
        verb.add_argument("id", metavar="ID", help="rot_… or whf_…")
        _json(verb)


def _webhook(noun: Parser) -> None:
    verbs = _verbs(noun)
    types = ", ".join(each.value for each in EventType)
    create = _verb(verbs, "create", "interfaces.cli.webhooks:create", "create a webhook and print its secret, once")
    create.add_argument("--account", required=True, metavar="ID", help="acc_…")
    create.add_argument("--url", required=True, help="https://…")
    create.add_argument("--event", action="append", required=True, help=f"may be repeated: key.*, *, {types}")
    create.add_argument("--description", help="at most 500 characters")
    _json(create)
    listing = _verb(verbs, "list", "interfaces.cli.webhooks:list_all", "an account's webhooks, newest first")
    listing.add_argument("--account", required=True, metavar="ID", help="acc_…")
    _paged(listing)
    _json(_of_webhook(verbs, "show", "one webhook, without its secret"))
    change = _of_webhook(verbs, "change", "change what is given")
    change.add_argument("--url", help="https://…")
    change.add_argument("--event", action="append", help="may be repeated; in place of those before")
    change.add_argument("--description", help="at most 500 characters")
    change.add_argument("--status", choices=["enabled", "disabled"])
    _json(change)
    rotate = _of_webhook(verbs, "rotate-secret", "make a webhook's next secret and print it, once")
    rotate.add_argument("--grace-seconds", type=int, help="how long the old one signs, too; default: one day")
    _json(rotate)
    _paged(_of_webhook(verbs, "deliveries", "a webhook's deliveries with their attempts, newest first"))
    retry = _of_webhook(verbs, "retry", "make one more attempt at a delivery now")
    retry.add_argument("delivery", metavar="DELIVERY", help="msg_…")
    _json(retry)
    _json(_of_webhook(verbs, "test", "send a webhook.test; prints the delivery to look for"))
    _of_webhook(verbs, "delete", "delete a webhook")


def _of_webhook(verbs: Verbs, name: str, what: str) -> Parser:
    verb = _verb(verbs, name, f"interfaces.cli.webhooks:{name.replace('-', '_')}", what)
    verb.add_argument("id", metavar="ID", help="whe_…")
    return verb


def _mail(noun: Parser) -> None:
    verbs = _verbs(noun)
    listing = _verb(verbs, "list", "interfaces.cli.mail:list_all", "mails with their attempts, newest first")
    listing.add_argument("--account", metavar="ID", help="acc_…; default: of all accounts")
    listing.add_argument("--failed", action="store_true", help="those alone that failed for good")
    _paged(listing)
    retry = _verb(verbs, "retry", "interfaces.cli.mail:retry", "make one more attempt at a mail now")
    retry.add_argument("id", metavar="ID", help="msg_…")
    _json(retry)


def _usage(verb: Parser) -> None:
    verb.add_argument("id", metavar="KEY", help="key_…")
    _between(verb)
    widths = ("minute", "hour", "day")
    verb.add_argument("--interval", choices=widths, default="hour", help="how much time a line counts; default: hour")
    _json(verb)


def _logs(verb: Parser) -> None:
    whose = verb.add_mutually_exclusive_group(required=True)
    whose.add_argument("--account", metavar="ID", help="acc_…")
    whose.add_argument("--key", metavar="ID", help="key_…")
    verb.add_argument("--status", help="one, as 404, or a class, as 4xx")
    verb.add_argument("--path", help="an endpoint, or a prefix and *")
    _between(verb)
    verb.add_argument("--follow", action="store_true", help="show new rows as they come, until Ctrl-C")
    _paged(verb)


def _between(verb: Parser) -> None:
    verb.add_argument("--from", dest="since", metavar="TIME", help="RFC 3339 with an offset, as 2027-01-31T00:00:00Z")
    verb.add_argument("--to", dest="until", metavar="TIME", help="the same; not included")


def _jobs(noun: Parser) -> None:
    verbs = _verbs(noun)
    _json(_verb(verbs, "list", "interfaces.cli.jobs:list_all", "the jobs, and how often each runs by itself"))
    run = _verb(verbs, "run", "interfaces.cli.jobs:run", "run one job now, also beside the leader; prints what it did")
    run.add_argument("name", metavar="NAME", help="as `keyledger jobs list` has it")
    _json(run)


def _projections(noun: Parser) -> None:
    rebuild = _verb(_verbs(noun), "rebuild", "interfaces.cli.service:rebuild", "make every view anew from the ledger")
    _json(rebuild)


def _of_key(verbs: Verbs, name: str, what: str) -> Parser:
    verb = _verb(verbs, name.replace("_", "-"), f"interfaces.cli.keys:{name}", what)
    verb.add_argument("id", metavar="ID", help="key_…")
    return verb


def _verbs(noun: Parser) -> Verbs:
    return noun.add_subparsers(title="verbs", metavar="VERB", required=True)


def _verb(verbs: Verbs, name: str, run: str, what: str) -> Parser:
    verb = verbs.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
    verb.set_defaults(run=run)
    return verb


def _paged(verb: Parser) -> None:
    verb.add_argument("--limit", type=int, default=50, help="1 to 100, default 50")
    verb.add_argument(CURSOR, help="where the page before ended")
    _json(verb)


def _json(verb: Parser) -> None:
    verb.add_argument("--json", action="store_true", help="one JSON object on stdout, as the HTTP API answers it")
