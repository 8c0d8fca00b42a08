"""How `ctd-decoder doctor` finds containerd among the processes."""

from __future__ import annotations

import subprocess
from pathlib import Path

from decoder.doctor.discovery import find_containerd
from tests.support.program.agent import state_of, wait_until


def test_a_containerd_that_has_ended_is_not_the_running_one(tmp_path: Path) -> None:
    program, config = tmp_path / "containerd", str(tmp_path / "config.toml")
    program.write_text("#!/bin/sh\nread line\n")
    program.chmod(0o755)
    with subprocess.Popen([program, "--config", config], stdin=subprocess.PIPE) as process:
        wait_until(lambda: find_containerd(config).pid == process.pid)  # it has its name
        process.kill()
        wait_until(lambda: state_of(process.pid) == "Z")
        assert find_containerd("").pid != process.pid
