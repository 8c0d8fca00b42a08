"""From the sources to packages: interpreter, dependencies, documentation, then nfpm."""

from __future__ import annotations

import argparse
import filecmp
import os
import shutil
from pathlib import Path

from assemble import dependencies, documents, interpreter, inventory
from assemble.places import CACHE, GLIBC, LIBRARY, MACHINES, MAINTAINER, NATIVE, PACKAGING, ROOT, run, tool

# What belongs to the program itself. All other extras are for key services: the second package.
_CORE_EXTRAS = {"pgp", "pkcs11", "openssh", "image", "agent"}


def main() -> None:
    """Build the packages for the architectures on the command line."""
    parser = argparse.ArgumentParser(prog="packaging/build", description=__doc__)
    parser.add_argument("architectures", nargs="*", metavar="amd64|arm64", help=f"by default {NATIVE}")
    parser.add_argument(
        "--output", type=Path, default=ROOT / "dist", metavar="DIR", help="where the packages go (dist)"
    )
    arguments = parser.parse_args()
    architectures = arguments.architectures or [NATIVE]
    if unknown := set(architectures) - set(MACHINES):
        parser.error(f"cannot build for {', '.join(sorted(unknown))}; only for {', '.join(MACHINES)}")
    arguments.output.mkdir(parents=True, exist_ok=True)
    wheel = dependencies.build_wheel()
    if NATIVE not in architectures:
        _lay_interpreter(NATIVE)  # it compiles the modules
    for architecture in sorted(architectures, key=lambda name: name != NATIVE):
        _build(architecture, wheel, arguments.output.resolve())


def _build(architecture: str, wheel: Path, output: Path) -> None:
    stage = CACHE / f"stage-{architecture}"
    shutil.rmtree(stage, ignore_errors=True)
    tree, providers, share = stage / "tree", stage / "providers", stage / "share"
    unless_run = shutil.ignore_patterns("__pycache__")
    shutil.copytree(_lay_interpreter(architecture), tree, symlinks=True, ignore=unless_run)
    core = dependencies.resolve(wheel, _CORE_EXTRAS & dependencies.extras(), architecture)
    every = dependencies.resolve(wheel, dependencies.extras(), architecture)
    site, beside = tree / LIBRARY / "site-packages", providers / LIBRARY / "provider-packages"
    dependencies.install(wheel, core, site, architecture)
    dependencies.install(wheel, every, beside, architecture)
    _remove_common(beside, site)
    added = [item for item in every if item not in core]
    packages = inventory.debian_packages(architecture)
    version = wheel.name.split("-")[1]
    documents.write(share, version)
    for name, items, directory, origin in (
        ("ctd-decoder", core, site, packages),
        ("ctd-decoder-providers", added, beside, []),
    ):
        prefix = name.removeprefix("ctd-decoder").removeprefix("-")
        prefix += "-" if prefix else ""
        (share / f"{prefix}sbom.cdx.json").write_bytes(inventory.sbom(name, version, items, origin, architecture))
        (share / f"{prefix}copyright").write_text(inventory.notices(items, directory, origin, architecture))
        (share / f"{prefix}changelog.Debian.gz").write_bytes(documents.debian_changelog(name, version))
    interpreter.strip_all(site, architecture)
    interpreter.compile_all(tree / LIBRARY, tree)
    if added:
        interpreter.strip_all(beside, architecture)
        interpreter.compile_all(beside, providers)
    _set_modes_and_times(stage)
    for description in ("nfpm.yaml", "nfpm-providers.yaml") if added else ("nfpm.yaml",):
        _package(PACKAGING / description, stage, architecture, version, output)


def _lay_interpreter(architecture: str) -> Path:
    """Lay out the interpreter; it is made anew when what makes it has changed."""
    tree = CACHE / f"tree-{architecture}"
    sources = [
        PACKAGING / "fetch-interpreter",
        *(PACKAGING / name for name in ("assemble/launcher.c", "assemble/interpreter.py", "client/client.c")),
    ]
    stamp = CACHE / f"tree-{architecture}.stamp"
    content = "\n".join(path.read_text() for path in sources)
    if not stamp.exists() or stamp.read_text() != content:
        shutil.rmtree(tree, ignore_errors=True)
        interpreter.build(architecture, tree)
        stamp.write_text(content)
    return tree


def _remove_common(directory: Path, other: Path) -> None:
    """Remove the files that another directory has too, and directories that are empty then."""
    for path in sorted(directory.rglob("*"), reverse=True):
        if path.is_dir():
            if not any(path.iterdir()):
                path.rmdir()
        elif (twin := other / path.relative_to(directory)).exists() and filecmp.cmp(path, twin, shallow=False):
            path.unlink()


def _set_modes_and_times(stage: Path) -> None:
    """Give every file the one time, and the mode that policy asks for: only programs can be executed."""
    epoch = int(os.environ["SOURCE_DATE_EPOCH"])
    for path in stage.rglob("*"):
        os.utime(path, (epoch, epoch), follow_symlinks=False)
        if path.is_symlink():
            continue
        is_program = path.is_dir() or path.parent.name in ("bin", "scripts")
        path.chmod(0o755 if is_program else 0o644)


def _package(description: Path, stage: Path, architecture: str, version: str, output: Path) -> None:
    glibc = ".".join(map(str, GLIBC))
    values = {"ARCHITECTURE": architecture, "VERSION": version, "GLIBC": glibc, "MAINTAINER": MAINTAINER}
    expanded = stage / description.name
    text = description.read_text()
    for name, value in values.items():
        text = text.replace(f"${{{name}}}", value)
    expanded.write_text(text + f"mtime: {_iso_date()}\n")
    for packager in ("deb", "rpm"):
        run(tool("nfpm"), "package", "--config", expanded, "--packager", packager, "--target", output, directory=stage)


def _iso_date() -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), UTC).isoformat()


if __name__ == "__main__":
    main()
