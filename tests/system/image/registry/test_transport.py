"""Images in a real registry: what is read, written and published."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from decoder.errors import DigestError, ImageError
from decoder.image import transport
from decoder.image.transport import Descriptor, Options
from tests.support.image import images
from tests.support.image.images import Layout
from tests.support.registry import registries
from tests.support.registry.faults import FaultyRegistry
from tests.support.registry.registries import Registry, pull, push, skopeo
from tests.support.registry.registry_parts import blobs_of

if TYPE_CHECKING:
    from pathlib import Path

INDEX = "application/vnd.oci.image.index.v1+json"


def test_skopeo_reads_what_ours_writes(registry: Registry, layout: Layout, tmp_path: Path) -> None:
    place = f"docker://{registry.host}/some/where:tag"
    push(layout, place)
    skopeo("copy", "--src-tls-verify=false", place, f"oci:{tmp_path}/copy:{images.NAME}")
    assert blobs_of(Layout(tmp_path / "copy")) == blobs_of(layout)
    assert registry.uploads == []


def test_ours_reads_what_skopeo_writes(registry: Registry, layout: Layout) -> None:
    place = f"docker://{registry.host}/from-skopeo"
    skopeo("copy", "--dest-tls-verify=false", f"oci:{layout.directory}:{images.NAME}", place)
    assert pull(place) == blobs_of(layout)
    digest = next(iter(blobs_of(layout)))
    assert pull(f"{place}@{digest}") == blobs_of(layout)


def test_docker_manifests(registry: Registry, layout: Layout) -> None:
    place = f"docker://{registry.host}/docker"
    copy = ["copy", "--dest-tls-verify=false", "--format=v2s2", f"oci:{layout.directory}:{images.NAME}", place]
    skopeo(*copy)
    with transport.open_source(place, Options()) as source:
        assert source.root()["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"
    assert set(pull(place).values()) > {layout.read(each) for each in layout.layers}


def test_indexes(registry: Registry, layout: Layout) -> None:
    place = f"docker://{registry.host}/known:index"
    (child,) = json.loads((layout.directory / "index.json").read_bytes())["manifests"]
    data = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [child]}).encode()
    descriptor = {"mediaType": INDEX, "digest": images.digest_of(data), "size": len(data)}
    with transport.open_target(place, Options()) as target:
        assert target.has(child)
        assert not target.has(descriptor)
        target.put_manifest(data, descriptor)
        assert registries.read(target, descriptor) == data
        target.publish(descriptor)
    with transport.open_source(place, Options()) as source:
        assert source.root() == descriptor
        assert registries.read(source, child) == layout.read(child)


def test_blobs_that_are_there_are_not_sent(registry: Registry, layout: Layout) -> None:
    with FaultyRegistry(registry.host, lambda _: None) as proxy:
        push(layout, f"docker://{proxy.host}/known:again")
        assert proxy.count("POST", "") == proxy.count("PATCH", "") == 0
        push(layout, f"docker://{proxy.host}/other", Options(source=f"docker://{proxy.host}/known:tag"))
        assert proxy.count("POST", "mount=") == 4
        assert proxy.count("PATCH", "") == 0
    assert pull(f"docker://{registry.host}/other") == blobs_of(layout)


def test_what_cannot_be_mounted_is_sent(registry: Registry, layout: Layout) -> None:
    origin = Options(source=f"docker://{registry.host}/nothing-here")
    push(layout, f"docker://{registry.host}/not-mounted", origin)
    assert pull(f"docker://{registry.host}/not-mounted") == blobs_of(layout)
    assert registry.uploads == []


def test_nothing_is_visible_before_its_end(registry: Registry, layout: Layout) -> None:
    place, blob = f"docker://{registry.host}/unfinished", b"something" * 1000
    digest = images.digest_of(blob)
    with transport.open_target(place, Options()) as target:
        with target.create(len(blob)) as writer:
            registries.write_all(writer, blob)
        assert not target.has({"mediaType": "", "digest": digest, "size": len(blob)})
        assert registry.uploads == []
        with suppress(RuntimeError), target.create(len(blob)) as writer:
            registries.write_all(writer, blob[:100])
            raise RuntimeError
        (root,) = json.loads((layout.directory / "index.json").read_bytes())["manifests"]
        with pytest.raises(ImageError, match=f"{registry.host}/unfinished: it does not accept the manifest .*400"):
            target.put_manifest(layout.read(root), root)
    with pytest.raises(ImageError, match=r"there is no latest .*404, MANIFEST_UNKNOWN"):
        pull(place)


def test_a_wrong_digest_is_refused(registry: Registry) -> None:
    blob, other = b"what is sent", images.digest_of(b"what is said")
    with transport.open_target(f"docker://{registry.host}/wrong", Options()) as target:
        with pytest.raises(DigestError, match="DIGEST_INVALID"):
            registries.write(target, blob, other)
        for digest in (other, images.digest_of(blob)):
            assert not target.has({"mediaType": "", "digest": digest, "size": len(blob)})


def test_a_wrong_size_is_refused(registry: Registry, layout: Layout) -> None:
    with transport.open_target(f"docker://{registry.host}/known", Options()) as target:
        with pytest.raises(ImageError, match="longer than its 3 bytes"), target.create(3) as writer:
            writer.write(memoryview(b"four"))
        with target.create(5) as writer:
            writer.write(memoryview(b"four"))
            with pytest.raises(ImageError, match="shorter than its 5 bytes"):
                writer.commit(images.digest_of(b"four"), 4)
        descriptor = {**layout.layers[0], "size": 7}
        assert not target.has(descriptor)
        with pytest.raises(DigestError, match="another size"), target.open(descriptor):
            pass


def test_an_empty_blob(registry: Registry) -> None:
    descriptor: Descriptor = {"mediaType": "", "digest": images.digest_of(b""), "size": 0}
    with transport.open_target(f"docker://{registry.host}/empty", Options()) as target:
        registries.write(target, b"", descriptor["digest"])
        assert registries.read(target, descriptor) == b""


def test_publishing_under_a_digest(registry: Registry, layout: Layout) -> None:
    (root,) = json.loads((layout.directory / "index.json").read_bytes())["manifests"]
    push(layout, f"docker://{registry.host}/known@{root['digest']}")
    other = images.digest_of(b"another")
    with pytest.raises(ImageError, match=f"known@{other}: the new image has another digest, {root['digest']}"):
        push(layout, f"docker://{registry.host}/known@{other}")


def test_absent(registry: Registry) -> None:
    where = f"{registry.host}/known"
    with pytest.raises(ImageError, match=f"{where}: there is no absent .*HTTP 404, MANIFEST_UNKNOWN"):
        pull(f"docker://{where}:absent")
    descriptor = {"mediaType": "", "digest": images.digest_of(b"absent"), "size": 6}
    with (
        transport.open_source(f"docker://{where}", Options()) as source,
        pytest.raises(ImageError, match=f"{where}: there is no {descriptor['digest']} .*HTTP 404"),
    ):
        registries.read(source, descriptor)
    descriptor["digest"] = "sha256:../../../../v2/_catalog"
    with (
        transport.open_source(f"docker://{where}", Options()) as source,
        pytest.raises(ImageError, match="not a sha256"),
    ):
        registries.read(source, descriptor)


def test_nobody_listens() -> None:
    with pytest.raises(ImageError, match="localhost:1 cannot be reached: Connection refused"):
        pull("docker://localhost:1/image")
