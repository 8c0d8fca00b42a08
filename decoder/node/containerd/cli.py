"""`ctd-decoder config`: print configuration for other programs."""

from __future__ import annotations

from decoder.commandline import Parser, show, with_two_dashes
from decoder.node.containerd.configuration import CONTAINERD, KEYS_DIRECTORY, VERSIONS, snippet

_VERSIONS = "\n".join(f"  {version}  {CONTAINERD[version]}" for version in VERSIONS)


def main(arguments: list[str]) -> int:
    """Run `ctd-decoder config`.

    Args:
        arguments: the words after `config`.

    Returns:
        The exit status, 0.

    Raises:
        UsageError: the command line cannot be understood.
        StreamError: standard output failed.
    """
    parsed = _parser().parse(with_two_dashes(arguments or ["--help"]))
    if parsed is not None:
        show(snippet(parsed.config_version, parsed.keys_path))
    return 0


def _parser() -> Parser:
    parser = Parser(prog="ctd-decoder config", description="Print configuration for other programs.")
    programs = parser.add_subparsers(metavar="PROGRAM", required=True)
    containerd = programs.add_parser(
        "containerd",
        help="stream processors that decrypt layers with this program",
        description="Print the stream processors that make containerd decrypt layers with this program.\n"
        "Put them into containerd's configuration file, or into a file that it imports; then restart containerd.",
        epilog=f"versions of the configuration file:\n{_VERSIONS}",
    )
    containerd.add_argument(
        "--config-version",
        type=int,
        choices=VERSIONS,
        default=3,
        metavar="N",
        help="version of the configuration file (default: 3)",
    )
    containerd.add_argument(
        "--keys-path", default=KEYS_DIRECTORY, metavar="DIR", help="directory of private keys (default: %(default)s)"
    )
    return parser
