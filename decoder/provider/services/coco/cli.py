"""`ctd-decoder coco initdata` and `keyprovider attestation-agent register`: prepare guests and key brokers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decoder import limits
from decoder.commandline import Parser, show
from decoder.errors import DecoderError, UsageError
from decoder.keywrap.kid import parse_kid
from decoder.provider.errors import ProviderError
from decoder.provider.services.coco import initdata, repository
from decoder.provider.services.coco.kbs import register as broker
from decoder.provider.services.coco.kbs import source as kbs
from decoder.provider.services.coco.keypath import read_key

if TYPE_CHECKING:
    from argparse import Namespace

_INITDATA = f"""\
Print what a guest of Confidential Containers needs to find its key broker: the value of a pod's annotation
{initdata.ANNOTATION}.

example: ctd-decoder coco initdata --kbs https://kbs.example:8080 --ca kbs-ca.pem
"""
_REGISTER = """\
Store the key of an image where a key broker finds it: over HTTPS at a running broker (--kbs), or in the directory of
its local store (--repository). Current brokers (trustee 0.19 and later) read flat files, older ones nested directories.

example: ctd-decoder keyprovider attestation-agent register --keyid kbs:///default/image_key/nginx \\
             --keypath image_key --kbs https://kbs.example:8080 --kbs-auth-key kbs-admin.pem
"""


class RegistrationError(DecoderError):
    """A key cannot be read, or could not be stored at a broker or in its local store."""

    status = 6


def main(arguments: list[str]) -> int:
    """Run `ctd-decoder coco`.

    Args:
        arguments: the arguments after `coco`.

    Returns:
        The exit status, 0.

    Raises:
        UsageError: the command line cannot be understood, or the URL or the certificates are malformed.
        StreamError: standard output failed.
    """
    parsed = build_parser().parse(arguments)
    if parsed is not None:
        text = initdata.build_initdata(parsed.kbs, parsed.ca, parsed.algorithm)
        show(text if parsed.format == "toml" else initdata.build_annotation(text, parsed.format == "gzip") + "\n")
    return 0


def register(arguments: list[str]) -> int:
    """Run `ctd-decoder keyprovider attestation-agent`.

    Args:
        arguments: the arguments after `attestation-agent`.

    Returns:
        The exit status, 0: the key is stored in every requested place.

    Raises:
        UsageError: the command line cannot be understood.
        RegistrationError: the key cannot be read, or could not be stored in one of the places.
        StreamError: standard output failed.
    """
    parsed = build_register_parser().parse(arguments)
    if parsed is not None:
        try:
            show("".join(f"{line}\n" for line in _register(parsed)))
        except ProviderError as error:
            raise RegistrationError(str(error)) from error
    return 0


def _register(parsed: Namespace) -> list[str]:
    """Store the key, and return a line for each place where it is stored."""
    given = {option.name: getattr(parsed, option.name.replace("-", "_")) for option in broker.OPTIONS}
    options = {name: "\n".join(value) if isinstance(value, list) else value for name, value in given.items() if value}
    if parsed.kbs_ca:
        options["kbs-ca"] = parsed.kbs_ca
    if not options and not parsed.repository:
        raise UsageError("say where to store the key: give --kbs URL or --repository DIR")
    resource = parse_kid(parsed.keyid)
    registrar = broker.Registrar(options) if options else None
    key = read_key(parsed.keypath, None, parsed.create)
    lines = []
    if parsed.repository:
        for layout in ("flat", "nested") if parsed.layout == "both" else (parsed.layout,):
            path = repository.write_key(parsed.repository, resource, key, is_flat=layout == "flat")
            lines.append(f"{resource} is in {path}")
    if registrar:
        registrar.register(resource, key)
        lines.append(f"{resource} is registered at {options['kbs']}")
    return lines


def build_parser() -> Parser:
    """Build the parser of `ctd-decoder coco`."""
    parser = Parser(prog="ctd-decoder coco", description="Prepare guests of Confidential Containers.")
    verbs = parser.add_subparsers(metavar="COMMAND", required=True)
    one = verbs.add_parser(
        "initdata",
        help="print a pod's annotation that names the key broker",
        description=_INITDATA,
    )
    add = one.add_argument
    add("--kbs", required=True, metavar="URL", help="the URL of the key broker, as guests reach it")
    add("--ca", default="", metavar="FILE", help="CA certificates of the broker, in PEM")
    add(
        "--algorithm",
        default="sha256",
        choices=initdata.ALGORITHMS,
        help="the hash with which the guest measures initdata (default: sha256)",
    )
    add(
        "--format",
        default="gzip",
        choices=("gzip", "base64", "toml"),
        help=f"gzip (the default), base64 for {initdata.OLD_ANNOTATION} of peer pods and older versions, or plain TOML",
    )
    return parser


def build_register_parser() -> Parser:
    """Build the parser of `ctd-decoder keyprovider attestation-agent`."""
    program = "ctd-decoder keyprovider attestation-agent"
    parser = Parser(prog=program, description="Manage keys at key brokers.")
    verbs = parser.add_subparsers(metavar="COMMAND", required=True)
    one = verbs.add_parser(
        "register",
        help="store a key at a key broker",
        description=_REGISTER,
    )
    add = one.add_argument
    add("--keyid", required=True, metavar="KID", help="the key's id, kbs:///REPOSITORY/TYPE/TAG")
    add("--keypath", required=True, metavar="FILE", help=f"the key: {limits.SYMMETRIC_KEY_BYTES} bytes")
    add("--create", action="store_true", help="if the file does not exist, create it (mode 0600) with a new key")
    add("--repository", default="", metavar="DIR", help="write the key to this local store of a broker")
    layouts = ("flat", "nested", "both")
    add("--layout", default="flat", choices=layouts, help="which files to write to --repository (default: flat)")
    for option in (*broker.OPTIONS, *(option for option in kbs.OPTIONS if option.name == "kbs-ca")):
        action = "append" if option.many else "store"
        add(f"--{option.name}", action=action, metavar="VALUE", help=option.help)
    return parser
