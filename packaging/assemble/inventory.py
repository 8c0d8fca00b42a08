"""List the bundled components: a software bill of materials (CycloneDX 1.5), licences, and where the sources are."""

from __future__ import annotations

import json
import uuid
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from assemble import licences
from assemble.places import CACHE, LIBRARY, ROOT

if TYPE_CHECKING:
    from assemble.dependencies import Distribution

_RULE = "\n" + "=" * 78 + "\n"
# Where a licence stands in a wheel: PEP 639 has the first, before that there was no rule.
_LICENCE_FILES = ("licenses/**/*", "license_files/**/*", "LICEN[CS]E*", "COPYING*", "NOTICE*", "AUTHORS*")


class DebianPackage(NamedTuple):
    """A package of Debian that a part of the interpreter came from, and its source package."""

    name: str
    version: str
    source: str


def debian_packages(architecture: str) -> list[DebianPackage]:
    """List the packages that packaging/fetch-debian unpacked."""
    lines = (CACHE / f"debian-{architecture}/versions").read_text().splitlines()
    return [DebianPackage(*line.split()) for line in lines]


def sbom(
    name: str, version: str, distributions: list[Distribution], packages: list[DebianPackage], architecture: str
) -> bytes:
    """Write the bill of materials of a package; the same for the same content."""
    components = [_wheel_component(item) for item in distributions]
    components += [_debian_component(*package, architecture) for package in packages]
    if packages:
        components.append(_zig_component())
    identity = json.dumps([name, version, components], sort_keys=True)
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": uuid.uuid5(uuid.NAMESPACE_OID, identity).urn,
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": name,
                "name": name,
                "version": version,
                "licenses": [{"expression": "Apache-2.0"}],
            }
        },
        "components": components,
        "dependencies": [{"ref": name, "dependsOn": [component["bom-ref"] for component in components]}],
    }
    return json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"


def all_licences(distributions: list[Distribution], packages: list[DebianPackage]) -> str:
    """Return the licence of a whole package, an SPDX expression."""
    ours = ["Apache-2.0"] + (["MIT"] if packages else [])  # MIT: the C library of the agent's client, see _zig_notice
    bundled = [licences.of_wheel(item) for item in distributions]
    return licences.joined([*ours, *bundled, *(licences.of_debian(package.source) for package in packages)])


def copy_sources(distributions: list[Distribution], site: Path, target: Path) -> None:
    """Copy the source code of what is under a licence that asks for it.

    Args:
        distributions: the wheels.
        site: the directory where they are unpacked, with their sources.
        target: a directory to make.
    """
    target.mkdir()
    for item in distributions:
        source = site / item.name.lower()
        if licences.is_lesser_gpl(licences.of_wheel(item)) and not any(source.rglob("*.so")):
            for path in sorted(source.rglob("*.py")):
                copy = target / f"{item.name}-{item.version}" / path.relative_to(site)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(path.read_bytes())


def notices(
    distributions: list[Distribution], directory: Path, packages: list[DebianPackage], architecture: str
) -> str:
    """Collect the licences of what a package bundles.

    Args:
        distributions: the wheels.
        directory: the directory where they are unpacked.
        packages: Debian's, for the interpreter.
        architecture: amd64 or arm64.

    Raises:
        SystemExit: the licence of something is not known.
    """
    parts = [
        "ctd-decoder is distributed under the Apache License 2.0; on Debian systems it is in\n"
        "/usr/share/common-licenses/Apache-2.0. It bundles what is named below, each under its own licence.\n"
        + _where_sources_are(distributions),
        "ctd-decoder\nCopyright: the authors of ctd-decoder\n\n" + (ROOT / "LICENSE").read_text(),
    ]
    documents = CACHE / f"debian-{architecture}/usr/share/doc"
    for source in sorted({package.source for package in packages}):
        name = next(
            package.name for package in packages if package.source == source and (documents / package.name).is_dir()
        )
        parts.append(f"{source} (from Debian)\n\n{(documents / name / 'copyright').read_text()}")
    if packages:
        parts.append(_zig_notice())
    parts += [f"{item.name} {item.version}\n\n{_licence(item, directory)}" for item in distributions]
    return _RULE.join(parts)


def _where_sources_are(distributions: list[Distribution]) -> str:
    text = (
        "\nThe source code of everything was not modified, and is public: that of NAME VERSION below at\n"
        "https://pypi.org/project/NAME/VERSION/#files, that of Debian's packages at https://sources.debian.org.\n"
    )
    lesser = [item for item in distributions if licences.is_lesser_gpl(licences.of_wheel(item))]
    for item in lesser:
        text += f"\n{item.name} {item.version} is, or contains, a library under {licences.of_wheel(item)}.\n"
    if lesser:
        text += (
            "\nWhere these libraries are written in Python, their source code is in /usr/share/ctd-decoder/source as\n"
            f"well. You may change them, and put changed ones into /{LIBRARY}/site-packages.\n"
        )
    return text


def _zig_notice() -> str:
    """Return the licence of the C library musl, which is a part of the agent's client, as zig brings it."""
    (found,) = _installed_zig("lib/libc/musl/COPYRIGHT")
    return f"ziglang {installed_version('ziglang')}: musl, in bin/client\n\n{found.read_text()}"


def _installed_zig(name: str) -> list[Path]:
    from importlib.metadata import files

    return [Path(str(path.locate())) for path in files("ziglang") or [] if str(path) == f"ziglang/{name}"]


def _licence(item: Distribution, directory: Path) -> str:
    folded = item.name.replace("-", "_").replace(".", "_").lower()
    (information,) = (
        path
        for path in directory.glob("*.dist-info")
        if path.name.rpartition("-")[0].partition("-")[0].replace(".", "_").lower() == folded
    )
    files = sorted({path for pattern in _LICENCE_FILES for path in information.glob(pattern) if path.is_file()})
    texts = [path.read_text(errors="replace") for path in files]
    return "\n\n".join(texts) or f"Its licence is {licences.of_wheel(item)}.\n"


def _wheel_component(item: Distribution) -> dict[str, Any]:
    purl = f"pkg:pypi/{item.name.lower().replace('_', '-')}@{item.version}"
    return {
        "type": "library",
        "bom-ref": purl,
        "name": item.name,
        "version": item.version,
        "purl": purl,
        "hashes": [{"alg": "SHA-256", "content": item.sha256}],
        "licenses": [{"expression": licences.of_wheel(item)}],
    }


def _debian_component(name: str, version: str, source: str, architecture: str) -> dict[str, Any]:
    purl = f"pkg:deb/debian/{name}@{quote(version)}?arch={architecture}&distro=debian-12"
    properties = [{"name": "debian:source", "value": source}]
    return {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
        "licenses": [{"expression": licences.of_debian(source)}],
        "properties": properties,
    }


def _zig_component() -> dict[str, Any]:
    version = installed_version("ziglang")
    purl = f"pkg:pypi/ziglang@{version}"
    described = {"description": "the C library musl, in the agent's client", "licenses": [{"expression": "MIT"}]}
    return {"type": "library", "bom-ref": purl, "name": "ziglang", "version": version, "purl": purl, **described}
