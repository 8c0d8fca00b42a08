"""Check that there is a containerd, and which one it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decoder.doctor.finding import Finding
from decoder.errors import quoted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from decoder.doctor.host import Host

_SUBJECT = "containerd"


def check(node: Host) -> Iterator[Finding]:
    """Check containerd's program, its version, and whether it is running."""
    containerd = node.containerd
    if not containerd.program:
        yield Finding("error", _SUBJECT, "there is no such program on PATH", "install containerd, or add it to PATH")
        return
    version, output = node.version
    kind = f"{containerd.distribution}, rootless" if containerd.is_rootless else containerd.distribution
    if version:
        shown = ".".join(map(str, version))
        yield Finding("ok", _SUBJECT, f"version {shown} ({containerd.program}; {kind})")
    else:
        text = f"{containerd.program} does not print its version: {quoted(output)}"
        yield Finding("error", _SUBJECT, text, f"run {containerd.program} --version to see why")
    if not containerd.pid:
        text = "it is not running, or not visible to this process; the installed files are checked"
        yield Finding("warning", _SUBJECT, text, f"start it: systemctl start {_service(containerd.distribution)}")
    if containerd.others:
        text = f"others run here, too ({containerd.others}); this one has the process ID {containerd.pid}"
        yield Finding("note", _SUBJECT, text, "choose another by --containerd-config FILE")


def _service(distribution: str) -> str:
    return {"k3s": "k3s", "RKE2": "rke2-server"}.get(distribution, "containerd")
