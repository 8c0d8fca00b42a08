"""`ctd-decoder image keygen`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decoder.commandline import show
from decoder.image.cli import output

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

TYPES = ("rsa3072", "p256", "p384", "p521")
HELP = "create a key pair: NAME.key, the private key, and NAME.pub, the recipient"
EXAMPLE = """\
  ctd-decoder image keygen --type p256 app
"""
_NODE_DIRECTORY = "/etc/containerd/ocicrypt/keys"


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the verb."""
    add = parser.add_argument
    add("name", metavar="NAME", help="the path of the files, without .key and .pub")
    text = f"{', '.join(TYPES)} (default: %(default)s)"
    add("--type", choices=TYPES, default=TYPES[0], metavar="TYPE", help=text)
    add("--json", action="store_true", help="print the result as JSON")


def run(parsed: Namespace) -> None:
    """Create a key pair."""
    from decoder.image.verbs.keygen import make_key_pair

    pair = make_key_pair(parsed.name, parsed.type)
    if parsed.json:
        output.show_json(
            {"privateKey": pair.private, "publicKey": pair.public, "recipient": f"jwe:{pair.public}"}
            | {"type": parsed.type}
        )
        return
    show(
        f"recipient: jwe:{pair.public}\n"
        f"private key: {pair.private} (mode 0600). Keep it secret, and keep a copy.\n"
        f"To open images with it, on every node that runs them, as root:\n"
        f"  install -d -m 700 {_NODE_DIRECTORY}\n"
        f"  install -m 600 {pair.private} {_NODE_DIRECTORY}/\n"
    )
