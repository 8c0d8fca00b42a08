"""Layouts with more in them than one plain image: platforms, attestations, nested indexes, many layers."""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.image.images import GZIP, Layout, digest_of, packed, tar_of

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
ATTESTED = "vnd.docker.reference.digest"
_RECORDED = Path(__file__).parents[2] / "vectors/buildkit/attested.tar"

Descriptor = dict[str, Any]


def tar(text: str) -> bytes:
    """Make a layer's content."""
    return tar_of({f"file-{text}": text.encode()})


def add_image(
    layout: Layout, architecture: str, tars: Sequence[bytes], media_type: str = GZIP, **members: Any
) -> Descriptor:
    """Add a manifest with layers of these contents, and return its descriptor with its platform."""
    layers = [packed(each, media_type) for each in tars]
    config = {
        "architecture": architecture,
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [digest_of(each) for each in tars]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": layout.add(to_json(config), CONFIG),
        "layers": [layout.add(each.blob, each.media_type) for each in layers],
        **members,
    }
    platform = {"os": "linux", "architecture": architecture}
    return {**layout.add(to_json(manifest), MANIFEST), "platform": platform}


def recorded(directory: Path) -> Layout:
    """Unpack the image that BuildKit wrote for two platforms, with SBOM and provenance (tests/vectors/buildkit)."""
    # Python 3.12 warns where no filter is named, and the earliest 3.11 knows none.
    directory.mkdir(exist_ok=True)
    subprocess.run(["tar", "--extract", "--file", _RECORDED, "--directory", directory], check=True)
    return Layout(directory)


def add_attestation(layout: Layout, manifest: Descriptor) -> Descriptor:
    """Add the recorded attestation of one platform, as if it were that of a manifest."""
    with tarfile.open(_RECORDED) as archive:

        def read(digest: str) -> bytes:
            file = archive.extractfile(f"blobs/sha256/{digest.partition(':')[2]}")
            assert file is not None
            return file.read()

        index = archive.extractfile("index.json")
        assert index is not None
        (root,) = json.load(index)["manifests"]
        found = next(each for each in json.loads(read(root["digest"]))["manifests"] if "annotations" in each)
        value = json.loads(read(found["digest"]))
        for descriptor in (found, value["config"], *value["layers"]):
            layout.add(read(descriptor["digest"]), descriptor["mediaType"])
    return {**found, "annotations": {**found["annotations"], ATTESTED: manifest["digest"]}}


def add_artifact(layout: Layout, config_type: str, *layers: tuple[bytes, str], **members: Any) -> Descriptor:
    """Add a manifest that is not an image, as Helm and ORAS write it: blobs with their media types."""
    value = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": layout.add(b"{}", config_type),
        "layers": [layout.add(blob, media_type) for blob, media_type in layers],
        **members,
    }
    return layout.add(to_json(value), MANIFEST)


def add_index(layout: Layout, *manifests: Descriptor, **members: Any) -> Descriptor:
    """Add an index of manifests."""
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": list(manifests), **members}
    return layout.add(to_json(index), INDEX)


def publish(layout: Layout, *descriptors: Descriptor) -> Layout:
    """Write the layout's own index."""
    write_index(layout.directory, *descriptors)
    (layout.directory / "oci-layout").write_bytes(b'{"imageLayoutVersion":"1.0.0"}')
    return layout


def write_index(directory: Path, *descriptors: Descriptor) -> None:
    """Write `index.json` alone."""
    (directory / "index.json").write_bytes(to_json({"schemaVersion": 2, "manifests": list(descriptors)}))


def two_platforms(directory: Path) -> Layout:
    """Write an image for two platforms, of three and two layers, that share the lowest, and an attestation of each."""
    layout = Layout(directory)
    amd64 = add_image(layout, "amd64", [tar("base"), tar("amd64"), tar("top")])
    arm64 = add_image(layout, "arm64", [tar("base"), tar("arm64")])
    attestations = [add_attestation(layout, each) for each in (amd64, arm64)]
    return publish(layout, add_index(layout, amd64, arm64, *attestations, annotations={"kept": "yes"}))


def roots(layout: Layout) -> list[Descriptor]:
    """Return the descriptors in the layout's own index."""
    found: list[Descriptor] = json.loads((layout.directory / "index.json").read_bytes())["manifests"]
    return found


def manifests(layout: Layout) -> list[Descriptor]:
    """Return the descriptors in the index that the layout's only name stands for."""
    (root,) = roots(layout)
    found: list[Descriptor] = layout.read_json(root)["manifests"]
    return found


def layers_of(layout: Layout, manifest: Descriptor) -> list[Descriptor]:
    """Return the descriptors of a manifest's layers."""
    found: list[Descriptor] = layout.read_json(manifest)["layers"]
    return found


def to_json(value: object) -> bytes:
    """Write JSON."""
    return json.dumps(value).encode()
