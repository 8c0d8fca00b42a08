"""Return the parsers of all commands, as the program itself builds them."""

from __future__ import annotations

import io
import re
from argparse import SUPPRESS, ArgumentParser, HelpFormatter, Namespace
from contextlib import redirect_stdout, suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest import mock

if TYPE_CHECKING:
    from argparse import Action
    from collections.abc import Iterable, Iterator

PROGRAM = "ctd-decoder"
COMMANDS = {
    "image": "encrypt, decrypt and inspect images",
    "keyprovider": "wrap and unwrap layer keys for other programs",
    "config": "print configuration for containerd",
    "doctor": "check whether this machine can decrypt images",
    "agent": "keep processes ready that decrypt layers",
    "grants": "decide which nodes get the keys of images",
    "coco": "help with Confidential Containers",
}
REGISTER = ("attestation-agent", "register")  # the verb of `keyprovider` that belongs to one provider
VERBS = ("run", "serve")


class Option(NamedTuple):
    """An option or an argument.

    Attributes:
        names: its spellings, empty for an argument.
        value: the name of its value, "" if it takes none.
        help: one sentence or less.
    """

    names: tuple[str, ...]
    value: str
    help: str


class ProviderOptions(NamedTuple):
    """The options of one keyprovider."""

    provider: str
    options: list[Option]


def command_parser(*words: str) -> ArgumentParser:
    """Return the parser of a command, such as `image`, `image encrypt` or `agent`.

    Raises:
        KeyError: there is no such command.
    """
    if words[0] == "keyprovider":  # argparse sees only what follows its verb
        return _recorded(*words, "--help")
    parser = _recorded(words[0], "--help")
    for word in words[1:]:
        parser = _subparsers(parser)[word]
    return parser


def verbs(command: str) -> tuple[str, ...]:
    """List the verbs of a command as its --help does, such as `encrypt` for `image`; () if it has none."""
    if command == "keyprovider":
        return (*VERBS, " ".join(REGISTER))
    return tuple(_subparsers(command_parser(command)))


def shared_options(command: str, names: Iterable[str]) -> list[Option]:
    """List the arguments and options that several verbs of a command have in common, in the order of the first verb."""
    first, *others = (options(command_parser(command, name)) for name in names)
    return [option for option in first if all(option in other for other in others)]


def provider_parser(verb: str, provider: str) -> ArgumentParser:
    """Return the parser of `keyprovider run` or `keyprovider serve` with one provider."""
    return _recorded("keyprovider", verb, "--provider", provider, "--help")


def providers() -> tuple[str, ...]:
    """List the names of the keyproviders."""
    names: tuple[str, ...] = import_module("decoder.provider").PROVIDERS
    return names


def options(parser: ArgumentParser) -> list[Option]:
    """List the arguments and options of a parser as its --help describes them."""
    return [_option(parser, action) for action in parser._actions if action.help != SUPPRESS and not _is_verb(action)]  # noqa: SLF001


def common_provider_options(verb: str) -> list[Option]:
    """List the options of `keyprovider run` or `serve` that do not depend on the provider."""
    first, *others = (options(provider_parser(verb, name)) for name in providers())
    own = [{option.names for option in group} for group in _own_options()]
    return [
        option
        for option in first
        if all(option in other for other in others) and not all(option.names in names for names in own)
    ]


def provider_options() -> list[ProviderOptions]:
    """List the options of every provider, those that all providers have first."""
    return [ProviderOptions(name, group) for name, group in zip(providers(), _own_options(), strict=True)]


def decoder_options() -> list[Option]:
    """List the options of the decoder itself, whose parser is not argparse, from its help text.

    Raises:
        ValueError: the help text cannot be read.
    """
    usage: str = import_module("decoder.arguments").USAGE
    found: dict[str, Option] = {}
    for name, value, text in _USAGE_ENTRY.findall(usage):
        words = " ".join(text.split())
        is_choice = value.islower()  # each choice has an entry: --release streaming, --release verified
        entry = Option((name,), value, f"{value}: {words}" if is_choice else words)
        if known := found.get(name):
            entry = Option((name,), f"{known.value}|{value}", f"{known.help}; {entry.help}")
        found[name] = entry
    if not found:
        raise ValueError("the help text of the decoder lists no option")
    return [*found.values(), Option(("--help",), "", "show the help"), Option(("--version",), "", "show the version")]


# An entry: two blanks, the option, its value, two blanks or a new line, and a text that may continue, further indented.
_USAGE_ENTRY = re.compile(
    r"^  (--[a-z-]+)(?: ([A-Za-z]+))?(?:  +|\n {6,})(\S.*(?:\n {6,}\S.*)*)$",
    re.MULTILINE,
)


def program_parser() -> ArgumentParser:
    """Return one parser of everything, for completions."""
    parser = ArgumentParser(prog=PROGRAM, add_help=False)
    for option in decoder_options():
        _add(parser, option)
    commands = parser.add_subparsers(metavar="COMMAND")
    for name, text in COMMANDS.items():
        commands.add_parser(name, help=text)
        commands.choices[name] = _keyprovider_parser(text) if name == "keyprovider" else command_parser(name)
        commands.choices[name].description = text
    return parser


def _keyprovider_parser(text: str) -> ArgumentParser:
    """Build a parser with the options of all providers, for the shell does not know which one is meant."""
    parser = ArgumentParser(prog=f"{PROGRAM} keyprovider", description=text)
    verbs = parser.add_subparsers(metavar="VERB")
    for verb in VERBS:
        added = verbs.add_parser(verb, help=f"keyprovider {verb}", add_help=False)
        seen: set[str] = set()
        for provider in providers():
            for option in options(provider_parser(verb, provider)):
                names = tuple(name for name in option.names if name not in seen)
                seen.update(names)
                if names:
                    _add(added, option._replace(names=names))
    own = verbs.add_parser(REGISTER[0], help="commands of this provider").add_subparsers(metavar="VERB")
    register = command_parser("keyprovider", *REGISTER)
    own.add_parser(REGISTER[1], help=register.description)
    own.choices[REGISTER[1]] = register
    return parser


def _add(parser: ArgumentParser, option: Option) -> None:
    text = option.help.replace("%", "%%")
    if not option.value:
        parser.add_argument(*option.names, action="store_true", help=text)
    elif "|" in option.value:
        parser.add_argument(*option.names, choices=option.value.split("|"), help=text)
    else:
        parser.add_argument(*option.names, metavar=option.value, help=text)


def _own_options() -> Iterator[list[Option]]:
    """List for each provider the options in the group that is named after it."""
    for name in providers():
        parser = provider_parser("run", name)
        groups = [group for group in parser._action_groups if group.title and name in group.title]  # noqa: SLF001
        yield [_option(parser, action) for group in groups for action in group._group_actions]  # noqa: SLF001


def _recorded(command: str, *arguments: str) -> ArgumentParser:
    """Run a command with --help and return the last parser that it used."""
    parse = ArgumentParser.parse_known_args
    seen: list[ArgumentParser] = []

    def record(parser: ArgumentParser, *values: Any, **named: Any) -> tuple[Namespace, list[str]]:
        seen.append(parser)
        return parse(parser, *values, **named)

    main = import_module(import_module("decoder.arguments").COMMANDS[command]).main
    with (
        mock.patch.object(ArgumentParser, "parse_known_args", record),
        redirect_stdout(io.StringIO()),
        suppress(SystemExit),
    ):
        main(list(arguments))
    return seen[-1]


def _subparsers(parser: ArgumentParser) -> dict[str, ArgumentParser]:
    for action in parser._actions:  # noqa: SLF001
        if _is_verb(action):
            return dict(action.choices)  # type: ignore[arg-type]
    return {}


def _is_verb(action: Action) -> bool:
    return isinstance(action.choices, dict)


def _option(parser: ArgumentParser, action: Action) -> Option:
    value = ""
    if action.nargs != 0:
        named = "|".join(map(str, action.choices or ())) or action.dest.upper()
        value = str(action.metavar or named)
    text = HelpFormatter(prog=parser.prog)._expand_help(action) if action.help else ""  # noqa: SLF001
    return Option(tuple(action.option_strings), value, " ".join(text.split()))
