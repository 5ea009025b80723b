"""The two ends of a command: data to stdout, talk to stderr; neither carries what a terminal would act upon."""

import errno
import os
import re
import sys
from io import TextIOWrapper

# A credential that was typed where it does not belong must not come back in a message.
_CREDENTIAL = re.compile(r"\b(sk_[a-z]+|inv|ses|whsec)_[0-9A-Za-z_+/=-]+")


def take_any_character() -> None:
    """Has both ends write what their encoding does not have as backslash escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def plain(text: str) -> str:
    """The text with line breaks, control, formatting and other invisible characters as backslash escapes."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape", "backslashreplace").decode("ascii")
        for each in text
    )


def without_credentials(text: str) -> str:
    """The text with whatever looks like a credential cut after its first word."""
    return _CREDENTIAL.sub(r"\1_…", text)


def write(data: str) -> None:
    """Data: whole lines to stdout, gone out when this returns. OSError when they cannot be written."""
    if sys.stdout is None:  # closed before the start, as by `>&-`
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    sys.stdout.write(data)
    sys.stdout.flush()


def flush() -> None:
    """Sends out what others have printed, argparse for one. OSError when it cannot be written."""
    if sys.stdout is not None:
        sys.stdout.flush()


def say(talk: str) -> None:
    """Talk: one line to stderr, where there is one."""
    if sys.stderr is not None:
        sys.stderr.write(f"keyledger: {plain(talk)}\n")
