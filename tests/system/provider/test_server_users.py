"""A server at a Unix socket with a client policy: the kernel says which user has connected."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
import pytest

from tests.support.program.processes import ROOT
from tests.support.provider.policy_site import WRAP, Site, outcome, wrap
from tests.support.provider.serving import Server, wait_for

CALL = """
import os, sys
sys.path.insert(0, sys.argv[1])
os.setgid(65534), os.setuid(65533)
import grpc
from tests.support.provider.policy_site import WRAP, outcome, wrap
with grpc.insecure_channel(sys.argv[2]) as channel:
    print(outcome(channel, WRAP, wrap("a")))
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that others can enter, which those of pytest are not."""
    with TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_at_a_unix_socket_the_user_counts(directory: Path) -> None:
    site = Site(directory)
    path = site.directory / "s"
    arguments = (*site.arguments, "--listen", f"unix://{path}", "--client-policy", site.policy)
    site.policy.write_text(site.rule("uid:0", ca="", wrap="local://a"))
    with Server(site.directory, *arguments) as server:

        def as_another_user() -> str:
            command = [sys.executable, "-c", CALL, str(ROOT), f"unix:{path}"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            assert not done.returncode, done.stderr
            return done.stdout.strip()

        with grpc.insecure_channel(f"unix:{path}") as channel:
            assert outcome(channel, WRAP, wrap("a")) == "OK"
        assert as_another_user() == "PERMISSION_DENIED"
        site.policy.write_text(site.rule("gid:65534", ca="", wrap="local://a"))
        wait_for(lambda: "were read again" in server.log)
        assert as_another_user() == "OK"
    assert [(line["client"], line["outcome"]) for line in server.audit] == [
        ("uid:0, gid:0", "ok"),
        ("uid:65533, gid:65534", "failed"),
        ("uid:65533, gid:65534", "ok"),
    ]
    assert server.audit[0]["address"] == f"unix:pid={os.getpid()}"
