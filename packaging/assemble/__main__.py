"""Build packages from the sources: interpreter, dependencies, documentation, then nfpm."""

from __future__ import annotations

import argparse
import filecmp
import os
import shutil
from pathlib import Path

from assemble import dependencies, documents, frozen, interpreter, inventory
from assemble.places import (
    CACHE,
    GLIBC,
    LIBRARY,
    MACHINES,
    MAINTAINER,
    NATIVE,
    PACKAGING,
    PREFIX,
    ROOT,
    URL,
    run,
    tool,
)

_SUMMARIES = {
    "ctd-decoder": "Decrypt layers of encrypted container images for containerd",
    "ctd-decoder-providers": "Libraries of cloud key services for ctd-decoder",
}
# What belongs to the program itself. All other extras are for key services: the second package.
_CORE_EXTRAS = {"pgp", "pkcs11", "openssh", "image"}


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
    unless_run = shutil.ignore_patterns("__pycache__", interpreter.PLAIN)
    shutil.copytree(_lay_interpreter(architecture), tree, symlinks=True, ignore=unless_run)
    core = dependencies.resolve(wheel, _CORE_EXTRAS & dependencies.extras(), architecture)
    every = dependencies.resolve(wheel, dependencies.extras(), architecture)
    site, beside = tree / LIBRARY / "site-packages", providers / LIBRARY / "provider-packages"
    dependencies.install(wheel, core, site, architecture)
    dependencies.install(wheel, every, beside, architecture)
    core, every = (dependencies.with_metadata(items, beside) for items in (core, every))
    _remove_common(beside, site)
    added = [item for item in every if item not in core]
    packages = inventory.debian_packages(architecture)
    version = wheel.name.split("-")[1]
    documents.write(share)
    inventory.copy_sources(core, site, share / "source")
    bundled = {"ctd-decoder": (core, site, packages), "ctd-decoder-providers": (added, beside, [])}
    for name, (items, directory, origin) in bundled.items():
        prefix = name.removeprefix("ctd-decoder").removeprefix("-")
        prefix += "-" if prefix else ""
        (share / f"{prefix}sbom.cdx.json").write_bytes(inventory.sbom(name, version, items, origin, architecture))
        (share / f"{prefix}copyright").write_text(inventory.notices(items, directory, origin, architecture))
        (share / f"{prefix}changelog.Debian.gz").write_bytes(documents.debian_changelog(name, version))
    interpreter.strip_all(site, architecture)
    interpreter.compile_all(tree / LIBRARY, tree)
    frozen.write_table(tree / LIBRARY, stage / "frozen")
    interpreter.link_program(architecture, tree / PREFIX / "bin/ctd-decoder", stage / "frozen")
    if added:
        interpreter.strip_all(beside, architecture)
        interpreter.compile_all(beside, providers)
    _set_modes_and_times(stage)
    values = {"ARCHITECTURE": architecture, "VERSION": version, "GLIBC": ".".join(map(str, GLIBC))}
    for name, (items, _, origin) in bundled.items():
        if items:
            licences = inventory.all_licences(items, origin)
            _package(name, stage, {**values, "SUMMARY": _SUMMARIES[name], "LICENCES": licences}, output)


def _lay_interpreter(architecture: str) -> Path:
    """Lay out the interpreter; build it again if its sources have changed."""
    tree = CACHE / f"tree-{architecture}"
    sources = [
        PACKAGING / "fetch-debian",
        *(PACKAGING / name for name in ("assemble/launcher.c", "assemble/interpreter.py")),
        *sorted((PACKAGING / "client").iterdir()),
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
    """Set the time of every file, and the mode that policy asks for: only programs can be executed."""
    epoch = int(os.environ["SOURCE_DATE_EPOCH"])
    for path in stage.rglob("*"):
        os.utime(path, (epoch, epoch), follow_symlinks=False)
        if path.is_symlink():
            continue
        is_program = path.is_dir() or path.parent.name in ("bin", "scripts")
        path.chmod(0o755 if is_program else 0o644)


def _package(name: str, stage: Path, values: dict[str, str], output: Path) -> None:
    """Build the .deb and the .rpm of a package.

    Args:
        name: the name of the package.
        stage: the directory with its files.
        values: the values for the placeholders in its description.
        output: the directory for the packages.
    """
    description = f"nfpm{name.removeprefix('ctd-decoder')}.yaml"
    values |= {"HOMEPAGE": URL, "MAINTAINER": MAINTAINER}
    for packager, synopsis in (("deb", _uncapitalized(values["SUMMARY"])), ("rpm", "")):
        text = _filled((PACKAGING / description).read_text(), {**values, "SYNOPSIS": synopsis})
        (stage / description).write_text(text + f"mtime: {_iso_date()}\n")
        command = (tool("nfpm"), "package", "--config", stage / description, "--packager", packager)
        run(*command, "--target", output, directory=stage)


def _filled(text: str, values: dict[str, str]) -> str:
    """Fill in values; lines with an empty one are left out."""
    lines = []
    for line in text.splitlines(keepends=True):
        names = [name for name in values if f"${{{name}}}" in line]
        filled = line
        for name in names:
            filled = filled.replace(f"${{{name}}}", values[name])
        if all(values[name] for name in names):
            lines.append(filled)
    return "".join(lines)


def _uncapitalized(text: str) -> str:
    """Begin in lower case, as Debian's synopses do."""
    return text[0].lower() + text[1:]


def _iso_date() -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), UTC).isoformat()


if __name__ == "__main__":
    main()
