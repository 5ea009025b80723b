"""The entry point of `keyledger`: parses, runs one command, and turns whatever it ends in into an exit code."""

import importlib
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import cast

from interfaces.cli.exits import Exit, explained
from interfaces.cli.grammar import parse
from interfaces.cli.terminal import flush, say, take_any_character, without_credentials
from interfaces.settings import Settings

Command = Callable[[Namespace, Settings], int]


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command of these words (None: of the process's own) and answers the exit code. Nothing is raised."""
    take_any_character()
    try:
        code = _run(sys.argv[1:] if words is None else words)
        flush()
    except BrokenPipeError:
        # Python flushes stdout once more at its end, and would complain there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.READER_GONE
    except KeyboardInterrupt:
        say("interrupted")
        return Exit.INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last line of defence: one line, no traceback, no secret
        code, reason = explained(error)
        say(without_credentials(reason))  # which may quote what was typed
    return code


def command(name: str) -> Command:
    """The function that `module:function` names."""
    module, _, function = name.partition(":")
    return cast("Command", getattr(importlib.import_module(module), function))


def _run(words: Sequence[str]) -> int:
    try:
        arguments = parse(words)
        settings = Settings.read()  # before the command's module: a bad setting is told at once
        return command(arguments.run)(arguments, settings)
    except SystemExit as end:  # argparse after `--help` or an error; a signal that ends a command in order
        return end.code if isinstance(end.code, int) else Exit.OK


if __name__ == "__main__":
    sys.exit(main())
