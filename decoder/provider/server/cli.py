"""`ctd-decoder keyprovider run|serve`: one of our providers as a command or as a gRPC server, for any client."""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import TYPE_CHECKING

from decoder import limits
from decoder.commandline import Parser, nearest, show, with_two_dashes
from decoder.errors import DecoderError, StreamError, UsageError, quoted
from decoder.node.reading import read_to_end
from decoder.provider import PROVIDERS, create, options_of
from decoder.provider.errors import ProviderError
from decoder.provider.server import serving
from decoder.provider.server.service import RequestError, Service

if TYPE_CHECKING:
    from decoder.provider import Option

_PROGRAM = "ctd-decoder keyprovider"
_OVERVIEW = f"""\
usage: {_PROGRAM} run --provider NAME [options of the provider]
       {_PROGRAM} serve --provider NAME [options of the provider] --listen ADDRESS [--tls-cert FILE ...]
       {_PROGRAM} attestation-agent register --keyid KID --keypath FILE [--kbs URL ...] [--repository DIR]

Wrap and unwrap the keys of encrypted image layers, for every client of ocicrypt's keyprovider protocol.

  run    answer one request on standard input; for "cmd" in a client's configuration
  serve  answer requests until SIGTERM; for "grpc" in a client's configuration
  attestation-agent register  store a key at a key broker of Confidential Containers

Providers: {", ".join(PROVIDERS)}. With --provider NAME, --help lists the options of that provider.
Options may be written with one dash or two, and with a space or an equals sign.

exit status: 0 answered, or stopped by a signal; 2 usage; 6 the provider failed; 7 input or output failed, or the
server cannot listen
"""
_VERBS = ("run", "serve", "attestation-agent")


class ServiceFailedError(DecoderError):
    """The provider failed, or the request is malformed."""

    status = 6


def main(arguments: list[str]) -> int:
    """Run `ctd-decoder keyprovider`.

    Args:
        arguments: the words after `keyprovider`.

    Returns:
        The exit status, 0.

    Raises:
        UsageError: the command line cannot be understood.
        ServiceFailedError: the provider failed.
        StreamError: standard input or output failed.
        ListenError: the server cannot listen at its address, or a TLS file or the client policy cannot be used.
    """
    verb, rest = (arguments[0], with_two_dashes(arguments[1:])) if arguments else ("--help", [])
    if verb in ("-h", "-help", "--help"):
        show(_OVERVIEW)
        return 0
    if verb == "attestation-agent":
        from decoder.provider.services.coco.cli import register

        return register(arguments[1:])
    if verb not in ("run", "serve"):
        known = f"{nearest(verb, _VERBS)}; expected {', '.join(_VERBS)}"
        raise UsageError(f"unknown word {quoted(verb)}{known}; see {_PROGRAM} --help")
    name = _provider_name(verb, rest)
    if not name:
        if "--help" in rest or "-h" in rest:
            show(_OVERVIEW)
            return 0
        raise UsageError(f"--provider is missing; it is one of {', '.join(PROVIDERS)}")
    provider_options = options_of(name)
    parser = _parser(verb, name, provider_options)
    parsed = _parse(parser, rest)
    if parsed.help:
        show(parser.format_help())
        return 0
    options = {
        option.name: getattr(parsed, _destination(option))
        for option in provider_options
        if getattr(parsed, _destination(option)) is not None
    }
    try:
        if verb == "run":
            return _run(name, options, parsed)
        defaults = {option.name: option.serving for option in provider_options if option.serving is not None}
        return serving.serve(name, {**defaults, **options}, parsed)
    except ProviderError as error:
        raise ServiceFailedError(f"keyprovider {name}: {error}") from error


def _run(name: str, options: dict[str, object], parsed: Namespace) -> int:
    service = Service(create(name, options), parsed.provider_name)
    try:
        # A provider that waits for people gets extra time for that; `create` has checked the number.
        reply = service.answer(_read_request(), limits.CLOUD_KMS_SECONDS + float(str(options.get("wait") or 0)))
    except RequestError as error:
        raise ServiceFailedError(str(error)) from error
    try:
        sys.stdout.buffer.write(reply)
        sys.stdout.buffer.flush()
    except OSError as error:
        raise StreamError("standard output", error) from error
    return 0


def _provider_name(verb: str, arguments: list[str]) -> str:
    first = Parser(prog=f"{_PROGRAM} {verb}", add_help=False)
    first.accepts_unknown = True
    first.add_argument("--provider", default="")
    return str(first.parse_known_args(arguments)[0].provider)


def _parser(verb: str, name: str, provider_options: tuple[Option, ...]) -> Parser:
    parser = Parser(prog=f"{_PROGRAM} {verb}", add_help=False)
    parser.add_argument("--provider", required=True, metavar="NAME", help="the provider; --help lists its options")
    parser.add_argument("--help", "-h", action="store_true", help="show this and exit")
    parser.add_argument(
        "--provider-name",
        action="append",
        default=[],
        metavar="NAME",
        help="the name of this provider in clients' configurations; needed if they encrypt for several at once",
    )
    taken = {"provider", "help", "provider-name"}
    if verb == "serve":
        taken |= serving.add_options(parser)
    group = parser.add_argument_group(f"options of {name}")
    for option in provider_options:
        spellings = [spelling for spelling in (option.name, *option.also) if spelling not in taken]
        flags = [f"--{spelling}" for spelling in spellings]
        text = option.help.replace("%", "%%")
        if flags and option.flag:
            group.add_argument(*flags, dest=_destination(option), action="store_true", help=text)
        elif flags:
            action = "append" if option.many else "store"
            group.add_argument(*flags, dest=_destination(option), action=action, metavar="VALUE", help=text)
    parser.set_defaults(**{_destination(option): None for option in provider_options})
    return parser


def _destination(option: Option) -> str:
    return f"option {option.name}"


def _parse(parser: Parser, arguments: list[str]) -> Namespace:
    parsed, unknown = parser.parse_known_args(arguments)
    if unknown:
        raise UsageError(f"unexpected argument {quoted(unknown[0].partition('=')[0])}; see {parser.prog} --help")
    return parsed


def _read_request() -> bytes:
    """Read standard input to its end, within PROVIDER_MESSAGE_BYTES and PROVIDER_REQUEST_SECONDS."""
    try:
        return read_to_end(0, limits.PROVIDER_MESSAGE_BYTES, limits.PROVIDER_REQUEST_SECONDS)
    except TimeoutError as error:
        raise ServiceFailedError(f"no request came within {limits.PROVIDER_REQUEST_SECONDS:.0f} seconds") from error
    except OSError as error:
        raise StreamError("standard input", error) from error
