"""What the doctor finds: one line each, and what to do about it."""

from __future__ import annotations

from typing import Literal, NamedTuple

Level = Literal["ok", "warning", "error"]


class Finding(NamedTuple):
    """One finding.

    Attributes:
        level: an error keeps layers from being decrypted or keys from being safe; a warning may.
        subject: what was looked at, in a word or two.
        text: what was found.
        remedy: what to do, or "".
    """

    level: Level
    subject: str
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.level:7}  {self.subject}: {self.text}" + (f" -> {self.remedy}" if self.remedy else "")
