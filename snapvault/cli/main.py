# SPDX-License-Identifier: Apache-2.0
"""The command `snapvault`: from words to a command, and from what became of it to a status."""

import io
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer

_WITH_VALUE = ("--config", "--log-format")
_WITHOUT = ("--json", "--quiet", "-q", "--verbose", "-v")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status; docs/errors.md lists them."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Ctrl-C while the rest is imported is no bug, and leaves nothing behind.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from snapvault.wiring import start

    start.lightly()
    from snapvault.cli import boundary

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name that this terminal cannot show is no reason to fail.
            stream.reconfigure(errors="backslashreplace")
    words = list(sys.argv[1:] if arguments is None else arguments)
    return boundary.run(lambda: _dispatch(words))


def _dispatch(words: Sequence[str]) -> int:
    import typer

    ordered = _global_first(words)
    program = _program(_without_shared(ordered)[:1])
    try:
        result = program(ordered, prog_name="snapvault", standalone_mode=False)
    except typer.TyperException as error:
        return _refuse(error, ordered)
    return result if isinstance(result, int) else 0


def _program(command: Sequence[str]) -> "typer.Typer":
    """Return the program, with as few of its commands as will do."""
    from snapvault.cli import root

    if command and command[0] in root.ALONE:
        return root.program_with(command[0])
    from snapvault.cli.app import app

    return app


def _refuse(error: Exception, words: Sequence[str]) -> int:
    """Say what is wrong with the command line."""
    import re

    from snapvault.errors import EXIT_USAGE

    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        print(str(error), file=sys.stderr)
        return EXIT_USAGE
    message = str(getattr(error, "format_message", error.__str__)()).strip().removesuffix(".")
    message = message.replace("Value error, ", "")
    message = re.sub(r"'([^']*)'", r'"\1"', message)
    message, guesses = _without_guesses(message)
    message = re.sub(r"value for (--[\w/-]+):", r'value for "\1":', message)
    message = re.sub(r"No such option: (\S+)", r'no such option "\1"', message)
    message = re.sub(r".*unexpected extra argument\(?s?\)? \((.*)\)", r"too much: \1", message)
    message = re.sub(r"Input should be a valid (number|integer).*", "expected a number", message)
    message = re.sub(r"Input should be greater than or equal to", "must be at least", message)
    message = re.sub(r"Input should be less than or equal to", "must be at most", message)
    command = context.command_path if context is not None else _command_of(words)
    hint = (
        f"Did you mean {guesses}?" if guesses else f'Run "{command} --help" to see how it is used.'
    )
    print(f"snapvault: {message[:1].lower()}{message[1:]}", file=sys.stderr)
    print(f"hint: {hint}", file=sys.stderr)
    return EXIT_USAGE


def _command_of(words: Sequence[str]) -> str:
    """Return the command that was typed, for where the parser does not say which it was.

    The options that all commands share stand first in `words`.
    """
    import typer.core
    import typer.main

    from snapvault.cli.app import app

    left = _without_shared(words)
    path = ["snapvault"]
    command: object = typer.main.get_group(app)
    for word in left:
        if not isinstance(command, typer.core.TyperGroup) or word not in command.commands:
            break
        command = command.commands[word]
        path.append(word)
    return " ".join(path)


def _without_shared(words: Sequence[str]) -> list[str]:
    """Return what follows the options that stand first."""
    left = list(words)
    while left and left[0].startswith("-"):
        if left.pop(0) in _WITH_VALUE:
            del left[:1]
    return left


def _without_guesses(message: str) -> tuple[str, str]:
    """Split the parser's guesses at what was meant off its message; "" if it has none."""
    import re

    found = re.search(r"[.]? ?\(?(?:Did you mean|Possible options:):? ([^)?]+)[)?]*$", message)
    if found is None:
        return message, ""
    guesses = [each.strip(' "') for each in found[1].split(",")]
    return message[: found.start()], " or ".join(f'"{each}"' for each in guesses)


def _global_first(words: Sequence[str]) -> list[str]:
    """Move the options that all commands share before the command, where the parser wants them."""
    first: list[str] = []
    rest: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        if word == "--":
            rest += [word, *left]
            break
        if word in _WITHOUT or word.startswith(tuple(f"{name}=" for name in _WITH_VALUE)):
            first.append(word)
        elif word in _WITH_VALUE and left:
            first += [word, left.pop(0)]
        elif word in _WITH_VALUE:
            # Alone, so that the parser says what is missing and takes no other word for it.
            return [word]
        else:
            rest.append(word)
    return first + rest
