"""Targets that cannot be written to, and blobs that cannot be read, by a limit or an error of the kernel."""

from __future__ import annotations

import gzip
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO, FileIO
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import zstandard

from decoder import limits
from decoder.errors import ImageError
from decoder.image import blobs
from decoder.image.files.spool import spooled
from decoder.image.files.tarindex import TarIndex
from decoder.image.recompress import Recompressed
from decoder.image.transport import Options, open_source, open_target
from tests.support.image import layouts
from tests.support.image.command import image, oci

if TYPE_CHECKING:
    from tests.support.image.images import Layout

DIGEST = f"sha256:{'0' * 64}"


@contextmanager
def full() -> Iterator[None]:
    """Let no file grow, as on a full disk; the kernel says another word for it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("transport", "published"),
    [("oci", "the index of 'PLACE'"), ("oci-archive", "'PLACE'"), ("dir", "'version' in 'PLACE'")],
)
def test_writing(transport: str, published: str, small: Layout, tmp_path: Path) -> None:
    place = f"{tmp_path}/image"
    (root,) = layouts.roots(small)
    with open_source(oci(small), Options()) as source, open_target(f"{transport}:{place}", Options()) as target:
        with full(), pytest.raises(ImageError) as raised:
            blobs.copy(source, target, small.layers[0])
        assert str(raised.value) == "writing a blob: File too large"
        target.put_manifest(small.read(root), root)
        with full(), pytest.raises(ImageError) as raised:
            target.publish(root)
        assert str(raised.value) == f"{published.replace('PLACE', place)}: File too large"
    assert not Path(place).is_file()
    assert not (Path(place) / "index.json").exists()
    assert not (Path(place) / "manifest.json").exists()


def test_manifest_of_a_layout(small: Layout, tmp_path: Path) -> None:
    (root,) = layouts.roots(small)
    with open_target(f"oci:{tmp_path}/image", Options()) as target:
        with full(), pytest.raises(ImageError) as raised:
            target.put_manifest(small.read(root), root)
        assert str(raised.value) == f"writing {root['digest']}: File too large"
        assert not target.has(root)


def test_recompressing(small: Layout) -> None:
    layer = small.add(zstandard.compress(b"content"), "application/vnd.oci.image.layer.v1.tar+zstd")
    with open_source(oci(small), Options()) as source, Recompressed(source) as recompressed:
        with full(), pytest.raises(ImageError) as raised:
            recompressed.add(layer, None, lambda _: None)
        assert str(raised.value) == "writing a temporary file: File too large"


def test_no_file_can_be_opened(tmp_path: Path) -> None:
    """By a limit of the process, which every file system obeys."""
    with open_target(f"oci:{tmp_path}/image", Options()) as target:
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
        try:
            with pytest.raises(ImageError) as raised, target.create(1):
                pass
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        assert str(raised.value) == f"'{tmp_path}/image': Too many open files"


def test_archives_without_a_place(small: Layout, recipient: list[str]) -> None:
    for place, reason in (("/nonexistent/x", "No such file or directory"), ("/dev/full", "No space left on device")):
        ended = image("encrypt", oci(small), f"oci-archive:{place}", *recipient)
        assert (ended.status, f"'{place}': {reason}" in ended.errors) == (7, True), ended.errors


def test_reading() -> None:
    with FileIO("/proc/self/mem") as file:  # nothing is mapped at its start
        reader = blobs.CheckedReader(file, {"digest": DIGEST, "size": 1}, lambda _: None)
        with pytest.raises(ImageError) as raised:
            reader.readinto(memoryview(bytearray(1)))
        assert str(raised.value) == f"reading {DIGEST}: Input/output error"
        counted = blobs._Counted(file, {"digest": DIGEST, "size": 1}, lambda _: None)
        with pytest.raises(ImageError) as raised:
            counted.readinto(memoryview(bytearray(1)))
        assert str(raised.value) == f"reading {DIGEST} back: Input/output error"
        with pytest.raises(ImageError) as raised:
            TarIndex(file, "image.tar")
        assert str(raised.value) == "'image.tar': Input/output error"


class Trickle(BytesIO):
    """A stream that returns one byte at a time."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(size or 0, 1))


@pytest.mark.parametrize("content", [b"", b"x", b"a plain archive", gzip.compress(b"a plain archive", mtime=0)])
def test_a_stream_of_single_bytes(content: bytes) -> None:
    with spooled(Trickle(content), "standard input") as file:
        assert file.read() == (gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content)


def test_plain_blobs_that_are_absent_or_cannot_be_deleted(small: Layout) -> None:
    stuck = small.directory / "blobs/sha256" / ("1" * 64)
    stuck.mkdir()
    with open_target(oci(small), Options(source=oci(small))) as target:
        assert target.forget([DIGEST], []) == []
        with pytest.raises(ImageError) as raised:
            target.forget([f"sha256:{stuck.name}"], [])
    assert str(raised.value) == f"the plain blob sha256:{stuck.name} cannot be deleted: Is a directory"


@pytest.mark.parametrize("kind", ["deep", "malformed"])
def test_plain_blobs_stay_beside_an_image_that_cannot_be_read(kind: str, small: Layout) -> None:
    (root,) = layouts.roots(small)
    other = small.add(b"[", layouts.MANIFEST)
    reason = f"{other['digest']}: "
    if kind == "deep":
        other, reason = root, "too many manifests, or nested too deep"
        for _ in range(limits.IMAGE_INDEX_DEPTH + 1):
            other = layouts.add_index(small, other)
    layouts.publish(small, other, root)
    with open_target(oci(small), Options(source=oci(small))) as target:
        (line,) = target.forget([small.add(b"plain", layouts.INDEX)["digest"]], [])
    assert line.startswith("the plain blobs were not deleted, because another image in the layout cannot be read: ")
    assert reason in line


def test_plain_blobs_beside_an_index_whose_manifests_are_elsewhere(small: Layout) -> None:
    plain = small.add(b"plain", layouts.MANIFEST)
    absent = {"mediaType": layouts.MANIFEST, "digest": DIGEST, "size": 7}
    layouts.publish(small, *layouts.roots(small), layouts.add_index(small, absent))
    with open_target(oci(small), Options(source=oci(small))) as target:
        assert target.forget([plain["digest"]], []) == []
        assert not target.has(plain)
        assert target.forget([DIGEST], []) == [f"the plain layer {DIGEST} stays: 'entry 1' in the layout refers to it"]
