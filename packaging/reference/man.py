"""Man pages: the prose is in packaging/man, the lists of options come from the parsers."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from reference import parsers

if TYPE_CHECKING:
    from collections.abc import Iterable

    from reference.parsers import Option

SOURCES = Path(__file__).parent.parent / "man"


def pages(epoch: int) -> dict[str, str]:
    """Return every page by its file name, such as `ctd-decoder.1`.

    Args:
        epoch: the date of the pages, in seconds since 1970.
    """
    date = datetime.fromtimestamp(epoch, UTC)
    return {
        path.name: _filled(path.read_text(), f"{date:%B} {date.day}, {date.year}") for path in sorted(SOURCES.iterdir())
    }


def _filled(text: str, date: str) -> str:
    return re.sub(r"^@OPTIONS ([a-z -]+)@$", lambda found: _options(found[1]), text, flags=re.MULTILINE).replace(
        "@DATE@", date
    )


def _options(words: str) -> str:
    """Return the list of options for a placeholder.

    Args:
        words: a command; `decoder`; `keyprovider` for what all providers have; or `providers`.
    """
    match words.split():
        case ["decoder"]:
            return _list(parsers.decoder_options())
        case ["keyprovider", verb]:
            return _list(parsers.common_provider_options(verb))
        case ["providers"]:
            return "\n".join(f".Ss {name}\n{_list(options)}" for name, options in parsers.provider_options())
        case command:
            return _list(parsers.options(parsers.command_parser(*command)))


def _list(options: Iterable[Option]) -> str:
    return "\n".join([".Bl -tag -width Ds", *(_item(option) for option in options), ".El"])


def _item(option: Option) -> str:
    value = f" Ar {_escaped(option.value)}" if option.value else ""
    names = " , ".join(f"{'Fl ' * _dashes(name)}{name.lstrip('-')}{value}" for name in option.names)
    return f".It {names or value.strip()}\n{_sentence(option.help)}"


def _dashes(name: str) -> int:
    return len(name) - len(name.lstrip("-"))


def _sentence(text: str) -> str:
    text = _escaped(text[:1].upper() + text[1:] if _starts_with_a_word(text) else text).replace("--", r"\-\-")
    return f"{text if text.endswith('.') else text + '.'}"


def _starts_with_a_word(text: str) -> bool:
    """Whether a text starts with a plain word, which may be capitalized, and not with a name or an address."""
    return re.match(r"[a-z']+(\s|$)", text) is not None


def _escaped(text: str) -> str:
    text = text.replace("\\", r"\e")
    return rf"\&{text}" if text.startswith((".", "'")) else text
