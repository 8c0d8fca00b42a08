"""`ctd-decoder image check`."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from decoder.commandline import show
from decoder.errors import DecoderError, UsageError
from decoder.image import progress as progresses
from decoder.image.cli import options, output

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from decoder.image.verbs.check import Report

HELP = "check that an image is encrypted as required and that keys open it; the exit status has the result"
EXAMPLE = """\
  ctd-decoder image check --require-encrypted all --key app.key docker://registry.example/app:1-enc
  ctd-decoder image check --require-encrypted -1 docker://registry.example/app:1-enc
"""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument("source", metavar="SRC", help=options.PLACE)
    add = parser.add_argument
    text = "fail unless all layers, any layer, or the layers with these numbers are encrypted, for every platform"
    add("--require-encrypted", default="", metavar="all|any|N,...", help=text)
    add("--verify", action="store_true", help="read every layer, and check its digest and its HMAC")
    options.add_keys(parser)
    options.add_platform(parser)
    options.add_common(parser)


def run(parsed: Namespace) -> None:
    """Check an image.

    Raises:
        UsageError: no check was asked for.
        CheckError: the image does not pass.
    """
    from decoder.image.verbs.check import Report, raise_for_problems

    try:
        report, with_keys = _report(parsed)
    except DecoderError as error:
        if parsed.json:
            output.show_json(_members(parsed.source, Report([], [str(error)], error.status), with_keys=False))
        raise
    if parsed.json:
        output.show_json(_members(parsed.source, report, with_keys=with_keys))
    raise_for_problems(report)
    if not parsed.json:
        encrypted = [each for each in report.findings if each.is_encrypted]
        opened = f"; the keys open all {len(encrypted)}" if with_keys else ""
        read = "; digests and HMACs are correct" if parsed.verify else ""
        show(f"{len(encrypted)} of {len(report.findings)} layers are encrypted{opened}{read}\n")


def _report(parsed: Namespace) -> tuple[Report, bool]:
    """Check the image; also return whether keys were given."""
    from decoder.image.verbs import check

    required = check.parse_requirement(parsed.require_encrypted)
    keys = options.keys(parsed)
    if keys is None and required is None and not parsed.verify:
        raise UsageError("nothing to check: pass --key, --require-encrypted or --verify")
    request = check.Request(keys, options.platforms(parsed), required, parsed.verify)
    with ExitStack() as stack:
        progress = stack.enter_context(progresses.choose(parsed.progress, parsed.json))
        report = check.check_image(options.source(stack, parsed, parsed.source), request, progress)
    return report, keys is not None


def _members(image: str, report: Report, with_keys: bool) -> dict[str, object]:
    layers = [each.for_programs(with_keys) for each in report.findings]
    return {"image": image, "ok": not report.status, "status": report.status, "layers": layers} | {
        "problems": report.problems
    }
