"""Where parsed keys stay from one layer to the next: in the agent, which says so here, and else nowhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol, TypeVar

    Parsed = TypeVar("Parsed")

    class Keeper(Protocol):
        """Whoever has parsed keys of earlier layers."""

        def parsed(self, file: str, sources: list[bytes], parse: Callable[[], Parsed]) -> Parsed:
            """Do as the function of this name says, for a key of a file."""


keeper: Keeper | None = None


def parsed(file: str, sources: list[bytes], parse: Callable[[], Parsed]) -> Parsed:
    """Return a parsed key: a kept one, or what `parse` returns.

    Args:
        file: where it was read from, or "" if the payload brought it: that is not for other layers.
        sources: everything that the result depends on, its password too.
        parse: parses it; what it raises is raised.
    """
    return keeper.parsed(file, sources, parse) if keeper and file else parse()
