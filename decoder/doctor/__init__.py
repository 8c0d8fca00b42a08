"""`ctd-decoder doctor`: check whether this node can decrypt images.

A check is a module in `checks` with one function, `check(node)`, which yields findings. To add one, write its
module and add its name to CHECKS.
"""

from __future__ import annotations

import json
from importlib import import_module
from typing import TYPE_CHECKING, cast

from decoder import __version__
from decoder.commandline import Parser, show
from decoder.errors import quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from decoder.doctor.finding import Finding
    from decoder.doctor.host import Host

# In the order in which they concern a layer.
CHECKS = (
    "containerd",
    "configuration",
    "processors",
    "program",
    "keys",
    "keyproviders",
    "sources",
    "kubernetes",
    "differ",
    "store",
    "agent",
    "image",
)

_DESCRIPTION = """\
Check whether this node can decrypt images: containerd and its configuration, this program, keys, keyproviders and the
content store. With IMAGE, decrypt each encrypted layer of an image in containerd, as containerd would, and discard
the result. Nothing is changed. Key services are asked to decrypt a few bytes that are not a wrapped key, to see
whether they can be reached, know the node and let it use its key.
"""
_EPILOG = """\
levels: ok; note: worth knowing; warning: something may fail; error: something will fail, or keys are not safe
exit status: 0 no error was found; 1 something will fail, or keys are not safe; 2 usage
"""


def main(arguments: list[str]) -> int:
    """Run `ctd-decoder doctor`.

    Args:
        arguments: the words after `doctor`.

    Returns:
        The exit status: 1 if there is a finding of level error, else 0.

    Raises:
        UsageError: the command line cannot be understood.
        StreamError: standard output failed.
    """
    from decoder.doctor.host import Host

    parsed = _parser().parse(arguments)
    if parsed is None:
        return 0
    findings = examine(Host(parsed.containerd_config, parsed.image, parsed.namespace))
    if not parsed.json:
        is_healthy = True
        for finding in findings:
            is_healthy &= finding.level != "error"
            show(f"{finding}\n")
        return 0 if is_healthy else 1
    listed = list(findings)
    is_healthy = all(finding.level != "error" for finding in listed)
    report = {"version": __version__, "healthy": is_healthy, "findings": [finding._asdict() for finding in listed]}
    show(json.dumps(report, indent=2) + "\n")
    return 0 if is_healthy else 1


def examine(node: Host) -> Iterator[Finding]:
    """Run all checks; one that fails unexpectedly yields a finding, and the next ones still run."""
    from decoder.doctor.finding import Finding

    for name in CHECKS:
        check = cast("Callable[[Host], Iterable[Finding]]", import_module(f"decoder.doctor.checks.{name}").check)
        try:
            for finding in check(node):
                yield finding._replace(check=name)
        except Exception as error:  # noqa: BLE001 - a failing check must not hide the findings of others
            from decoder.failure import internal_error

            yield Finding("error", name, f"the check failed: {quoted(internal_error(error))}", check=name)


def _parser() -> Parser:
    parser = Parser(
        prog="ctd-decoder doctor",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument("image", nargs="?", default="", metavar="IMAGE", help="the name of an image in containerd")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--containerd-config", default="", metavar="FILE", help="containerd's configuration file")
    parser.add_argument(
        "--namespace", default="", metavar="NAME", help="containerd namespace of IMAGE (default: the one that has it)"
    )
    return parser
