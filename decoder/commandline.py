"""What the commands' parsers have in common; the decoder itself reads its command line without argparse."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import NoReturn

from decoder.errors import UsageError


class Parser(ArgumentParser):
    """Says what is wrong by an exception."""

    def error(self, message: str) -> NoReturn:
        """Refuse a command line.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"{message}; see {self.prog} --help")
