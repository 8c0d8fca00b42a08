"""The versions of containerd that the tests run: Debian 12's, and those that tests/install-system-packages unpacks.

Those of later suites run on Debian 12's loader, C library and runc: only their own programs stand first on PATH.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from tests.support.program.processes import ROOT


class Suite(NamedTuple):
    """A suite of Debian: the directory of its containerd's programs, None for the installed one, and its version."""

    name: str
    programs: Path | None
    version: tuple[int, int]

    @property
    def cri_sends_a_payload(self) -> bool:
        """Whether its CRI plugin pulls by itself; from 2.1 on the transfer service does, and sends none."""
        return self.version < (2, 1)

    @property
    def import_modes(self) -> tuple[str, ...]:
        """The options of `ctr images import` that choose who unpacks: "" for the default, then the other way."""
        if self.version < (1, 7):
            return ("",)  # ctr, by the diff service; there is no other way
        return ("", "--local=false") if self.version < (2, 0) else ("", "--local")

    @property
    def pull_modes(self) -> tuple[str, ...]:
        """The same for `ctr images pull` over plain HTTP, which the transfer service of 1.7 cannot do."""
        return tuple(mode for mode in self.import_modes if mode != "--local=false")


SUITES = (
    Suite("bookworm", None, (1, 6)),
    Suite("trixie", ROOT / ".cache/containerd-trixie/usr/bin", (1, 7)),
    Suite("forky", ROOT / ".cache/containerd-forky/usr/bin", (2, 1)),
)
