"""Add a C library to the packages' tree, for machines without glibc or with an older one, and for the image."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from assemble import debian
from assemble.interpreter import zig
from assemble.places import CACHE, GLIBC, MACHINES, PACKAGING, PREFIX

# Debian's C library, and the libraries of GCC that the wheels are linked with.
PACKAGES = ("libc6", "libgcc-s1", "libstdc++6", "gcc-12-base")
_LIBRARIES = (
    *("libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libutil.so.1", "libresolv.so.2"),
    *("libnss_dns.so.2", "libnss_files.so.2", "libgcc_s.so.1", "libstdc++.so.6"),
)
_LOADERS = {"amd64": "ld-linux-x86-64.so.2", "arm64": "ld-linux-aarch64.so.1"}
_NOTICE = """\
The files here are parts of Debian's packages {packages}, unchanged.
Their sources are public, at https://sources.debian.org. You may replace the libraries.
"""


class PackagesError(Exception):
    """The packages to take the tree from are not there."""


def find(directory: Path, architecture: str) -> tuple[Path, Path]:
    """Find the two Debian packages of one version.

    Raises:
        PackagesError: there is none, or more than one version.
    """
    names = (f"ctd-decoder_*_{architecture}.deb", f"ctd-decoder-providers_*_{architecture}.deb")
    found = [path for name in names for path in directory.glob(name)]
    if len(found) != len(names) or found[0].name.split("_")[1] != found[1].name.split("_")[1]:
        text = f"{directory} does not hold one version of the two packages for {architecture}"
        raise PackagesError(f"{text}: run packaging/build {architecture}")
    return found[0], found[1]


def lay(directory: Path, architecture: str, root: Path) -> None:
    """Unpack the packages, and put the C library into their tree.

    Args:
        directory: the directory with the packages.
        architecture: amd64 or arm64.
        root: the root directory of their files, which is made.

    Raises:
        PackagesError: see `find`.
        subprocess.CalledProcessError: a tool failed.
    """
    for package in find(directory, architecture):
        subprocess.run(["dpkg-deb", "--extract", package, root], check=True)
    system = debian.unpack("libc", architecture, PACKAGES)
    tree = root / PREFIX
    own = tree / "libc"
    own.mkdir()
    (tree / "bin/ctd-decoder").rename(own / "ctd-decoder")
    machine = MACHINES[architecture]
    loader = _LOADERS[architecture]
    for name in (*_LIBRARIES, loader):
        (source, *_) = [path for path in system.glob(f"**/{machine}-linux-gnu/{name}") if path.is_file()]
        shutil.copyfile(source, own / name)
        (own / name).chmod(0o644)
    for name in (loader, "ctd-decoder"):
        (own / name).chmod(0o755)
    (own / "COPYING").write_text(_notices(system, architecture))
    options = ["-Os", "-static", f'-DGLIBC="{GLIBC[0]}.{GLIBC[1]}"']
    zig(f"{machine}-linux-musl", *options, PACKAGING / "assemble/loader.c", "-o", tree / "bin/ctd-decoder")
    (tree / "bin/ctd-decoder").chmod(0o755)


def _notices(system: Path, architecture: str) -> str:
    versions = (CACHE / f"libc-{architecture}/versions").read_text().splitlines()
    packages = ", ".join(" ".join(line.split()[:2]) for line in versions)
    texts = [(system / f"usr/share/doc/{name}/copyright").read_text() for name in ("libc6", "gcc-12-base")]
    return f"\n{'=' * 78}\n\n".join([_NOTICE.format(packages=packages), *texts])
