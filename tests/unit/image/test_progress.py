"""Bars at a terminal, lines elsewhere, and nothing but JSON on standard output for programs."""

from __future__ import annotations

import os
import pty
import subprocess
from typing import TYPE_CHECKING

from decoder.image.selection import own_platform
from tests.support import processes
from tests.support.image import SECONDS, done, oci

if TYPE_CHECKING:
    from tests.support.images import Layout
    from tests.support.parties import Party


def test_lines_where_there_is_no_terminal(gzipped: Layout, target: Layout, parties: dict[str, Party]) -> None:
    ended = done("encrypt", oci(gzipped), oci(target, "x"), "--recipient", parties["jwe"].recipient)
    lines = sorted(line.split(":")[1] for line in ended.errors.splitlines())
    assert [line for line in lines if "encrypted" in line] == [
        f" encrypted layer {n} ({own_platform()})" for n in range(3)
    ]
    assert ended.output.split()[0] == oci(target, "x")


def test_json_for_programs(gzipped: Layout, target: Layout, parties: dict[str, Party]) -> None:
    recipient = parties["jwe"].recipient
    ended = done("encrypt", oci(gzipped), oci(target), "--recipient", recipient, "--layer", "1", "--json")
    assert ended.errors == ""
    (change,) = ended.value["layers"]
    assert change == {
        "layer": 1,
        "platform": own_platform(),
        "action": "encrypted",
        "from": gzipped.layers[1]["digest"],
        "digest": target.layers[1]["digest"],
        "size": target.layers[1]["size"],
    }


def test_bars_at_a_terminal(gzipped: Layout, target: Layout, parties: dict[str, Party]) -> None:
    ours, theirs = pty.openpty()
    command = [processes.PROGRAM, "image", "encrypt", oci(gzipped), oci(target), "--recipient"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "200"}
    with subprocess.Popen(
        [*command, parties["jwe"].recipient], stdout=subprocess.DEVNULL, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        shown = b""
        while chunk := _read(ours):
            shown += chunk
        assert process.wait(SECONDS) == 0
    os.close(ours)
    assert b"\x1b[" in shown
    assert shown.count(b"ctd-decoder: encrypted layer") == 3


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # that is how a terminal ends
        return b""
