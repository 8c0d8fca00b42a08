"""The .deb on clean systems: install, decrypt, doctor, upgrade, remove, purge."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.packaging import clean_roots
from tests.support.packaging.machines import KEYS, PROGRAM, Machine
from tests.support.program.agent import is_running, wait_until
from tests.support.program.processes import ROOT

if TYPE_CHECKING:
    from tests.support.packaging.packages import Built

_CONFIGURATION = "etc/containerd/ocicrypt/ocicrypt_keyprovider.conf"
_IMGCRYPT = ROOT / ".cache/imgcrypt/usr/bin/ctd-decoder"


_THROUGH_THE_AGENT = f"""
set -e
cd /layer
decrypt() {{ {PROGRAM} --decryption-keys-path /{KEYS} 3<payload <ciphertext >"$1"; }}
decrypt first
until {PROGRAM} agent status | grep "workers ready" >/dev/null; do sleep 0.1; done
mv /usr/lib/ctd-decoder/bin/ctd-decoder /usr/lib/ctd-decoder/bin/moved
decrypt decrypted
mv /usr/lib/ctd-decoder/bin/moved /usr/lib/ctd-decoder/bin/ctd-decoder
{PROGRAM} agent stop
mv /usr/lib/ctd-decoder/bin/ctd-decoder /usr/lib/ctd-decoder/bin/moved
! decrypt none
mv /usr/lib/ctd-decoder/bin/moved /usr/lib/ctd-decoder/bin/ctd-decoder
"""


@pytest.fixture
def bookworm(tmp_path: Path) -> Machine:
    return Machine(clean_roots.copy("bookworm", tmp_path))


@pytest.mark.parametrize("suite", clean_roots.SUITES)
def test_it_is_installed_used_and_gone_without_a_trace(
    suite: str, built: Built, layer_files: Path, tmp_path: Path
) -> None:
    machine = Machine(clean_roots.copy(suite, tmp_path))
    package = machine.add(built.find("ctd-decoder_*.deb"))
    before = machine.files()
    machine.run("dpkg", "--install", package)
    assert machine.decrypt(layer_files)
    report = json.loads(machine.run(PROGRAM, "doctor", "--json", expect=1, sees_others=False))
    errors = [finding["text"] for finding in report["findings"] if finding["level"] == "error"]
    assert errors == [
        "there is no such program on PATH",  # containerd
        "there is neither a private key nor a keyprovider: only keys that a client sends open layers",
    ]
    assert "configuration" not in _findings(machine, "note", "warning", "error")
    configured = machine.root / "etc/containerd/config.toml"
    configured.write_text(machine.run(PROGRAM, "config", "containerd").replace(".tar.gzip", ".tar.other"))
    assert "'/etc/containerd/config.toml' can be read" in _findings(machine, "ok")["configuration"]
    missing = "there is none with the ID io.containerd.ocicrypt.decoder.v1.tar.gzip, one of the two that clients know"
    assert missing in _findings(machine, "error")["processors"]
    configured.unlink()
    machine.run("dpkg", "--remove", "ctd-decoder")
    left = machine.files().keys() - before.keys()
    assert left == {"etc/containerd", "etc/containerd/ocicrypt", _CONFIGURATION}
    machine.run("dpkg", "--purge", "ctd-decoder")
    assert machine.files() == before


def _findings(machine: Machine, *levels: str) -> dict[str, list[str]]:
    """Run the doctor, and return the texts of its findings by check."""
    report = json.loads(machine.run(PROGRAM, "doctor", "--json", expect=1, sees_others=False))
    found: dict[str, list[str]] = {}
    for finding in report["findings"]:
        if finding["level"] in levels:
            found.setdefault(finding["check"], []).append(finding["text"])
    return found


def test_keys_and_a_changed_configuration_file_stay(built: Built, bookworm: Machine) -> None:
    package = bookworm.add(built.find("ctd-decoder_*.deb"))
    bookworm.run("dpkg", "--install", package)
    key, configuration = bookworm.root / KEYS / "mine.pem", bookworm.root / _CONFIGURATION
    key.write_text("a key")
    configuration.write_text('{"key-providers": {"mine": {"native": "local"}}}')
    bookworm.run("dpkg", "--install", package)
    assert "mine" in configuration.read_text()
    assert "were kept" in bookworm.run("dpkg", "--purge", "ctd-decoder")
    assert key.read_text() == "a key"
    assert not configuration.exists()


def test_modes_of_what_is_secret(built: Built, bookworm: Machine) -> None:
    bookworm.run("dpkg", "--install", bookworm.add(built.find("ctd-decoder_*.deb")))
    files = bookworm.files()
    assert files[KEYS] == "drwx------ 0:0"
    assert files[_CONFIGURATION].startswith("-rw------- 0:0")


def test_imgcrypt_steps_aside_and_comes_back(
    built: Built, layer_files: Path, bookworm: Machine, tmp_path: Path
) -> None:
    imgcrypt = _package_of_imgcrypt(tmp_path)
    bookworm.run("dpkg", "--install", bookworm.add(imgcrypt))
    program = bookworm.root / "usr/bin/ctd-decoder"
    theirs = program.read_bytes()
    package = bookworm.add(built.find("ctd-decoder_*.deb"))
    bookworm.run("dpkg", "--install", package)
    assert program.is_symlink()
    assert bookworm.decrypt(layer_files)
    bookworm.run("dpkg", "--install", f"/{imgcrypt.name}")  # its own upgrade does not put its program back
    assert program.is_symlink()
    bookworm.run("dpkg", "--remove", "ctd-decoder")
    assert program.read_bytes() == theirs
    assert "ctd-decoder" not in bookworm.run("dpkg-divert", "--list", "*ctd-decoder*")


def test_the_agent_decrypts_for_the_installed_program(built: Built, layer_files: Path, bookworm: Machine) -> None:
    """With the program itself moved away only the agent can; without both there is an error."""
    bookworm.run("dpkg", "--install", bookworm.add(built.find("ctd-decoder_*.deb")))
    shutil.copytree(layer_files, bookworm.root / "layer")
    shutil.copy(layer_files / "key.pem", bookworm.root / KEYS)
    bookworm.run("/bin/sh", "-c", _THROUGH_THE_AGENT)
    assert (bookworm.root / "layer/decrypted").read_bytes() == (layer_files / "plaintext").read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        "dpkg --remove ctd-decoder",
        "dpkg --install /{package}",
        "rm -r /usr/lib/ctd-decoder",
        "rm -r /run/ctd-decoder",
    ],
)
def test_the_agent_ends_with_the_package(change: str, built: Built, layer_files: Path, bookworm: Machine) -> None:
    """On an upgrade and a removal at once; where files just vanish after some seconds."""
    package = built.find("ctd-decoder_*.deb")
    bookworm.run("dpkg", "--install", bookworm.add(package))
    assert bookworm.decrypt(layer_files)
    (status,) = agents(bookworm)
    bookworm.run("/bin/sh", "-c", change.format(package=package.name))
    wait_until(lambda: not is_running(status["pid"]))
    assert not list((bookworm.root / "run").glob("ctd-decoder/*"))


def agents(machine: Machine) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []

    def is_there() -> bool:
        found[:] = json.loads(machine.run(PROGRAM, "agent", "status", "--json"))
        return bool(found)

    wait_until(is_there)
    return found


def test_the_libraries_of_key_services_are_found(built: Built, bookworm: Machine) -> None:
    """Without them a provider says that its library is missing; with them it gets as far as its options."""
    bookworm.run("dpkg", "--install", bookworm.add(built.find("ctd-decoder_*.deb")))
    serve = (PROGRAM, "keyprovider", "serve", "--provider", "local", "--listen", "unix:///run/keys.sock")
    assert "the Python module grpc is not installed" in bookworm.run(*serve, expect=6)
    bookworm.run("dpkg", "--install", bookworm.add(built.find("ctd-decoder-providers_*.deb")))
    assert "grpcio" not in bookworm.run(*serve, expect=2)


def test_an_upgrade_keeps_what_is_the_operator_s(
    built: Built, layer_files: Path, bookworm: Machine, tmp_path: Path
) -> None:
    current = bookworm.add(built.find("ctd-decoder_*.deb"))
    bookworm.run("dpkg", "--install", bookworm.add(_repack(built, tmp_path, ("Version: ", "Version: 0~"))))
    key, configuration = bookworm.root / KEYS / "mine.pem", bookworm.root / _CONFIGURATION
    key.write_text("a key")
    configuration.write_text('{"key-providers": {"mine": {"native": "local"}}}')
    bookworm.run("dpkg", "--install", current)
    assert key.read_text() == "a key"
    assert "mine" in configuration.read_text()
    assert bookworm.decrypt(layer_files)
    assert bookworm.run("dpkg-divert", "--list", "/usr/bin/ctd-decoder").count("\n") == 1
    stale = [name for name in bookworm.files() if name.endswith((".dpkg-new", ".dpkg-tmp"))]
    assert not stale


def test_another_architecture_is_refused(built: Built, bookworm: Machine, tmp_path: Path) -> None:
    foreign = bookworm.add(_repack(built, tmp_path, ("Architecture: amd64", "Architecture: arm64")))
    refused = bookworm.run("dpkg", "--install", foreign, expect=1)
    assert "package architecture (arm64) does not match system (amd64)" in refused


def test_a_system_without_glibc_is_refused_before_anything_is_unpacked(built: Built, bookworm: Machine) -> None:
    """Even when somebody forces what the dependency forbids."""
    before = bookworm.files()
    getconf = bookworm.root / "usr/bin/getconf"
    getconf.write_text("#!/bin/sh\necho 'getconf: GNU_LIBC_VERSION: unknown variable' >&2\nexit 1\n")
    package = bookworm.add(built.find("ctd-decoder_*.deb"))
    refused = bookworm.run("dpkg", "--force-depends", "--install", package, expect=1)
    assert "needs the GNU C library" in refused
    left = bookworm.files().keys() - before.keys()
    assert left == {package.removeprefix("/")}


def _repack(built: Built, directory: Path, change: tuple[str, str]) -> Path:
    """Pack the package again with something else in its control file."""
    tree, package = directory / "tree", directory / "repacked.deb"
    subprocess.run(["dpkg-deb", "--raw-extract", built.find("ctd-decoder_*.deb"), tree], check=True)
    control = tree / "DEBIAN/control"
    text = control.read_text()
    assert change[0] in text
    control.write_text(text.replace(*change))
    subprocess.run(["dpkg-deb", "--build", "--root-owner-group", "-Znone", tree, package], check=True)
    return package


def _package_of_imgcrypt(directory: Path) -> Path:
    """Pack Debian's program of that name as its package has it."""
    tree = directory / "imgcrypt"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "usr/bin").mkdir(parents=True)
    (tree / "usr/bin/ctd-decoder").write_bytes(_IMGCRYPT.read_bytes())
    (tree / "usr/bin/ctd-decoder").chmod(0o755)
    control = "Package: imgcrypt\nVersion: 1\nArchitecture: amd64\nMaintainer: a <a@b.c>\nDescription: d\n"
    (tree / "DEBIAN/control").write_text(control)
    package = directory / "imgcrypt.deb"
    command: list[str | Path] = ["dpkg-deb", "--build", "--root-owner-group", "-Znone", tree, package]
    subprocess.run(command, check=True, capture_output=True)
    return package
