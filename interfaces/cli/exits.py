"""The one table from kinds of errors to exit codes, and the line that tells a person why."""

import traceback
from collections.abc import Mapping
from enum import IntEnum
from pathlib import PurePath
from typing import Final

from domain.errors import (
    ConflictError,
    ForbiddenError,
    InvalidError,
    KeyledgerError,
    MalformedError,
    NotFoundError,
    RateLimitedError,
    UnauthenticatedError,
    UnavailableError,
)
from interfaces.settings import SettingError


class Exit(IntEnum):
    """How a command ends. 70 is sysexits.h's EX_SOFTWARE; from 128 on, as a shell counts an end by a signal."""

    OK = 0
    USAGE = 2
    REFUSED = 3
    NOT_FOUND = 4
    UNAVAILABLE = 5
    UNEXPECTED = 70
    INTERRUPTED = 130
    READER_GONE = 141
    TERMINATED = 143


EXIT_CODES: Final = """\
exit codes:
  0    done
  2    usage: the command line or a setting cannot be read
  3    refused: an invalid value, a conflict, or not allowed
  4    no such account, key or webhook
  5    unavailable: the database cannot be reached, started or migrated
  70   an error of Keyledger's own
  130  interrupted (Ctrl-C); 141 the reader of the output went away; 143 terminated
"""

KINDS: Final[Mapping[type[Exception], Exit]] = {
    SettingError: Exit.USAGE,
    MalformedError: Exit.REFUSED,
    InvalidError: Exit.REFUSED,
    UnauthenticatedError: Exit.REFUSED,
    ForbiddenError: Exit.REFUSED,
    ConflictError: Exit.REFUSED,
    RateLimitedError: Exit.REFUSED,
    NotFoundError: Exit.NOT_FOUND,
    UnavailableError: Exit.UNAVAILABLE,
}

_OPTIONS: Final = {"scopes": "--scope", "allowed_ips": "--allow-ip", "events": "--event"}


def explained(error: Exception) -> tuple[Exit, str]:
    """The exit code, and one line without secrets; what nobody foresaw is told by its kind and place alone."""
    code = next((KINDS[kind] for kind in type(error).__mro__ if kind in KINDS), Exit.UNEXPECTED)
    match error:
        case InvalidError():
            return code, "; ".join(f"{_option(each.field)}: {each.message}" for each in error.problems)
        case KeyledgerError():
            return code, error.message
        case SettingError():
            return code, str(error)
        case OSError(strerror=str(reason)):
            return code, f"{reason} ({_place(error)})"
        case _:
            return code, f"internal error: {type(error).__name__} ({_place(error)})"


def _option(field: str) -> str:
    """The option that a field of the HTTP contract was typed as: `allowed_ips[1]` is `--allow-ip`.

    What is typed without an option has its name in capitals, as the help has it.
    """
    name = field.partition("[")[0]
    if name.isupper():
        return name
    return _OPTIONS.get(name, f"--{name.replace('_', '-')}")


def _place(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"{PurePath(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "nowhere"
