"""The agent under containerd's own unit (KillMode=process, OOMScoreAdjust=-999) of a booted systemd."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.image import images
from tests.support.image.images import Layout
from tests.support.keywrap.layers import pem, public_pem, rsa_key
from tests.support.node.systemd import Booted, booted
from tests.support.program.agent import wait_until
from tests.support.program.processes import PROGRAM

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.packaging.packages import Built

LAYERS = 5
UNIT = "containerd.service"
KEYS = "/etc/containerd/ocicrypt/keys"
SHARED = "/run/ctd-decoder-test"
DECODER = "/usr/bin/ctd-decoder"
SETTINGS = "/etc/ctd-decoder/agent.env"
CGROUP = "/sys/fs/cgroup/systemd/system.slice/containerd.service"


def may_lower_scores() -> bool:
    """Tell whether the kernel lets this machine's processes have a negative OOM score (CAP_SYS_RESOURCE)."""
    script = "echo -999 >/proc/self/oom_score_adj"
    return subprocess.run(["sh", "-c", script], stderr=subprocess.DEVNULL, check=False).returncode == 0


@pytest.fixture(scope="module")
def machine(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Booted]:
    """A machine with the package, a key, and an image of small encrypted layers; the last test removes the package."""
    directory = tmp_path_factory.mktemp("machine")
    shared = directory / "shared"
    shared.mkdir()
    (shared / "image.tar").write_bytes(_encrypted(directory).archive())
    (shared / "key.pem").write_bytes(pem(rsa_key()))
    (shared / "package.deb").write_bytes(built.find("ctd-decoder_*.deb").read_bytes())
    with booted(directory) as machine:
        machine.run("dpkg", "--install", "--force-confnew", f"{SHARED}/package.deb")
        machine.run("mkdir", "-p", "/etc/ctd-decoder")
        machine.run("install", "-D", "--mode=600", f"{SHARED}/key.pem", f"{KEYS}/key.pem")
        yield machine


def _encrypted(directory: Path) -> Layout:
    layers = [images.packed(images.tar_of({f"file{number}": b"x"}), images.GZIP) for number in range(LAYERS)]
    plain = images.write_layers(directory / "plain", layers)
    (directory / "recipient.pem").write_bytes(public_pem(rsa_key()))
    target = directory / "encrypted"
    places = [f"oci:{plain.directory}:{images.NAME}", f"oci:{target}:{images.NAME}"]
    command = [PROGRAM, "image", "encrypt", *places, "--recipient", f"jwe:{directory}/recipient.pem"]
    subprocess.run(command, check=True, timeout=300, capture_output=True)
    return Layout(target)


def import_image(machine: Booted, namespace: str) -> None:
    machine.run("ctr", "--namespace", namespace, "images", "import", f"{SHARED}/image.tar")


def agents(machine: Booted) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(machine.run(DECODER, "agent", "status", "--json"))
    return found


def wait_until_gone(machine: Booted, process: str) -> None:
    wait_until(lambda: machine.run("sh", "-c", f"[ ! -e {process} ]; echo $?") == "0\n")


def test_an_agent_of_containerds_unit(machine: Booted) -> None:
    """Neither a stop nor a restart of containerd waits for it or ends it; it ends when it was idle."""
    import_image(machine, "first")
    (agent,) = agents(machine)
    process = f"/proc/{agent['pid']}"
    assert agent["served"] >= LAYERS - 3
    assert (agent["sent_away"], agent["fallen_back"]) == ({}, 0)

    containerd = f"/proc/{machine.show(UNIT, 'MainPID')}"
    assert machine.run("cat", f"{containerd}/oom_score_adj") == ("-999\n" if may_lower_scores() else "0\n")
    assert machine.run("cat", f"{process}/oom_score_adj") == "0\n"
    assert UNIT in machine.run("cat", f"{process}/cgroup")
    assert (machine.show(UNIT, "KillMode"), machine.show(UNIT, "OOMScoreAdjust")) == ("process", "-999")

    machine.run("systemctl", "restart", UNIT)  # it returns when the unit has stopped, and runs again
    assert (machine.show(UNIT, "ActiveState"), machine.show(UNIT, "Result")) == ("active", "success")
    assert f"/proc/{machine.show(UNIT, 'MainPID')}" != containerd
    import_image(machine, "second")
    (same,) = agents(machine)
    assert (same["pid"], same["served"]) == (agent["pid"], agent["served"] + LAYERS)

    machine.run("systemctl", "stop", UNIT)
    assert (machine.show(UNIT, "ActiveState"), machine.show(UNIT, "Result")) == ("inactive", "success")
    assert [each["pid"] for each in agents(machine)] == [agent["pid"]]
    machine.run(DECODER, "agent", "stop")
    wait_until_gone(machine, process)
    machine.run("systemctl", "start", UNIT)


def test_it_ends_by_itself(machine: Booted) -> None:
    """When it was idle, with containerd still running; and when the package is removed."""
    machine.run("sh", "-c", f"echo CTD_DECODER_AGENT_IDLE=1 >{SETTINGS}")
    import_image(machine, "third")
    wait_until(lambda: not agents(machine))
    assert machine.run("sh", "-c", f"cat {CGROUP}/cgroup.procs").split() == [machine.show(UNIT, "MainPID")]

    machine.run("rm", SETTINGS)
    import_image(machine, "fourth")
    (agent,) = agents(machine)
    machine.run("dpkg", "--remove", "ctd-decoder")
    wait_until_gone(machine, f"/proc/{agent['pid']}")
    assert machine.show(UNIT, "ActiveState") == "active"
