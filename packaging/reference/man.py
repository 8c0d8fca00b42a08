"""Man pages: the prose is in packaging/man, the lists of options come from the parsers."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from reference import parsers

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

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
    """Fill in the date and the lists of options.

    `@OPTIONS COMMAND@` lists what a command has; `@SHARED COMMAND VERB VERB…@` what several verbs have in common, which
    the other lists then leave out.
    """
    shared: dict[str, list[Option]] = {}

    def share(found: re.Match[str]) -> str:
        command, *verbs = found[1].split()
        known = shared.get(f"{command} {verbs[0]}", [])
        new = [option for option in parsers.shared_options(command, verbs) if option not in known]
        for verb in verbs:
            shared.setdefault(f"{command} {verb}", []).extend(new)
        return _list(new)

    for line in sorted(re.findall(r"^@SHARED .*@$", text, re.MULTILINE), key=len, reverse=True):
        text = text.replace(line, re.sub(r"^@SHARED (.*)@$", share, line))
    text = re.sub(
        r"^@OPTIONS (.*)@$", lambda found: _options(found[1], shared.get(found[1], ())), text, flags=re.MULTILINE
    )
    return text.replace("@DATE@", date)


def _options(words: str, shared: Sequence[Option]) -> str:
    """Return the list of options for a placeholder.

    Args:
        words: a command; `decoder`; `keyprovider` for what all providers have; or `providers`.
        shared: options that the page lists elsewhere.
    """
    match words.split():
        case ["decoder"]:
            return _list(parsers.decoder_options())
        case ["keyprovider", verb]:
            return _list(parsers.common_provider_options(verb))
        case ["providers"]:
            return "\n".join(f".Ss {name}\n{_list(options)}" for name, options in parsers.provider_options())
        case command:
            found = parsers.options(parsers.command_parser(*command))
            return _list(option for option in found if option not in shared)


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
