"""Check that containerd's configuration can be read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decoder.doctor.finding import Finding
from decoder.errors import quoted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from decoder.doctor.host import Host

_SUBJECT = "configuration"


def check(node: Host) -> Iterator[Finding]:
    """Read containerd's configuration file, and ask containerd for the effective configuration."""
    file, configuration = node.containerd.file, node.configuration
    if configuration.failure:
        remedy = "run the doctor as root" if configuration.failure == "Permission denied" else "correct the file"
        yield Finding("error", _SUBJECT, f"{quoted(file)} cannot be read: {configuration.failure}", remedy)
        return
    if configuration.is_absent and node.containerd.is_file_named:
        text = f"there is no file {quoted(file)}, which the command line names"
        yield Finding(
            "error", _SUBJECT, text, "create it, or name the right file; containerd does not start without it"
        )
        return
    if configuration.dump_failure:
        command = f"{node.containerd.program} --config {file} config dump"
        text = f"containerd cannot show its configuration ({configuration.dump_failure}); only the file was checked"
        yield Finding("error", _SUBJECT, text, f"run `{command}` to see why")
    elif configuration.is_absent:
        yield Finding("ok", _SUBJECT, f"there is no file {quoted(file)}, so containerd uses its defaults")
    elif node.containerd.program:
        yield Finding("ok", _SUBJECT, f"{quoted(file)}, version {configuration.in_force.get('version')}")
    else:
        yield Finding("ok", _SUBJECT, f"{quoted(file)} can be read")
