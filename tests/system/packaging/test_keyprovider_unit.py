"""The unit of the packages that serves keys, started by a booted systemd as docs/server.md says."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from tests.support.image import images
from tests.support.node.systemd import booted
from tests.support.program.agent import wait_until
from tests.support.program.processes import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.packaging.packages import Built

SECTION = (ROOT / "docs/server.md").read_text().partition("## As a systemd service")[2].partition("\n## ")[0]
(COMMANDS,) = re.findall(r"^```sh\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)
(ENTRY,) = re.findall(r"^```json\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)
UNIT = "ctd-decoder-keyprovider@local.service"
SHARED = "/run/ctd-decoder-test"
# What needs a mount namespace for the unit, which systemd cannot make on the overlay of this test.
WITHOUT_MOUNTS = """\
[Service]
DynamicUser=no
User=daemon
PrivateDevices=no
PrivateTmp=no
PrivateUsers=no
ProcSubset=all
ProtectClock=no
ProtectControlGroups=no
ProtectHome=no
ProtectHostname=no
ProtectKernelLogs=no
ProtectKernelModules=no
ProtectKernelTunables=no
ProtectProc=default
ProtectSystem=no
"""


def test_it_serves_a_key_that_is_a_credential(built: Built, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    for name in ("ctd-decoder", "ctd-decoder-providers"):
        (shared / f"{name}.deb").write_bytes(built.find(f"{name}_*.deb").read_bytes())
    (shared / "image.key").write_bytes(bytes(range(32)))
    (shared / "commands").write_text(COMMANDS)
    (shared / "without-mounts.conf").write_text(WITHOUT_MOUNTS)
    (shared / "keyproviders.conf").write_text(ENTRY)
    images.write_layers(shared / "plain", [images.packed(images.tar_of({"file": b"x"}), images.GZIP)])
    with booted(tmp_path) as machine:
        machine.run("mount", "--make-rshared", "/")  # as systemd does where it is not in a container: for credentials
        machine.run("dpkg", "--install", "--force-confnew", *(f"{SHARED}/{path.name}" for path in shared.glob("*.deb")))
        machine.run("install", "-D", "--mode=600", f"{SHARED}/image.key", "/etc/ctd-decoder/image.key")
        limits = f"/run/systemd/system/{UNIT}.d/without-mounts.conf"
        machine.run("install", "-D", "--mode=644", f"{SHARED}/without-mounts.conf", limits)
        machine.run("sh", "-e", f"{SHARED}/commands")
        machine.wait_for(UNIT, "active")
        wait_until(
            lambda: "socket" in machine.run("ls", "/run/ctd-decoder-local", expect=None).split(),
            lambda: machine.run("journalctl", "--unit", UNIT, expect=None),
        )
        assert machine.run("stat", "--format=%a", "/run/ctd-decoder-local").strip() == "700"
        options = ["--keyprovider-config", f"{SHARED}/keyproviders.conf"]
        places = [f"oci:{SHARED}/plain", "oci:/tmp/encrypted:1"]
        machine.run("ctd-decoder", "image", "encrypt", *options, "--recipient", "provider:local", *places)
        shown = machine.run("ctd-decoder", "image", "check", *options, "--key", "provider:local", places[1])
        assert "the keys open all 1" in shown
        machine.run("journalctl", "--sync")
        audit = [
            line
            for line in machine.run("journalctl", "--unit", UNIT, "--output", "cat").splitlines()
            if line.startswith("{")
        ]
        assert {json.loads(line)["operation"] for line in audit} == {"wrap-kek", "unwrap-kek"}
        assert len(audit) == len(set(audit)), "a line is in the journal twice"
        before = machine.show(UNIT, "MainPID")
        machine.run("dpkg", "--install", "--force-confnew", *(f"{SHARED}/{path.name}" for path in shared.glob("*.deb")))
        machine.wait_for(UNIT, "active")
        assert machine.show(UNIT, "MainPID") not in ("0", before), "an upgrade restarts the server"
        machine.run("dpkg", "--remove", "ctd-decoder-providers")
        machine.wait_for(UNIT, "inactive")
        assert machine.show(UNIT, "Result") == "success"
