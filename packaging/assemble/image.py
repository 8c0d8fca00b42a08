"""Build OCI images, and the tree for machines without packages, from the packages that packaging/build made.

The image holds the tree with its own C library, the certificates of public CAs and install-on-node, and neither a
shell nor a package manager; the one whose tag ends in -shell has busybox as well.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from assemble import archives, debian, portable
from assemble.places import LIBRARY, MACHINES, NATIVE, PACKAGING, PREFIX, ROOT

_USER = 65532  # as in other images without a shell
_BUNDLE = "etc/ssl/certs/ca-certificates.crt"
_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/sbin/nologin\n"
    f"nonroot:x:{_USER}:{_USER}:nonroot:/home/nonroot:/sbin/nologin\n",
    "etc/group": f"root:x:0:\nnonroot:x:{_USER}:\n",
    "etc/nsswitch.conf": "hosts: files dns\n",
}
_STATUS = "var/lib/dpkg/status.d"  # where scanners of images look


def main() -> int:
    """Build the images and trees for the architectures on the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="packaging/image", description=__doc__)
    parser.add_argument(
        "architectures", nargs="*", metavar="amd64|arm64", help="by default all for which there are packages"
    )
    parser.add_argument("--packages", type=Path, default=ROOT / "dist", metavar="DIR", help="where they are (dist)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where the files go, by default beside the packages")
    arguments = parser.parse_args()
    chosen = arguments.architectures or [
        name for name in MACHINES if list(arguments.packages.glob(f"ctd-decoder_*_{name}.deb"))
    ]
    if unknown := set(chosen) - set(MACHINES):
        parser.error(f"there is nothing for {', '.join(sorted(unknown))}; only for {', '.join(MACHINES)}")
    try:
        _make(arguments.packages, chosen, arguments.output or arguments.packages)
    except (portable.PackagesError, OSError) as error:
        print(f"packaging/image: error: {error}", file=sys.stderr)
        return 1
    return 0


def _make(packages: Path, architectures: list[str], output: Path) -> None:
    if not architectures:
        raise portable.PackagesError(f"{packages} has no packages: run packaging/build")
    found = {name: portable.find(packages, name) for name in architectures}
    versions = {files[0].name.split("_")[1].partition("-")[0] for files in found.values()}
    if len(versions) != 1:
        raise portable.PackagesError(f"{packages} has packages of several versions: {', '.join(sorted(versions))}")
    (version,) = versions
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output, prefix=".image-") as scratch:
        work = Path(scratch)
        layout = archives.Layout(work / "layout")
        for architecture, files in found.items():
            root = work / architecture
            portable.lay(packages, architecture, root)
            date = int((root / PREFIX / "libc/ctd-decoder").stat().st_mtime)
            tree = f"ctd-decoder-{version}-linux-{architecture}.tar.gz"
            archives.pack(root / PREFIX, output / tree, date, f"ctd-decoder-{version}")
            _add_system(root, architecture, files)
            program = layout.add_layer(root, date, {"home/nonroot": _USER})
            tools = layout.add_layer(_tools(work, architecture), date)
            config = _config(architecture, version, date)
            layout.add_manifest(version, [program], config)
            layout.add_manifest(f"{version}-shell", [program, tools], config)
        layout.write(output / f"ctd-decoder-{version}.oci.tar", date)


def _add_system(root: Path, architecture: str, packages: tuple[Path, Path]) -> None:
    """Add what a root file system needs to be an image."""
    certificates = debian.unpack("certificates", architecture, ("ca-certificates",))
    bundle = root / _BUNDLE
    bundle.parent.mkdir(parents=True)
    authorities = sorted((certificates / "usr/share/ca-certificates/mozilla").glob("*.crt"))
    bundle.write_text("".join(path.read_text().rstrip() + "\n" for path in authorities))
    for name, text in _FILES.items():
        (root / name).write_text(text)
    (root / "home/nonroot").mkdir(parents=True)
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)
    # Under this name the program runs that module and nothing else; there is no plain Python.
    for name in ("install_on_node.py", "kubernetes_api.py"):
        shutil.copy(PACKAGING / "kubernetes" / name, root / LIBRARY / "site-packages")
    (root / "usr/bin/install-on-node").symlink_to("../lib/ctd-decoder/bin/ctd-decoder")
    status = root / _STATUS
    status.mkdir(parents=True)
    origin = [*debian.files("libc", architecture), *debian.files("certificates", architecture)]
    for package in (*packages, *origin):
        described = subprocess.run(["dpkg-deb", "--field", package], check=True, capture_output=True, text=True).stdout
        (status / package.name.partition("_")[0]).write_text(described)


def _tools(work: Path, architecture: str) -> Path:
    """Lay out busybox, under the names of all its programs."""
    root = work / f"tools-{architecture}"
    system = debian.unpack("busybox", architecture, ("busybox-static",))
    (root / "bin").mkdir(parents=True)
    shutil.copyfile(system / "bin/busybox", root / "bin/busybox")
    (root / "bin/busybox").chmod(0o755)
    native = debian.unpack("busybox", NATIVE, ("busybox-static",)) / "bin/busybox"
    names = subprocess.run([native, "--list"], check=True, capture_output=True, text=True).stdout.split()
    for name in set(names) - {"busybox"}:
        (root / "bin" / name).symlink_to("busybox")
    return root


def _config(architecture: str, version: str, date: int) -> dict[str, object]:
    return {
        "created": datetime.fromtimestamp(date, UTC).isoformat().replace("+00:00", "Z"),
        "architecture": architecture,
        **({"variant": "v8"} if architecture == "arm64" else {}),
        "os": "linux",
        "config": {
            "User": f"{_USER}:{_USER}",
            "Env": ["PATH=/usr/bin:/bin", "HOME=/home/nonroot"],
            "Entrypoint": ["/usr/bin/ctd-decoder"],
            "WorkingDir": "/",
            "Labels": {
                "org.opencontainers.image.title": "ctd-decoder",
                "org.opencontainers.image.version": version,
                "org.opencontainers.image.licenses": "Apache-2.0",
            },
        },
    }


if __name__ == "__main__":
    sys.exit(main())
