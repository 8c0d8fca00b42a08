"""Bars at a terminal, lines elsewhere, and nothing but JSON on standard output for programs."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
from typing import TYPE_CHECKING

from decoder import limits
from decoder.image.progress import choose
from decoder.image.selection import own_platform
from tests.support.image import images
from tests.support.image.command import SECONDS, done, oci
from tests.support.program import processes

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tests.support.image.images import Layout
    from tests.support.keys.parties import Party


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


def test_bars_at_a_terminal(tmp_path: Path, target: Layout, parties: dict[str, Party]) -> None:
    """Each layer has a bar of its own: what is done with it, how much of its size, and the time that is left."""
    tars = [images.tar_of({"noise": bytes(megabytes << 20)}) for megabytes in (30, 40)]
    plain = images.write_layers(tmp_path / "plain", [images.packed(each, images.TAR) for each in tars])
    shown = at_a_terminal("encrypt", oci(plain), oci(target), "--recipient", parties["jwe"].recipient)
    assert "\x1b[" in shown
    assert shown.count("ctd-decoder: encrypted layer") == 2
    frames = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    for layer, size in enumerate(("31.5", "42.0")):
        for phase in ("encrypting", "verifying"):
            assert re.search(rf"{phase} layer {layer} \(\S+\) +\S+ \d+\.\d/{size} MB .*?(\d:\d\d:\d\d|-:--:--)", frames)


def at_a_terminal(*arguments: str) -> str:
    """Run the program, and return what it shows on standard error at a terminal of 200 columns."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "200"}
    command = [processes.PROGRAM, "image", *arguments]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        while chunk := _read(ours):
            shown += chunk
        assert process.wait(SECONDS) == 0
    os.close(ours)
    return shown.decode()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # that is how a terminal ends
        return b""


def test_events_for_programs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PROGRESS_SECONDS", 0)
    progress = choose("json", for_programs=False)
    with progress:
        task = progress.task("encrypting", 9)
        task.advance(4)
        task.restart("the connection was lost")
        task.phase("verifying")
        task.done("encrypted")
        progress.finished("published")
        for _ in range(2):
            progress.remark("once")
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    of_task = [(each["event"], each["task"], each["bytes"], each["size"]) for each in events[:-2]]
    assert of_task == [
        ("start", "encrypting", 0, 9),
        ("progress", "encrypting", 4, 9),
        ("restart", "encrypting", 0, 9),
        ("phase", "verifying", 0, 9),
        ("done", "verifying", 0, 9),
    ]
    assert events[2]["text"] == "the connection was lost"
    assert events[-2:] == [{"event": "done", "text": "published"}, {"event": "remark", "text": "once"}]
