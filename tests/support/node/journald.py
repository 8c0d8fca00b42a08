"""Debian's systemd-journald, run in the namespaces of a test's containerd."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.support.node.containerd import Containerd

_SECONDS = 120.0
_READ = (
    "journalctl",
    "--directory",
    "/run/log/journal",
    "--output",
    "json",
    "--no-pager",
    "--identifier",
    "ctd-decoder",
)
# Its directories are those that systemd makes at boot; nothing is written to the host's journal.
_START = """
mkdir -p /run/systemd/journal /run/log /etc/systemd/journald.conf.d
printf '[Journal]\\nStorage=volatile\\n' >/etc/systemd/journald.conf.d/test.conf
[ -s /etc/machine-id ] || tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id
setsid /lib/systemd/systemd-journald </dev/null >/run/journald.log 2>&1 &
"""


def start(containerd: Containerd) -> None:
    """Start journald where the decoders of this containerd look for it."""
    assert containerd.execute("sh", "-c", _START).returncode == 0
    deadline = time.monotonic() + _SECONDS
    while containerd.execute("test", "-S", "/run/systemd/journal/socket").returncode:
        assert time.monotonic() < deadline, containerd.execute("cat", "/run/journald.log").stdout
        time.sleep(0.1)


def messages(containerd: Containerd, least: int = 1) -> list[dict[str, Any]]:
    """Wait for messages of our program, and return all that are there."""
    deadline = time.monotonic() + _SECONDS
    while True:
        result = containerd.execute(*_READ)
        found = [json.loads(line) for line in result.stdout.splitlines()]
        if len(found) >= least:
            return found
        assert time.monotonic() < deadline, f"{len(found)} messages: {result.stdout}{result.stderr}"
        time.sleep(0.1)
