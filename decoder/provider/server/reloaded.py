"""Files that a server reads again when they change. If the new content cannot be used, the earlier one stays in use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from decoder.errors import DecoderError
from decoder.node.filestate import state_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from decoder.provider.server.numbers.tally import Row

_Value = TypeVar("_Value")


class Reloaded(Generic[_Value]):
    """A value that is read from files.

    Args:
        what: the name of the files in messages and in the metric `reload_failed`.
        load: reads the files; it returns the value, and the paths of the files that it depends on.
        say: prints lines for the operator.
        row: the metric `reload_failed`.

    Attributes:
        value: the value that was read last.
        generation: a number that changes with the value.

    Raises:
        DecoderError: the files cannot be used at the start.
    """

    def __init__(
        self, what: str, load: Callable[[], tuple[_Value, Sequence[str]]], say: Callable[[str], None], row: Row
    ) -> None:
        self._what = what
        self._load = load
        self._say = say
        self._row = row
        self.value, self._files = load()
        self._seen = _states(self._files)
        self.generation = 0

    def look(self) -> bool:
        """Read the files again if they have changed; return whether the value is new."""
        now = _states(self._files)
        if now == self._seen:
            return False
        try:
            value, files = self._load()
        except (DecoderError, OSError, ValueError) as error:
            self._seen = now
            self._row.set("reload_failed", self._what, value=1)
            self._say(
                f"warning: the files of {self._what} have changed and cannot be used; the earlier ones stay: {error}"
            )
            return False
        # Files that have changed meanwhile are read again the next time.
        self._seen = now if list(files) == list(self._files) else _states(files)
        self.value, self._files = value, files
        self.generation += 1
        self._row.set("reload_failed", self._what, value=0)
        self._say(f"the files of {self._what} have changed and were read again")
        return True


def _states(files: Sequence[str]) -> list[tuple[int, ...]]:
    return [state_of(path) for path in files]
