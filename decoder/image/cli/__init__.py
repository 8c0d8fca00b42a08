"""`ctd-decoder image`: the command line, with one module for each verb."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, NoReturn, Protocol, cast

from decoder.commandline import Parser
from decoder.image.cli import words

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

PROGRAM = "ctd-decoder image"
VERBS = ("encrypt", "decrypt", "layerinfo", "check", "rewrap", "keygen")
_DESCRIPTION = "Encrypt, decrypt and inspect the layers of container images."
_STATUS = """\
exit status: 0 done; 2 usage, or something cannot be encrypted; 4 no key opens a layer, or an image does not
pass; 5 a blob is damaged or not authentic; 6 a keyprovider failed; 7 an image cannot be read or written;
8 too little memory, or no further thread; 70 a defect of this program
"""
_PLACES = """\
images: oci:DIR[:REF], oci-archive:FILE[:REF], dir:DIR, docker-archive:FILE[:NAME], docker-daemon:NAME,
containers-storage:NAME, docker://HOST[:PORT]/REPO[:TAG|@DIGEST], containerd:REF; FILE may be `-` or a pipe

registries: logins are those of docker, podman and skopeo: $REGISTRY_AUTH_FILE, or the first of
$XDG_RUNTIME_DIR/containers/auth.json, ~/.config/containers/auth.json and ~/.docker/config.json that knows the registry;
certificates are the system's and those in certs.d/HOST[:PORT]/ (*.crt, and NAME.cert with NAME.key) of
~/.config/containers, /etc/containers or /etc/docker

"""
_WITHOUT_PLACES = ("keygen",)
_EXAMPLE = """\
example:
  ctd-decoder image keygen app
  ctd-decoder image encrypt --recipient app.pub docker://registry.example/app:1 docker://registry.example/app:1-enc
  ctd-decoder image check --key app.key --require-encrypted all docker://registry.example/app:1-enc

"""


class Verb(Protocol):
    """The interface of a verb's module."""

    HELP: str
    EXAMPLE: str

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the arguments of the verb."""

    def run(self, parsed: Namespace) -> None:
        """Run the verb."""


def main(arguments: list[str]) -> int:
    """Run `ctd-decoder image`.

    Args:
        arguments: the words after `image`.

    Returns:
        The exit status, 0.

    Raises:
        UsageError: the command line cannot be understood, or the image does not have what it asks for.
        DecoderError: the verb failed; nothing changed under the destination's name.
    """
    parsed = parser().parse(words.joined(arguments))
    if parsed is not None:
        parsed.run(parsed)
    return 0


def parser() -> ImageParser:
    """Build the parser of `ctd-decoder image`."""
    built = ImageParser(
        prog=PROGRAM,
        description=_DESCRIPTION,
        epilog=_EXAMPLE + _PLACES + _STATUS,
    )
    verbs = built.add_subparsers(metavar="VERB", required=True)
    for name in VERBS:
        verb = cast("Verb", import_module(f"decoder.image.cli.{name}"))
        added: ArgumentParser = verbs.add_parser(
            name,
            help=verb.HELP,
            description=f"{verb.HELP[0].upper()}{verb.HELP[1:]}.",
            epilog=f"example:\n{verb.EXAMPLE}\n{'' if name in _WITHOUT_PLACES else _PLACES}{_STATUS}",
        )
        added.set_defaults(run=verb.run)
        verb.add_arguments(added)
    return built


class ImageParser(Parser):
    """A parser that knows the names that skopeo and ctr-enc use for the same options."""

    def error(self, message: str) -> NoReturn:
        """Reject the command line, with the name of our option if an option of another program was used.

        Raises:
            UsageError: always.
        """
        super().error(words.with_hint(message))
