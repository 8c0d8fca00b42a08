"""What the commands share: an argument parser, and printing. The decoder itself works without argparse."""

from __future__ import annotations

import errno
import os
import sys
from argparse import ArgumentError, ArgumentParser, RawDescriptionHelpFormatter
from contextlib import suppress
from difflib import get_close_matches
from typing import TYPE_CHECKING, NoReturn

from decoder.errors import StreamError, UsageError, quoted

if TYPE_CHECKING:
    from argparse import Action, Namespace
    from collections.abc import Iterable, Sequence
    from typing import Any


class Parser(ArgumentParser):
    """An argument parser that raises UsageError, and suggests the nearest spelling of a mistyped word.

    Options cannot be abbreviated, and the lines of descriptions and epilogs are printed as they are.

    Args:
        settings: the settings of ArgumentParser.

    Attributes:
        accepts_unknown: let `parse_known_args` return unknown options, instead of rejecting them.
    """

    accepts_unknown = False

    def __init__(self, **settings: Any) -> None:
        super().__init__(formatter_class=RawDescriptionHelpFormatter, allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        """Reject the command line.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"{message}; see {self.prog} --help")

    def parse(self, arguments: Sequence[str]) -> Namespace | None:
        """Parse a command line.

        Args:
            arguments: the words after the command's name.

        Returns:
            The options, or None if the help was printed instead.

        Raises:
            UsageError: the command line cannot be understood.
        """
        try:
            return self.parse_args(arguments)
        except SystemExit:  # --help
            return None

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Namespace | None = None
    ) -> tuple[Namespace, list[str]]:
        """Parse a command line; a mistyped option is reported before what is missing because of it."""
        if args is not None and not self.accepts_unknown:
            self._reject_unknown_options(args)
        return super().parse_known_args(args, namespace)

    def print_help(self, file: object = None) -> None:
        """Print the help on standard output, whose errors count as those of everything else that is printed.

        Raises:
            StreamError: standard output is closed or full, or nobody reads it any more.
        """
        show(self.format_help())

    def _reject_unknown_options(self, arguments: Sequence[str]) -> None:
        for word in arguments:
            if word == "--" or (self._subparsers and not word.startswith("-")):
                break  # the arguments after it belong to another parser
            name = word.partition("=")[0]
            if name.startswith("--") and name not in self._option_string_actions:
                self.error(f"unknown option {quoted(name)}{nearest(name, self._option_string_actions)}")

    def _check_value(self, action: Action, value: object) -> None:
        choices = [str(choice) for choice in action.choices or ()]
        if choices and str(value) not in choices:
            expected = f"expected {', '.join(choices)}"
            message = f"unknown word {quoted(value)}{nearest(str(value), choices)}; {expected}"
            raise ArgumentError(None if action.dest == action.metavar else action, message)


def nearest(word: str, known: Iterable[str]) -> str:
    """Suggest the known word that a mistyped one may mean.

    Returns:
        Text to append to an error message, or "" if none is similar.
    """
    found = get_close_matches(word, known, n=1, cutoff=0.6)
    return f" (did you mean {found[0]}?)" if found else ""


def with_two_dashes(arguments: Sequence[str]) -> list[str]:
    """Rewrite long options in Go's form (`-adc=FILE`) to the form that argparse reads (`--adc=FILE`)."""
    return [f"-{text}" if len(text) > 2 and text[0] == "-" and text[1] != "-" else text for text in arguments]


def split_credentials(text: str) -> tuple[str, str]:
    """Split the value of --creds into user and password; "" becomes two empty texts.

    Raises:
        UsageError: it is not of the form USER:PASSWORD.
    """
    user, colon, password = text.partition(":")
    if text and not (user and colon):
        raise UsageError("--creds is not of the form USER:PASSWORD")
    return user, password


def show(text: str) -> None:
    """Write text to standard output at once.

    Raises:
        StreamError: standard output is closed or full, or nobody reads it any more.
    """
    if sys.stdout is None:  # it was closed before the program started
        raise StreamError("standard output", OSError(errno.EBADF, os.strerror(errno.EBADF)))
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        raise StreamError("standard output", error) from error


def say(text: str) -> None:
    """Write a line of a server to standard error at once. If nobody reads it, the server goes on."""
    with suppress(OSError):
        os.write(2, f"{text}\n".encode(errors="replace"))
