"""The repositories of `make repository`, as apt and dnf read them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.program.processes import ROOT

if TYPE_CHECKING:
    from tests.support.packaging.packages import Built

_ADDRESS = "packages@example.org"


@pytest.fixture(scope="module")
def repository(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The repositories, signed with a key that is made for them."""
    home = tmp_path_factory.mktemp("gnupg")
    home.chmod(0o700)
    environment = {**os.environ, "GNUPGHOME": str(home)}
    generate = [
        "gpg",
        "--batch",
        "--quiet",
        "--passphrase",
        "",
        "--quick-generate-key",
        _ADDRESS,
        "ed25519",
        "sign",
        "never",
    ]
    subprocess.run(generate, check=True, env=environment)
    target = tmp_path_factory.mktemp("repository") / "made"
    command: list[str | Path] = [ROOT / "packaging/repository", _ADDRESS, built.directory, target]
    made = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    yield target
    subprocess.run(["gpgconf", "--kill", "gpg-agent"], check=False, env=environment)


def update_apt(repository: Path, directory: Path) -> subprocess.CompletedProcess[str]:
    """Let an apt that knows nothing else read the repository and fetch the package to a directory."""
    for name in ("lists/partial", "archives/partial"):
        (directory / name).mkdir(parents=True)
    (directory / "status").touch()
    source = f"deb [signed-by={repository / 'key.asc'}] file://{repository / 'deb'} stable main\n"
    (directory / "sources.list").write_text(source)
    settings = {
        "Dir::Etc::sourcelist": directory / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": directory / "lists",
        "Dir::State::status": directory / "status",
        "Dir::Cache": directory,
        "APT::Sandbox::User": "root",
        "APT::Architecture": "amd64",
        "APT::Architectures": "amd64",
    }
    options = " ".join(f"-o {name}={value}" for name, value in settings.items())
    script = f"apt-get {options} --error-on=any update && apt-get {options} download ctd-decoder"
    return subprocess.run(["sh", "-c", script], cwd=directory, capture_output=True, text=True, check=False)


def update_dnf(repository: Path, directory: Path) -> subprocess.CompletedProcess[str]:
    """Let a dnf that knows nothing else read the repository and list its packages."""
    settings = {
        "name": "ctd-decoder",
        "baseurl": f"file://{repository / 'rpm'}",
        "gpgkey": f"file://{repository / 'key.asc'}",
        "gpgcheck": 1,
        "repo_gpgcheck": 1,
    }
    lines = ["[ctd-decoder]", *(f"{name}={value}" for name, value in settings.items())]
    (directory / "ctd-decoder.repo").write_text("\n".join(lines) + "\n")
    options = [
        f"--setopt=reposdir={directory}",
        f"--setopt=cachedir={directory / 'cache'}",
        f"--installroot={directory}",
    ]
    command = ["dnf", "--assumeyes", "--releasever=1", *options, "repoquery", "--qf", "%{name} %{license}"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_apt_verifies_and_fetches(repository: Path, tmp_path: Path) -> None:
    done = update_apt(repository, tmp_path)
    assert done.returncode == 0, done.stderr
    (package,) = tmp_path.glob("ctd-decoder_*.deb")
    assert package.read_bytes() == next((repository / "deb/pool").glob("ctd-decoder_*.deb")).read_bytes()


def test_apt_rejects_a_changed_index(repository: Path, tmp_path: Path) -> None:
    changed = Path(shutil.copytree(repository, tmp_path / "changed"))
    index = changed / "deb/dists/stable/InRelease"
    index.write_text(index.read_text().replace("Label: ctd-decoder", "Label: ctd-decodes"))
    (tmp_path / "apt").mkdir()
    assert update_apt(changed, tmp_path / "apt").returncode != 0


def test_dnf_verifies_and_lists(repository: Path, tmp_path: Path) -> None:
    done = update_dnf(repository, tmp_path)
    assert done.returncode == 0, done.stderr
    assert {line.split()[0] for line in done.stdout.splitlines() if line} == {"ctd-decoder", "ctd-decoder-providers"}
    assert "LGPL-3.0-or-later" in done.stdout


def test_dnf_rejects_changed_metadata(repository: Path, tmp_path: Path) -> None:
    changed = Path(shutil.copytree(repository, tmp_path / "changed"))
    metadata = changed / "rpm/repodata/repomd.xml"
    metadata.write_text(metadata.read_text().replace("<revision>", "<revision>1"))
    (tmp_path / "dnf").mkdir()
    done = update_dnf(changed, tmp_path / "dnf")
    assert (done.stdout, "Bad GPG signature" in done.stderr) == ("", True)  # dnf ignores the repository


def test_packages_for_dnf_are_signed(repository: Path, tmp_path: Path) -> None:
    subprocess.run(["rpm", "--dbpath", tmp_path, "--import", repository / "key.asc"], check=True)
    for package in (repository / "rpm").glob("*.rpm"):
        checked = subprocess.run(
            ["rpm", "--dbpath", tmp_path, "--checksig", package], capture_output=True, text=True, check=False
        )
        assert (checked.returncode, "signatures OK" in checked.stdout) == (0, True), checked.stdout


def test_it_says_what_is_missing(tmp_path: Path) -> None:
    command: list[str | Path] = [ROOT / "packaging/repository", "nobody@example.org", tmp_path]
    environment = {**os.environ, "GNUPGHOME": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "GnuPG has no secret key nobody@example.org\n")
