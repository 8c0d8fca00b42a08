"""The expiry of the certificates that this machine shows to keyproviders, for the agent's metrics."""

from __future__ import annotations

from decoder import limits
from decoder.errors import KeyFileError
from decoder.keys.file import read_key_file
from decoder.node.filestate import state_of


class Certificates:
    """Files with certificates that workers have used; one is read again once it has changed."""

    def __init__(self) -> None:
        self._ends: dict[str, tuple[tuple[int, ...], float]] = {}

    def add(self, path: str) -> None:
        """Remember a file, unless AGENT_CERTIFICATES are known already."""
        if len(self._ends) < limits.AGENT_CERTIFICATES:
            self._ends.setdefault(path, ((), 0.0))

    def ends(self) -> dict[str, float]:
        """Return when the first certificate of each file expires, in seconds since 1970; 0 if it cannot be read."""
        for path, (seen, _) in self._ends.items():
            if (now := state_of(path)) != seen:
                self._ends[path] = now, _end(path)
        return {path: end for path, (_, end) in self._ends.items()}


def _end(path: str) -> float:
    from decoder.formats.certificates import UNREADABLE
    from decoder.formats.expiry import earliest_end

    try:
        return earliest_end(read_key_file(path)).timestamp()
    except (KeyFileError, *UNREADABLE):
        return 0.0
