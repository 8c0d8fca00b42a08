"""The wheels: for all machines, and with the agent's client; isolated from PYTHON* and the current directory."""

from __future__ import annotations

import os
import platform
import subprocess
import zipfile
from pathlib import Path

import pytest

from decoder.agent.status import ask
from tests.support.keywrap.layers import encrypted
from tests.support.packaging.wheels import SECONDS, build, find, install, pip
from tests.support.program.agent import wait_until
from tests.support.program.onelayer import PLAINTEXT, run_layer

PURE = "py3-none-any"
PLATFORMS = "py3-none-manylinux2014_{0}.manylinux_2_17_{0}.musllinux_1_1_{0}"
ELF_MACHINES = {"x86_64": 62, "aarch64": 183}


@pytest.fixture(scope="module")
def wheels(built: object, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build them."""
    directory = tmp_path_factory.mktemp("wheels")
    build(directory)
    return directory


def test_what_is_built(wheels: Path) -> None:
    tags = {path.name.split("-", 2)[2].removesuffix(".whl") for path in wheels.glob("*.whl")}
    assert {".".join(sorted(tag.split("-")[2].split("."))) for tag in tags} == {
        "any",
        *(PLATFORMS.format(machine).split("-")[2] for machine in ELF_MACHINES),
    }
    assert len(list(wheels.glob("*.tar.gz"))) == 1


@pytest.mark.parametrize("machine", ELF_MACHINES)
def test_the_client_is_static_and_for_its_machine(machine: str, wheels: Path) -> None:
    with zipfile.ZipFile(find(wheels, f"*{machine}*")) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("data/scripts/ctd-decoder")]
        client = archive.read(name)
        (script,) = [name for name in archive.namelist() if name.endswith("data/scripts/ctd-decoder-python")]
        assert archive.read(script).startswith(b"#!python\n")
        assert not any(name.endswith("entry_points.txt") for name in archive.namelist())
    assert client[:4] == b"\x7fELF"
    assert int.from_bytes(client[18:20], "little") == ELF_MACHINES[machine]
    assert b"ld-linux" not in client
    assert b"ld-musl" not in client
    assert len(client) < 100_000


@pytest.fixture(params=[PURE, f"*{platform.machine()}*"], ids=["all machines", "this machine"])
def installed(request: pytest.FixtureRequest, wheels: Path, tmp_path: Path) -> Path:
    """The program of a wheel; an agent that it starts ends when its files are gone."""
    return install(find(wheels, request.param), tmp_path / "venv")


def test_layers_are_decrypted(installed: Path) -> None:
    for _ in range(3):
        assert run_layer(encrypted(PLAINTEXT), program=str(installed)) == (0, PLAINTEXT, "")


def test_it_is_isolated(installed: Path, tmp_path: Path) -> None:
    """Neither modules in the current directory nor those that PYTHONPATH names are imported."""
    planted = tmp_path / "planted"
    (planted / "decoder").mkdir(parents=True)
    for name in ("json.py", "decoder/__init__.py"):
        (planted / name).write_text("raise SystemExit('planted')\n")
    environment = {**os.environ, "PYTHONPATH": str(planted), "PYTHONSTARTUP": "x", "CTD_DECODER_AGENT": "off"}
    is_native = installed.read_bytes()[:4] == b"\x7fELF"
    if not is_native:
        del environment["PYTHONPATH"]  # the script of a wheel for all machines has started by then
    done = subprocess.run(
        [installed, "--version"], capture_output=True, timeout=SECONDS, check=False, cwd=planted, env=environment
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"ctd-decoder ")


def test_pip_removes_everything(installed: Path) -> None:
    pip(installed.with_name("pip"), "uninstall", "--yes", "ctd-decoder")
    assert not list(installed.parent.glob("ctd-decoder*"))


def test_a_platform_wheel_has_the_agent(wheels: Path, tmp_path: Path) -> None:
    program = install(find(wheels, f"*{platform.machine()}*"), tmp_path / "venv")
    before = set(Path("/run/ctd-decoder").glob("*.sock"))
    for _ in range(4):
        assert run_layer(encrypted(PLAINTEXT), program=str(program)) == (0, PLAINTEXT, "")
    (socket,) = set(Path("/run/ctd-decoder").glob("*.sock")) - before
    status = ask(socket)
    assert status is not None
    assert status.served == 3
    pip(program.with_name("pip"), "uninstall", "--yes", "ctd-decoder")
    wait_until(lambda: not socket.exists())  # it notices that its program is gone
