"""What is in the packages, and that the same comes out of the same."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from reference import man

from decoder.arguments import USAGE
from tests.support.packaging.packages import Built, build
from tests.support.program.processes import ROOT

_GLIBC = (2, 28)
_CORE_BYTES = 60 * 1000 * 1000


@pytest.fixture(scope="module")
def tree(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All files of the Debian packages."""
    directory = tmp_path_factory.mktemp("tree")
    for package in built.directory.glob("*.deb"):
        subprocess.run(["dpkg-deb", "--extract", package, directory], check=True)
    return directory


def test_the_same_sources_give_the_same_bytes(built: Built, tmp_path: Path) -> None:
    again = build(tmp_path)
    names = sorted(path.name for path in built.directory.iterdir())
    assert len(names) == 4
    assert names == sorted(path.name for path in again.directory.iterdir())
    for name in names:
        assert (built.directory / name).read_bytes() == (again.directory / name).read_bytes(), name


def test_the_core_is_small(built: Built) -> None:
    field: list[str | Path] = ["dpkg-deb", "--field", built.find("ctd-decoder_*.deb"), "Installed-Size"]
    kibibytes = int(subprocess.run(field, check=True, capture_output=True, text=True).stdout)
    assert 0 < kibibytes * 1024 <= _CORE_BYTES


def test_no_program_or_library_needs_a_newer_libc(tree: Path) -> None:
    programs = [path for path in tree.rglob("*") if path.is_file() and path.read_bytes()[:4] == b"\x7fELF"]
    assert len(programs) > 20
    for program in programs:
        needs = subprocess.run(["objdump", "-T", program], check=False, capture_output=True, text=True).stdout
        assert "no symbols" not in needs or program.resolve().name == "client", program  # it has no libraries
        versions = {(int(major), int(minor)) for major, minor in re.findall(r"GLIBC_([0-9]+)\.([0-9]+)", needs)}
        assert max(versions, default=(0, 0)) <= _GLIBC, program


@pytest.mark.parametrize(
    ("package", "libraries"),
    [
        ("ctd-decoder_", {"libgcc_s.so.1"}),
        ("ctd-decoder-providers_", {"libstdc++.so.6"}),
    ],
)
def test_what_is_linked_and_not_bundled_is_a_dependency(
    package: str, libraries: set[str], built: Built, tmp_path: Path
) -> None:
    subprocess.run(["dpkg-deb", "--extract", built.find(f"{package}*.deb"), tmp_path], check=True)
    programs = [path for path in tmp_path.rglob("*") if path.is_file() and path.read_bytes()[:4] == b"\x7fELF"]
    bundled = {path.name for path in programs}
    needed = set()
    for program in programs:
        shown = subprocess.run(["objdump", "-p", program], check=True, capture_output=True, text=True).stdout
        needed |= set(re.findall(r"^ +NEEDED +(\S+)$", shown, re.MULTILINE))
    of_libc = {"libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libutil.so.1"}
    assert {name for name in needed - bundled - of_libc if not name.startswith("ld-linux")} == libraries
    field: list[str | Path] = ["dpkg-deb", "--field", built.find(f"{package}*.deb"), "Depends"]
    depends = subprocess.run(field, check=True, capture_output=True, text=True).stdout
    for library, of_debian in (("libgcc_s.so.1", "libgcc-s1"), ("libstdc++.so.6", "libstdc++6")):
        assert (of_debian in depends) == (library in libraries)


def test_everything_bundled_is_named_with_its_licence(tree: Path) -> None:
    documents = tree / "usr/share/doc"
    for package, bill in (("ctd-decoder", "sbom"), ("ctd-decoder-providers", "providers-sbom")):
        sbom = json.loads((tree / f"usr/share/ctd-decoder/{bill}.cdx.json").read_text())
        assert (sbom["bomFormat"], sbom["specVersion"]) == ("CycloneDX", "1.5")
        notices = (documents / package / "copyright").read_text()
        for component in sbom["components"]:
            source = [item["value"] for item in component.get("properties", [])]
            assert any(f"\n{name} " in notices for name in (component["name"], *source)), component["name"]
    named = {
        component["name"].lower().replace("-", "_").replace(".", "_")
        for path in (tree / "usr/share/ctd-decoder").glob("*.cdx.json")
        for component in json.loads(path.read_text())["components"]
    }
    installed = {path.name.split("-")[0].lower().replace(".", "_") for path in tree.rglob("*.dist-info")}
    assert installed - {"ctd_decoder"} <= named
    assert "cryptography" in installed


def test_manual_pages_are_clean(tree: Path) -> None:
    pages = sorted((tree / "usr/share/man").rglob("*.gz"))
    assert [page.name.removesuffix(".gz") for page in pages] == sorted(man.pages(0))
    for page in pages:
        lint = subprocess.run(
            ["mandoc", "-T", "lint", "-W", "warning", page], capture_output=True, text=True, check=False
        )
        assert lint.stdout == ""


@pytest.mark.parametrize(
    "file",
    [
        "bash-completion/completions/ctd-decoder",
        "zsh/vendor-completions/_ctd-decoder",
        "fish/vendor_completions.d/ctd-decoder.fish",
    ],
)
def test_completions_name_every_option(file: str, tree: Path) -> None:
    text = (tree / "usr/share" / file).read_text()
    for option in set(re.findall(r"--([a-z-]+)", USAGE)):
        assert re.search(rf"(--|-l ){option}\b", text), option


def test_the_unit_is_valid_and_confined(tree: Path) -> None:
    unit = tree / "usr/lib/systemd/system/ctd-decoder-keyprovider@.service"
    verified = subprocess.run(
        ["systemd-analyze", "--root", tree, "--man=no", "--recursive-errors=no", "verify", unit.name],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (verified.returncode, verified.stderr) == (0, "")
    security = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=15", unit], capture_output=True, check=False
    )
    assert security.returncode == 0, security.stdout  # an exposure of at most 1.5 of 10


def test_lintian_finds_nothing(built: Built) -> None:
    packages = sorted(built.directory.glob("*.deb"))
    result = subprocess.run(
        ["lintian", "--allow-root", "--fail-on", "error,warning", *packages],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout) == (0, "")


def test_rpmlint_finds_nothing(built: Built) -> None:
    packages = sorted(built.directory.glob("*.rpm"))
    command: list[str | Path] = ["rpmlint", "--config", ROOT / "packaging/rpmlint.toml", *packages]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
    assert "0 errors, 0 warnings" in result.stdout
