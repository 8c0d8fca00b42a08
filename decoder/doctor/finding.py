"""A finding: one line about the node, and what to do about it."""

from __future__ import annotations

from typing import Literal, NamedTuple

Level = Literal["ok", "note", "warning", "error"]


class Finding(NamedTuple):
    """One finding.

    Attributes:
        level: `error`: something will fail, or keys are not safe; `warning`: something may fail; `note`: worth knowing;
            `ok`.
        subject: the subject of the check, in a few words.
        text: the result.
        remedy: advice about what to do, or "".
        check: the name of the check's module.
    """

    level: Level
    subject: str
    text: str
    remedy: str = ""
    check: str = ""

    def __str__(self) -> str:
        return f"{self.level:7}  {self.subject}: {self.text}" + (f" -> {self.remedy}" if self.remedy else "")
