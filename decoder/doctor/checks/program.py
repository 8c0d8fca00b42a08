"""Check that containerd can start this program, and starts no other one in its place."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from decoder import __version__
from decoder.doctor.finding import Finding
from decoder.doctor.host import run
from decoder.errors import quoted
from decoder.node.containerd.configuration import PROGRAM

if TYPE_CHECKING:
    from collections.abc import Iterator

    from decoder.doctor.host import Host

_SUBJECT = "program"
_REFERENCE_HELP = "used as a call-out from containerd content stream plugins"


def check(node: Host) -> Iterator[Finding]:
    """Start each program that the stream processors name, as containerd does, and print its version."""
    for program in node.programs():
        found, relative = node.find_program(program)
        if relative:
            entry = quoted(relative)
            text = f"{found} is found through the relative entry {entry} of containerd's PATH, and Go does not start it"
            yield Finding("error", _SUBJECT, text, f"remove {entry} from containerd's PATH, or move it to the end")
        elif not found:
            where = "there is no such program" if os.path.isabs(program) else f"containerd looks in {node.path}"
            remedy = "install it there, or set path in the stream processors to its path"
            yield Finding("error", _SUBJECT, f"{quoted(program)} cannot be started: {where}", remedy)
        else:
            yield _identify(found, node.place(found))


def _identify(shown: str, file: str) -> Finding:
    output, failure = run([file, "--version"])
    if not failure and output.strip() == f"{PROGRAM} {__version__}":
        return Finding("ok", _SUBJECT, f"containerd finds {shown}, version {__version__}")
    if not failure and output.startswith(f"{PROGRAM} "):
        text = f"containerd finds {shown}, version {quoted(output.split()[1])}; this is version {__version__}"
        return Finding("warning", _SUBJECT, text, "remove the version that you do not want")
    help_text, _ = run([file, "--help"])
    if _REFERENCE_HELP in help_text:
        text = f"containerd finds {shown}, which is the reference decoder (imgcrypt), not this program"
        return Finding("error", _SUBJECT, text, "remove it, or set path in the stream processors to this program")
    if failure:
        return Finding("error", _SUBJECT, f"{shown} does not start: {failure}", f"run {shown} --version to see why")
    text = f"{shown} is another program: {quoted(output.strip())}"
    return Finding("error", _SUBJECT, text, "set path in the stream processors to this program")
