"""The page of options on the documentation site."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reference import parsers

if TYPE_CHECKING:
    from collections.abc import Iterable

    from reference.parsers import Option


def options_page() -> str:
    """Return the page, Markdown."""
    parts = [
        "# Options\n\nThis page is made from the parsers of the program.",
        "## ctd-decoder\n\nThe decoder, as containerd starts it.\n\n" + _table(parsers.decoder_options()),
    ]
    for command, text in parsers.COMMANDS.items():
        if command == "keyprovider":
            parts += _keyprovider()
            continue
        for name in [f"{command} {verb}" for verb in parsers.verbs(command)] or [command]:
            parser = parsers.command_parser(*name.split())
            description = (parser.description or text).strip()
            parts.append(f"## ctd-decoder {name}\n\n{description}\n\n{_table(parsers.options(parser))}")
    return "\n\n".join(parts) + "\n"


def _keyprovider() -> list[str]:
    register = ("keyprovider", *parsers.REGISTER)
    sections = {f"## ctd-decoder keyprovider {verb}": parsers.common_provider_options(verb) for verb in parsers.VERBS}
    sections[f"## ctd-decoder {' '.join(register)}"] = parsers.options(parsers.command_parser(*register))
    sections |= {f"### Provider {name}": options for name, options in parsers.provider_options()}
    return [f"{title}\n\n{_table(options)}" for title, options in sections.items()]


def _table(options: Iterable[Option]) -> str:
    rows = (f"| {_spelling(option)} | {_cell(option.help)} |" for option in options)
    return "\n".join(["| option | meaning |", "| --- | --- |", *rows])


def _spelling(option: Option) -> str:
    value = f" {option.value}" if option.value else ""
    return ", ".join(f"`{_cell(name + value)}`" for name in option.names) or f"`{_cell(option.value)}`"


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("<", "&lt;")
