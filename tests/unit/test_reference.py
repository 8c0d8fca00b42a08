"""The man pages name every option that the program has, as its own --help lists them."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout, suppress
from functools import cache
from importlib import import_module

import pytest
from reference import man, markdown, parsers

from decoder.arguments import COMMANDS, parse_arguments
from decoder.image.transport import TRANSPORTS
from decoder.keywrap import SCHEMES

_PROVIDERS = [("keyprovider", verb, "--provider", name) for verb in parsers.VERBS for name in parsers.providers()]


@cache
def pages() -> dict[str, str]:
    return man.pages(0)


def options_in_help(*words: str) -> set[str]:
    """Read the long options that a command's --help describes, at the start of a line."""
    lines = [line for line in help_of(*words).splitlines() if re.match(r"  (-\w, )?--", line)]
    assert lines
    return {option for line in lines for option in re.findall(r"--[a-z][\w-]*", re.split(r"(?<=\S) {2,}", line)[0])}


def help_of(*words: str) -> str:
    """Return what the program prints for some words and --help."""
    if not words:
        return parse_arguments(["--help"]).show
    printed = io.StringIO()
    with redirect_stdout(printed), suppress(SystemExit):
        import_module(COMMANDS[words[0]]).main([*words[1:], "--help"])
    return printed.getvalue()


def options_in_page(name: str) -> set[str]:
    """Read the options that have an entry in a page."""
    return {
        f"--{option}"
        for entry in re.findall(r"^\.It Fl.*$", pages()[name], re.MULTILINE)
        for option in re.findall(r"Fl Fl (\S+)", entry)
    }


@pytest.mark.parametrize(
    ("page", "commands"),
    [
        ("ctd-decoder.1", [(), ("config", "containerd"), ("doctor",), ("coco", "initdata")]),
        ("ctd-decoder-image.1", [("image", verb) for verb in parsers.verbs("image")]),
        ("ctd-decoder-keyprovider.1", [*_PROVIDERS, ("keyprovider", *parsers.REGISTER)]),
        ("ctd-decoder-agent.1", [("agent",)]),
        ("ctd-decoder-grants.1", [("grants", verb) for verb in parsers.verbs("grants")]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_page_has_an_entry_for_every_option_and_no_other(page: str, commands: list[tuple[str, ...]]) -> None:
    assert options_in_page(page) == {option for words in commands for option in options_in_help(*words)}


@pytest.mark.parametrize("command", ["image", "keyprovider", "agent", "grants"])
def test_help_names_every_verb(command: str) -> None:
    (line,) = (line for line in help_of().splitlines() if f"ctd-decoder {command} " in line)
    verbs = {"agent": ["status", "stop"], "keyprovider": [*parsers.VERBS, parsers.REGISTER[0]]}
    assert line.split()[2].split("|") == list(verbs.get(command) or parsers.verbs(command))


def test_every_command_has_a_page() -> None:
    modules = {COMMANDS[command] for command in parsers.COMMANDS}
    assert modules == set(COMMANDS.values())  # a second name for a command needs no second entry
    words = {command for command in parsers.COMMANDS if f"ctd-decoder-{command}.1" in pages()}
    assert words == {"image", "keyprovider", "agent", "grants"}
    for command in parsers.COMMANDS:
        assert f".It Cm {command}" in pages()["ctd-decoder.1"]


def options_of_verbs(page: str) -> dict[str, set[str]]:
    """Read the options of each verb: those in its own section, and those that the page lists for several."""
    sections = re.findall(r"^\.Ss Options of (.+)\n((?:(?!\.S[sh]).*\n)*)", pages()[page], re.MULTILINE)
    listed = {title: set(re.findall(r"^\.It .*?Fl Fl (\S+)", text, re.MULTILINE)) for title, text in sections}
    assert listed
    return listed


@pytest.mark.parametrize("command", ["image", "grants"])
def test_every_verb_is_introduced_and_has_its_options(command: str) -> None:
    page = f"ctd-decoder-{command}.1"
    listed = options_of_verbs(page)
    for verb in parsers.verbs(command):
        assert re.search(rf"^\.(It )?Cm {verb}$", pages()[page], re.MULTILINE), verb
        synopsis = pages()[page].partition(".Sh DESCRIPTION")[0]
        assert re.search(rf"\b{verb}\b", synopsis), verb
        wanted = {option.removeprefix("--") for option in options_in_help(command, verb)}
        shared = [names for title, names in listed.items() if verb in re.split(r", | and ", title)]
        assert set[str]().union(*shared) == wanted, verb


def test_image_page_has_every_transport_and_scheme() -> None:
    page = pages()["ctd-decoder-image.1"]
    for name in [*TRANSPORTS, *SCHEMES]:
        assert re.search(rf"^\.It Li {name}:", page, re.MULTILINE), name


def test_pages_are_complete() -> None:
    for text in pages().values():
        assert not re.search(r"^@|@(DATE|OPTIONS)", text, re.MULTILINE)
        assert ".Sh EXAMPLES" in text


def test_page_of_the_site_lists_the_same_options() -> None:
    listed = set(re.findall(r"`(--[a-z][\w-]*)", markdown.options_page()))
    assert listed == {option for name in pages() if name.startswith("ctd-decoder") for option in options_in_page(name)}
