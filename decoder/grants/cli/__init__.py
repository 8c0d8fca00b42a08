"""`ctd-decoder grants`: the command line of owners; `verbs` has the work of each verb."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from decoder import limits
from decoder.commandline import Parser

if TYPE_CHECKING:
    from argparse import ArgumentParser

PROGRAM = "ctd-decoder grants"
_DESCRIPTION = "Decide which nodes get the keys of images that are encrypted to provider:grants:HOST/REPO."
_EPILOG = """\
example:
  ctd-decoder grants list registry.example/app
  ctd-decoder grants approve --key owner.key registry.example/app jwk-sha256:FINGERPRINT

registries: logins and certificates are those of `ctd-decoder image`

exit status: 0 done; 2 usage; 4 nothing to approve, deny or revoke; 5 an artifact is malformed or not signed by a
trusted key; 6 a keyprovider failed; 7 a registry or a file failed; 8 too little memory, or no further
thread; 70 a defect of this program
"""
_VERBS = {
    "list": "show the nodes that ask for keys",
    "approve": "grant nodes access",
    "deny": "refuse nodes access",
    "revoke": "take access back from nodes that have not used it yet",
    "log": "show the decisions so far",
    "fingerprint": "print the fingerprint of a key or certificate",
    "wrap-key": "have a keyprovider encrypt a private key, for --key provider:NAME:FILE",
    "approver": "approve by rules until SIGTERM",
}


def main(arguments: list[str]) -> int:
    """Run `ctd-decoder grants`.

    Args:
        arguments: the words after `grants`.

    Returns:
        The exit status, 0.

    Raises:
        UsageError: the command line cannot be understood.
        DecoderError: the verb failed.
    """
    parsed = parser().parse(arguments)
    if parsed is not None:
        import_module(f"decoder.grants.cli.{parsed.module}").run(parsed)
    return 0


def parser() -> Parser:
    """Build the parser of `ctd-decoder grants`."""
    built = Parser(
        prog=PROGRAM,
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    verbs = built.add_subparsers(metavar="VERB", required=True)
    for name, text in _VERBS.items():
        added = verbs.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=_EPILOG.partition("\n\n")[2],
        )  # fmt: skip
        added.set_defaults(verb=name, module="verbs")
        _ADD[name](added)
    return built


def _add_common(parser: ArgumentParser, needs_key: bool) -> None:
    add = parser.add_argument
    add("repository", metavar="REPO", help="the repository of the grants, HOST/NAME")
    text = "only these IDs of keys and fingerprints of nodes"
    add("words", metavar="ID|FINGERPRINT", nargs="*", default=[], help=text)
    text = "the owner's private key: a file, a PKCS#11 key file, or provider:NAME:FILE"
    add("--key", default="", required=needs_key, metavar="KEY", help=text)
    add("--password-file", default="", metavar="FILE", help="the file with the password of an encrypted private key")
    add("--requests", default="", metavar="REPO", help="the repository of the requests (default: REPO-requests)")
    add("--json", action="store_true", help="print the result as JSON")
    _add_access(parser)


def _add_access(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--insecure", action="store_true", help="accept any certificate of a registry, and plain HTTP")
    add("--creds", default="", metavar="USER:PASSWORD", help="the login at registries (default: that of docker login)")
    add("--authfile", default="", metavar="FILE", help="the file where `skopeo login` and others store logins")


def _add_list(parser: ArgumentParser) -> None:
    _add_common(parser, needs_key=False)


def _add_approve(parser: ArgumentParser) -> None:
    _add_common(parser, needs_key=True)
    add = parser.add_argument
    text = "the public key of somebody who encrypts images (default: the owner's own key); may be repeated"
    add("--publisher", action="append", default=[], metavar="FILE", help=text)
    text = f"how many days the grants are valid (default: {limits.GRANTS_DAYS})"
    add("--days", type=int, default=limits.GRANTS_DAYS, metavar="N", help=text)
    add("--no-expiry", action="store_true", help="create grants that never expire")
    add("--all", action="store_true", help="approve all requests that --ca and --name accept")
    text = "CA certificates; the certificate in a request must be from one of these"
    add("--ca", default="", metavar="FILE", help=text)
    text = "shell pattern that a name in the certificate must match; may be repeated"
    add("--name", action="append", default=[], metavar="PATTERN", help=text)
    text = "a request, copied from the message of a node; may be repeated"
    add("--request", action="append", default=[], metavar="TEXT", help=text)
    text = "approve the nodes whose certificates or public keys are in this directory, even before they ask"
    add("--nodes", default="", metavar="DIR", help=text)


def _add_deciding(parser: ArgumentParser) -> None:
    _add_common(parser, needs_key=True)


def _add_fingerprint(parser: ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a public or private key, or a certificate")


def _add_wrap_key(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--key", required=True, metavar="FILE", help="the private key")
    add("--password-file", default="", metavar="FILE", help="the file with the password of an encrypted private key")
    text = "the keyprovider, as after provider: in a recipient; $OCICRYPT_KEYPROVIDER_CONFIG configures it"
    add("--provider", required=True, metavar="NAME[:PARAM]", help=text)
    add("output", metavar="FILE", help="the file to write, which must not exist")


def _add_approver(parser: ArgumentParser) -> None:
    parser.set_defaults(module="serving")
    add = parser.add_argument
    add("--policy", required=True, metavar="FILE", help="the file with the rules, JSON")
    add("--dry-run", action="store_true", help="print the decisions, but write nothing")
    add("--once", action="store_true", help="decide once about all requests, and end")
    text = "serve metrics for Prometheus over HTTP, without TLS"
    add("--metrics", default="", metavar="HOST:PORT", help=text)
    _add_access(parser)


_ADD = {
    "list": _add_list,
    "approve": _add_approve,
    "deny": _add_deciding,
    "revoke": _add_deciding,
    "log": _add_deciding,
    "fingerprint": _add_fingerprint,
    "wrap-key": _add_wrap_key,
    "approver": _add_approver,
}
