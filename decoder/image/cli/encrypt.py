"""`ctd-decoder image encrypt`."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from decoder.errors import UsageError
from decoder.image import progress as progresses
from decoder.image.cli import options, output

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

HELP = "write an image with its layers encrypted, or with other recipients"
EXAMPLE = """\
  ctd-decoder image encrypt --recipient app.pub oci:app:1 docker://registry.example/app:1
  ctd-decoder image encrypt --in-place --recipient jwe:ops.pub --key app.key docker://registry.example/app:1
"""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument("source", metavar="SRC", help=options.PLACE)
    options.add_destination(parser)
    options.add_selection(parser)
    options.add_recipients(parser)
    add = parser.add_argument
    add("--skip-base", default="", metavar="IMAGE", help="leave the layers of this base image as they are")
    text = "let layers without an encrypted form stay plain: a media type, or all; may be repeated"
    add("--allow-plain", action="append", default=[], metavar="TYPE", help=text)
    text = "gzip: convert zstd layers, for nodes that cannot unpack zstd; diff IDs stay, digests change"
    add("--recompress", choices=("gzip",), default="", metavar="gzip", help=text)
    text = "keep (default) or drop the SBOMs and provenance that BuildKit put beside the image; they stay readable"
    add("--attestations", choices=("keep", "drop"), default="keep", metavar="keep|drop", help=text)
    options.add_keys(parser)
    options.add_platform(parser)
    options.add_common(parser)


def run(parsed: Namespace) -> None:
    """Encrypt an image.

    Raises:
        UsageError: no recipient is given, or the options do not fit together.
        DecoderError: the image could not be encrypted; the destination's name is unchanged.
    """
    from decoder.image.verbs.encrypt import encrypt_image
    from decoder.image.verbs.request import Request

    options.check_named(parsed)
    output.check_digestfile(parsed)
    if options.destination(parsed).startswith("docker-archive:"):
        raise UsageError(
            "docker-archive: cannot hold encrypted layers, because it has no annotations: use oci-archive:"
        )
    with ExitStack() as stack:
        progress = stack.enter_context(progresses.choose(parsed.progress, parsed.json))
        base = options.source(stack, parsed, parsed.skip_base) if parsed.skip_base else None
        request = Request(
            recipients=options.recipients(parsed, progress),
            ranges=options.ranges(parsed),
            platforms=options.platforms(parsed),
            base=base,
            keys=options.keys(parsed),
            removed=options.removed(parsed),
            verify=parsed.verify,
            allow_plain=parsed.allow_plain,
            recompress=bool(parsed.recompress),
            keep_attestations=parsed.attestations == "keep",
            destination=options.destination(parsed),
        )
        source = options.source(stack, parsed, parsed.source)
        stack.callback(lambda: output.warn(request.recipients.warnings, progress))
        outcome = encrypt_image(source, options.target(stack, parsed), request, progress)
        output.warn(request.keys.keyring.notes.brief_warnings if request.keys else [], progress)
    output.show_outcome(parsed, outcome, progress)
