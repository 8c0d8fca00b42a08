"""The .rpm in a root without Python."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.packaging import clean_roots
from tests.support.packaging.machines import KEYS, Machine

if TYPE_CHECKING:
    from tests.support.packaging.packages import Built


def test_it_is_installed_used_and_erased(built: Built, layer_files: Path, tmp_path: Path) -> None:
    machine = Machine(clean_roots.copy("trixie", tmp_path))
    package = built.find("ctd-decoder-0*.rpm")
    before = machine.files()
    _rpm(machine, "--install", "--nodeps", str(package))  # no package of this root is in rpm's database
    assert machine.files()[KEYS] == "drwx------ 0:0"
    assert machine.decrypt(layer_files)
    _rpm(machine, "--erase", "--nodeps", "ctd-decoder")
    after = machine.files()
    assert {name: after[name] for name in before} == before
    left = {name: after[name] for name in after.keys() - before.keys()}
    assert all(mode.startswith("d") for mode in left.values()), left
    assert not [name for name in left if "ctd-decoder" in name or "ocicrypt" in name]


def test_it_says_which_libc_it_needs(built: Built, tmp_path: Path) -> None:
    machine = Machine(clean_roots.copy("trixie", tmp_path))
    refused = _rpm(machine, "--install", str(built.find("ctd-decoder-0*.rpm")), expect=1)
    assert "libc.so.6(GLIBC_2.28)(64bit) is needed by ctd-decoder" in refused


def _rpm(machine: Machine, *arguments: str, expect: int = 0) -> str:
    script = 'mount -t proc proc "$0/proc" && exec rpm --root "$0" --dbpath /var/lib/rpm "$@"'
    command = ["unshare", "--mount", "sh", "-c", script, str(machine.root), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == expect, result.stdout + result.stderr
    return result.stdout + result.stderr
