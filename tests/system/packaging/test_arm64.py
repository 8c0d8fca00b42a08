"""The packages for arm64, which an emulator of that processor runs with Debian's C library."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from decoder import __version__
from tests.support.packaging.packages import check_with, unpack_tree

if TYPE_CHECKING:
    from tests.support.packaging.packages import Built

SECONDS = 600
_WRAPPER = """#!/bin/sh
exec qemu-aarch64-static -0 "$0" {} "$@"
"""


@pytest.fixture(scope="module")
def tree(built_arm64: Built, images_made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with the packages, and the C library of the portable tree where theirs looks for it."""
    root = tmp_path_factory.mktemp("arm64")
    for package in built_arm64.directory.glob("*.deb"):
        subprocess.run(["dpkg-deb", "--extract", package, root], check=True)
    scratch = tmp_path_factory.mktemp("own")
    (unpack_tree(images_made, "arm64", scratch) / "libc").rename(root / "lib")
    (root / "lib/ctd-decoder").unlink()
    return root


def test_every_program_is_of_that_processor(tree: Path) -> None:
    programs = [path for path in (tree / "usr").rglob("*") if path.is_file() and path.read_bytes()[:4] == b"\x7fELF"]
    assert len(programs) > 20
    for program in programs:
        assert program.read_bytes()[18:20] == (183).to_bytes(2, "little"), program  # EM_AARCH64, elf.h


def test_the_vectors_are_decrypted(tree: Path, tmp_path: Path) -> None:
    program = tmp_path / "ctd-decoder"
    program.write_text(_WRAPPER.format(f"-L {tree} {tree}/usr/lib/ctd-decoder/bin/ctd-decoder"))
    program.chmod(0o755)
    assert _run(program) == f"ctd-decoder {__version__}\n"
    check_with(program, "tests/unit/test_vectors.py")


def test_the_program_of_the_tree_starts_with_its_own_library(images_made: Path, tmp_path: Path) -> None:
    own = unpack_tree(images_made, "arm64", tmp_path) / "libc"
    program = tmp_path / "ctd-decoder"
    program.write_text(_WRAPPER.format(f"{own}/ld-linux-aarch64.so.1 --library-path {own} {own}/ctd-decoder"))
    program.chmod(0o755)
    assert _run(program) == f"ctd-decoder {__version__}\n"


def _run(program: Path) -> str:
    return subprocess.run([program, "--version"], capture_output=True, text=True, timeout=SECONDS, check=True).stdout
