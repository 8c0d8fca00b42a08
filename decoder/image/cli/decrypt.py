"""`ctd-decoder image decrypt`."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from decoder.image import progress as progresses
from decoder.image.cli import options, output

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

HELP = "write an image with its layers decrypted"
EXAMPLE = """\
  ctd-decoder image decrypt --key app.key docker://registry.example/app:1-enc oci-archive:app.tar:1
  ctd-decoder image decrypt --key app.key docker://registry.example/app:1-enc docker-archive:-:app:1 | docker load
"""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument("source", metavar="SRC", help=options.PLACE)
    options.add_destination(parser)
    options.add_selection(parser)
    options.add_keys(parser)
    options.add_platform(parser)
    options.add_common(parser)


def run(parsed: Namespace) -> None:
    """Decrypt an image."""
    from decoder.image.verbs import decrypt

    output.check_digestfile(parsed)
    request = decrypt.Request(
        keys=options.required_keys(parsed),
        ranges=options.ranges(parsed),
        platforms=options.platforms(parsed),
        verify=parsed.verify,
    )
    with ExitStack() as stack:
        progress = stack.enter_context(progresses.choose(parsed.progress, parsed.json))
        source = options.source(stack, parsed, parsed.source)
        outcome = decrypt.decrypt_image(source, options.target(stack, parsed), request, progress)
        output.warn(request.keys.keyring.notes.brief_warnings, progress)
    output.show_outcome(parsed, outcome, progress)
