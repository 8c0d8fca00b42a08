"""`ctd-decoder image rewrap`."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from decoder.commandline import show
from decoder.image import progress as progresses
from decoder.image.cli import options, output

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from decoder.image.verbs.rewrap import Result

HELP = "add and remove recipients of many encrypted images, without touching their layers"
EXAMPLE = """\
  ctd-decoder image rewrap --key old.key --recipient new.pub --dry-run docker://registry.example/app
  ctd-decoder image rewrap --key old.key --recipient new.pub --remove-recipient jwe:RSA-OAEP oci:images
"""
_HEADINGS = ("IMAGE", "RESULT", "LAYERS", "DIGEST")


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the verb."""
    text = "docker://HOST/REPO (all tags), docker://HOST/REPO:TAG, oci:DIR (all images), oci:DIR:REF or containerd:REF"
    parser.add_argument("places", metavar="PLACE", nargs="+", help=text)
    text = "open the layers and wrap their keys, but change nothing"
    parser.add_argument("--dry-run", action="store_true", help=text)
    options.add_recipients(parser)
    options.add_keys(parser)
    options.add_platform(parser)
    options.add_common(parser)


def run(parsed: Namespace) -> None:
    """Change the recipients of images.

    Raises:
        RewrapError: an image could not be changed; the others were.
    """
    from decoder.image.verbs import rewrap

    options.check_named(parsed)
    with ExitStack() as stack:
        progress = stack.enter_context(progresses.choose(parsed.progress, parsed.json))
        request = rewrap.Request(
            recipients=options.recipients(parsed, progress),
            keys=options.required_keys(parsed),
            removed=options.removed(parsed),
            platforms=options.platforms(parsed),
            dry_run=parsed.dry_run,
        )
        transport_options = options.transport_options(parsed)
        results = rewrap.rewrap_all(parsed.places, transport_options, request, progress)
        output.warn([*request.recipients.warnings, *request.keys.keyring.notes.brief_warnings], progress)
    if parsed.json:
        members = [result.for_programs() for result in results]
        output.show_json({"dryRun": parsed.dry_run, "images": members, "remarks": progress.remarks})
    else:
        show(_table(results))
    rewrap.raise_for_failures(results)


def _table(results: list[Result]) -> str:
    rows = [_HEADINGS, *((each.image, each.action, str(each.layers), each.digest) for each in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    lines = ["   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines) + "\n"
