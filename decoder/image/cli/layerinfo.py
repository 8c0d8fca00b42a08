"""`ctd-decoder image layerinfo`."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from decoder.commandline import show
from decoder.image.cli import options, output
from decoder.image.openers import read_keys

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

HELP = "list the layers of an image, their recipients, and whether keys open them"
EXAMPLE = """\
  ctd-decoder image layerinfo --key app.key docker://registry.example/app:1-enc
"""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument("source", metavar="SRC", help=options.PLACE)
    text = "print whole digests and recipients, even if they are wider than the terminal"
    parser.add_argument("--no-trunc", action="store_true", help=text)
    options.add_keys(parser)
    options.add_platform(parser)
    options.add_common(parser)


def run(parsed: Namespace) -> None:
    """List layers."""
    from decoder.image.verbs import layerinfo

    keys = read_keys(parsed.key, parsed.dec_recipient, parsed.keyprovider_config, options.reference(parsed.source))
    certificates = [material.data for material in keys.keyring.certificates]
    with ExitStack() as stack:
        source = options.source(stack, parsed, parsed.source)
        infos = layerinfo.layer_infos(source, options.platforms(parsed), certificates, keys if parsed.key else None)
    if parsed.json:
        output.show_json({"image": parsed.source, "layers": [info.for_programs() for info in infos]})
    else:
        width = 0 if parsed.no_trunc else output.terminal_width()
        show(layerinfo.table(infos, with_keys=bool(parsed.key), width=width))
