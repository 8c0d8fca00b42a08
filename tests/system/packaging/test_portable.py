"""The tree with its own C library: in a root that has musl and busybox alone, on a read-only /usr, and beside glibc."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.packaging import clean_roots
from tests.support.packaging.machines import KEYS
from tests.support.packaging.packages import unpack_tree
from tests.support.program.processes import ROOT

INSTALLED = "/opt/containerd/bin/ctd-decoder"
MUSL = Path("/usr/lib/x86_64-linux-musl/libc.so")
SECONDS = 120
_ENTER = """
mount --bind "$0/usr" "$0/usr"
mount -o remount,ro,bind "$0/usr"
mount -t proc proc "$0/proc"
mount --rbind /dev "$0/dev"
exec chroot "$0" "$@"
"""
_LAYER = f"{INSTALLED} --decryption-keys-path /{KEYS} 3</layer/payload </layer/ciphertext"


@pytest.fixture(scope="module")
def tree(images_made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree for this machine."""
    directory = tmp_path_factory.mktemp("tree")
    return unpack_tree(images_made, "amd64", directory)


def put_on(root: Path, tree: Path, layer_files: Path) -> Path:
    """Install the tree into a root as the Kubernetes manifests do, with a layer and its key."""
    command: list[str | Path] = [
        sys.executable,
        "-Es",
        ROOT / "packaging/kubernetes/install_on_node.py",
        "install",
    ]
    subprocess.run([*command, "--tree", tree, "--into", root / "opt/containerd"], check=True, timeout=SECONDS)
    shutil.copytree(layer_files, root / "layer")
    keys = root / KEYS
    keys.mkdir(parents=True)
    shutil.copy(layer_files / "key.pem", keys)
    (keys / "key.pem").chmod(0o600)
    return root


@pytest.fixture
def without_glibc(tree: Path, layer_files: Path, tmp_path: Path) -> Path:
    """A root in which programs are linked with musl, or static."""
    root = tmp_path / "root"
    for name in ("bin", "lib", "usr/lib", "proc", "run", "tmp", "dev"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for name in ("sh", "cat", "ls"):
        (root / "bin" / name).symlink_to("busybox")
    shutil.copy(MUSL, root / "lib/ld-musl-x86_64.so.1")
    return put_on(root, tree, layer_files)


def enter(root: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a root whose /usr cannot be written to."""
    return subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-euc", _ENTER, str(root), *command],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **environment},
    )


def decrypts(root: Path, script: str = _LAYER, **environment: str) -> bool:
    done = enter(root, "/bin/sh", "-c", f"{script} >/layer/decrypted", **environment)
    assert (done.returncode, done.stderr) == (0, "")
    return (root / "layer/decrypted").read_bytes() == (root / "layer/plaintext").read_bytes()


def test_usr_is_read_only(without_glibc: Path) -> None:
    assert "Read-only" in enter(without_glibc, "/bin/sh", "-c", "echo >/usr/new").stderr


@pytest.mark.parametrize("agent", ["off", "on"])
def test_layers_are_decrypted_without_glibc(agent: str, without_glibc: Path) -> None:
    twice = f"{_LAYER} >/dev/null && {_LAYER}"
    assert decrypts(without_glibc, twice, CTD_DECODER_AGENT=agent)


@pytest.mark.parametrize("provider", ["gcpkms", "awskms", "openbao"])
def test_the_libraries_of_key_services_can_be_loaded(provider: str, without_glibc: Path) -> None:
    options = {"awskms": "--key alias/a", "openbao": "--address https://127.0.0.1:1"}.get(provider, "")
    script = f"echo '{{}}' | {INSTALLED} keyprovider run --provider {provider} {options}"
    done = enter(without_glibc, "/bin/sh", "-c", script)
    assert done.returncode in (2, 6), done.stderr
    assert not re.search("not installed|cannot be loaded|internal error", done.stderr)


def test_what_looks_like_glibc_is_not_used(without_glibc: Path) -> None:
    """As gcompat on Alpine has it: the loader's name, and libraries that hold no version."""
    (without_glibc / "lib64").mkdir()
    for name in ("lib64/ld-linux-x86-64.so.2", "lib/libc.so.6", "lib/libgcc_s.so.1", "lib/libstdc++.so.6"):
        shutil.copy(MUSL, without_glibc / name)
        (without_glibc / name).chmod(0o755)
    assert decrypts(without_glibc, CTD_DECODER_AGENT="off")


@pytest.mark.parametrize(
    ("missing", "whose"), [("", "/lib/x86_64-linux-gnu/libc.so.6"), ("libstdc++.so.6", "/libc/libc.so.6")]
)
def test_the_glibc_of_the_machine_is_used_if_all_is_there(
    missing: str, whose: str, tree: Path, layer_files: Path, tmp_path: Path
) -> None:
    root = put_on(clean_roots.copy("bookworm", tmp_path), tree, layer_files)
    if missing:
        (root / "usr/lib/x86_64-linux-gnu" / missing).unlink()
    loaded = enter(root, INSTALLED, "--version", LD_DEBUG="libs", CTD_DECODER_AGENT="off").stderr
    assert re.search(rf"calling init: \S*{re.escape(whose)}$", loaded, re.MULTILINE), loaded[-2000:]
    assert decrypts(root, CTD_DECODER_AGENT="off")


def test_the_licences_of_the_libraries_are_beside_them(tree: Path) -> None:
    text = (tree / "libc/COPYING").read_text()
    for name in ("libc6 2.36", "libstdc++6 12", "GNU Lesser General Public", "Runtime Library Exception"):
        assert name in text
