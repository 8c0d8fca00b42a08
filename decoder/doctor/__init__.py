"""`ctd-decoder doctor`: is everything here that decrypting takes? It changes nothing and asks nobody for a key."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from decoder.commandline import Parser

if TYPE_CHECKING:
    from decoder.doctor.finding import Finding


def main(arguments: list[str]) -> int:
    """Run `ctd-decoder doctor`.

    Args:
        arguments: those after `doctor`.

    Returns:
        The exit status: 1 if something was found that keeps layers from being decrypted or keys from being safe.

    Raises:
        UsageError: the command line cannot be understood.
    """
    parser = Parser(prog="ctd-decoder doctor", description=__doc__, allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--containerd-config", default="", metavar="FILE", help="containerd's configuration file")
    try:
        parsed = parser.parse_args(arguments)
    except SystemExit:  # --help was printed
        return 0
    findings = examine(parsed.containerd_config)
    is_healthy = all(finding.level != "error" for finding in findings)
    if parsed.json:
        report = {"healthy": is_healthy, "findings": [finding._asdict() for finding in findings]}
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
    else:
        sys.stdout.writelines(f"{finding}\n" for finding in findings)
    sys.stdout.flush()
    return 0 if is_healthy else 1


def examine(containerd_config: str = "") -> list[Finding]:
    """Look at everything, in the order in which a layer meets it.

    Args:
        containerd_config: containerd's configuration file; "" for the one that it uses.
    """
    from decoder.doctor import containerd, keys, processors, providers, store

    findings: list[Finding] = []
    found = containerd.examine(containerd_config, findings)
    used = processors.examine(found, findings)
    for directory in used.keys_directories:
        keys.examine(directory, findings)
    for file in used.keyprovider_files:
        providers.examine(file, found.path, findings)
    processors.examine_cri(found, findings)
    store.examine(found, findings)
    return findings
