"""What is bundled: a software bill of materials (CycloneDX 1.5) and the licences of everything."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from assemble.places import CACHE, ROOT

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
    """List the packages that packaging/fetch-interpreter unpacked."""
    lines = (CACHE / f"debian-{architecture}/versions").read_text().splitlines()
    return [DebianPackage(*line.split()) for line in lines]


def sbom(
    name: str, version: str, distributions: list[Distribution], packages: list[DebianPackage], architecture: str
) -> bytes:
    """Write the bill of materials of a package; the same for the same content."""
    components = [_wheel_component(item) for item in distributions]
    components += [_debian_component(*package, architecture) for package in packages]
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
                "licenses": [{"license": {"id": "Apache-2.0"}}],
            }
        },
        "components": components,
        "dependencies": [{"ref": name, "dependsOn": [component["bom-ref"] for component in components]}],
    }
    return json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"


def notices(
    distributions: list[Distribution], directory: Path, packages: list[DebianPackage], architecture: str
) -> str:
    """Collect the licences of what a package bundles.

    Args:
        distributions: the wheels.
        directory: where they are unpacked.
        packages: Debian's, for the interpreter.
        architecture: amd64 or arm64.

    Raises:
        SystemExit: something came without a licence.
    """
    parts = [
        "ctd-decoder is distributed under the Apache License 2.0; on Debian systems it is in\n"
        "/usr/share/common-licenses/Apache-2.0. It bundles what is named below, each under its own licence.\n",
        "ctd-decoder\nCopyright: the authors of ctd-decoder\n\n" + (ROOT / "LICENSE").read_text(),
    ]
    documents = CACHE / f"debian-{architecture}/usr/share/doc"
    for source in sorted({package.source for package in packages}):
        name = next(
            package.name for package in packages if package.source == source and (documents / package.name).is_dir()
        )
        parts.append(f"{source} (from Debian)\n\n{(documents / name / 'copyright').read_text()}")
    parts += [f"{item.name} {item.version}\n\n{_licence(item, directory)}" for item in distributions]
    return _RULE.join(parts)


def _licence(item: Distribution, directory: Path) -> str:
    folded = item.name.replace("-", "_").replace(".", "_").lower()
    (information,) = (
        path
        for path in directory.glob("*.dist-info")
        if path.name.rpartition("-")[0].partition("-")[0].replace(".", "_").lower() == folded
    )
    files = sorted({path for pattern in _LICENCE_FILES for path in information.glob(pattern) if path.is_file()})
    texts = [path.read_text(errors="replace") for path in files]
    if not texts and not (stated := _stated_licence(item)):
        raise SystemExit(f"{item.name} {item.version} came without a licence")
    return "\n\n".join(texts) or f"Its metadata states: {stated}\n"


def _stated_licence(item: Distribution) -> str:
    stated = item.metadata.get("license_expression") or item.metadata.get("license")
    classifiers = item.metadata.get("classifier", [])
    return stated or ", ".join(text.rpartition(":: ")[2] for text in classifiers if text.startswith("License ::"))


def _wheel_component(item: Distribution) -> dict[str, Any]:
    purl = f"pkg:pypi/{item.name.lower().replace('_', '-')}@{item.version}"
    expression = item.metadata.get("license_expression")
    stated = _stated_licence(item)
    licences: list[dict[str, Any]] = [{"expression": expression}] if expression else []
    if not licences and stated and "\n" not in stated:
        licences = [{"license": {"name": stated}}]
    return {
        "type": "library",
        "bom-ref": purl,
        "name": item.name,
        "version": item.version,
        "purl": purl,
        "hashes": [{"alg": "SHA-256", "content": item.sha256}],
        **({"licenses": licences} if licences else {}),
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
        "properties": properties,
    }
