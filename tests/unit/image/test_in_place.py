"""Encrypting in a layout: nothing plain is left behind, and nobody's link is followed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

from tests.support.image import layouts
from tests.support.image.command import done, files_below, image, oci
from tests.support.image.images import NAME, Layout

if TYPE_CHECKING:
    from pathlib import Path


def entries(layout: Layout) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((layout.directory / "index.json").read_bytes())["manifests"]
    return found


def stored(layout: Layout) -> set[str]:
    return {f"sha256:{path.name}" for path in (layout.directory / "blobs" / "sha256").iterdir()}


def named(layout: Layout, name: str) -> None:
    (entry,) = entries(layout)
    layouts.write_index(layout.directory, {**entry, "annotations": {"org.opencontainers.image.ref.name": name}})


def test_no_plain_blob_is_left(small: Layout, recipient: list[str], key: list[str]) -> None:
    named(small, NAME)
    plain, (old,) = {each["digest"] for each in small.layers}, entries(small)
    ended = done("encrypt", oci(small), oci(small), *recipient)
    (entry,) = entries(small)
    assert entry["annotations"]["org.opencontainers.image.ref.name"] == NAME
    assert not stored(small) & {*plain, old["digest"]}
    assert stored(small) == {entry["digest"], *(each["digest"] for each in (small.manifest["config"], *small.layers))}
    assert "warning" not in ended.errors
    done("check", "--require-encrypted", "all", "--verify", oci(small), *key)


def test_in_place_is_short_for_the_same_place(small: Layout, recipient: list[str]) -> None:
    done("encrypt", "--in-place", oci(small), *recipient)
    assert len(entries(small)) == 1
    assert image("encrypt", oci(small), *recipient).status == 2
    both = image("encrypt", "--in-place", oci(small), oci(small), *recipient)
    assert (both.status, "--in-place writes to SRC" in both.errors) == (2, True)


def test_what_other_images_refer_to_stays_and_is_named(small: Layout, recipient: list[str]) -> None:
    named(small, "v1")
    before = small.layers
    ended = done("encrypt", oci(small, "v1"), oci(small, "enc"), *recipient)
    for each in before:
        assert f"the plain layer {each['digest']} stays: 'v1' in the layout refers to it" in ended.errors
    assert {each["digest"] for each in before} <= stored(small)
    shared = layouts.add_image(small, "arm64", [layouts.tar("base")])
    enc = next(each for each in entries(small) if each["annotations"]["org.opencontainers.image.ref.name"] == "v1")
    layouts.write_index(small.directory, enc, {**shared, "annotations": {"org.opencontainers.image.ref.name": "two"}})
    ended = done("encrypt", "--in-place", oci(small, "v1"), *recipient)
    assert f"the plain layer {before[0]['digest']} stays: 'two'" in ended.errors
    assert before[0]["digest"] in stored(small)
    assert before[1]["digest"] not in stored(small)


def test_an_image_with_the_name_that_containerd_wrote_is_replaced(small: Layout, recipient: list[str]) -> None:
    (entry,) = entries(small)
    names = {"org.opencontainers.image.ref.name": "v1", "io.containerd.image.name": "docker.io/library/app:v1"}
    layouts.write_index(small.directory, {**entry, "annotations": names})
    plain = {each["digest"] for each in small.layers}
    done("encrypt", "--in-place", oci(small, "docker.io/library/app:v1"), *recipient)
    assert [each["annotations"] for each in entries(small)] == [names]
    assert not stored(small) & plain


def test_a_plain_image_that_had_the_name_before_leaves_nothing(
    small: Layout, target: Layout, recipient: list[str]
) -> None:
    """The usual way: skopeo copies to a layout, and the encrypted image gets the same name there."""
    named(small, "v1")
    shutil.copytree(small.directory, target.directory)
    plain = {each["digest"] for each in small.layers}
    ended = done("encrypt", oci(small, "v1"), oci(target, "v1"), *recipient)
    assert "warning" not in ended.errors
    assert (stored(target) & plain, stored(small) & plain) == (set(), plain)
    (entry,) = entries(small)
    write = [{**entry, "annotations": {"org.opencontainers.image.ref.name": name}} for name in ("v1", "v2")]
    shutil.rmtree(target.directory)
    shutil.copytree(small.directory, target.directory)
    layouts.write_index(target.directory, *write)
    ended = done("encrypt", oci(small, "v1"), oci(target, "v1"), *recipient)
    assert ended.errors.count("stays: 'v2' in the layout refers to it") == len(plain)
    assert stored(target) >= plain


def test_an_archive_in_place_keeps_the_name_and_no_image_is_lost(small: Layout, recipient: list[str]) -> None:
    named(small, "v1")
    (entry,) = entries(small)
    archive = small.directory.parent / "image.tar"

    def write(*entries: dict[str, Any]) -> None:
        layouts.write_index(small.directory, *entries)
        subprocess.run(["tar", "--create", "--file", archive, "--directory", small.directory, "."], check=True)

    write(entry)
    done("encrypt", "--in-place", f"oci-archive:{archive}", *recipient)
    done("check", "--require-encrypted", "all", f"oci-archive:{archive}:v1")
    other = layouts.add_image(small, "arm64", [layouts.tar("other")])
    write(entry, {**other, "annotations": {"org.opencontainers.image.ref.name": "v2"}})
    before = archive.read_bytes()
    ended = image("encrypt", "--in-place", f"oci-archive:{archive}:v1", *recipient)
    assert (ended.status, "holds other images, which would be lost" in ended.errors) == (2, True)
    assert archive.read_bytes() == before
    done("encrypt", f"oci-archive:{archive}:v1", f"oci-archive:{archive}.enc:v1", *recipient)


def test_nothing_is_deleted_if_the_rest_cannot_be_read(small: Layout, recipient: list[str]) -> None:
    named(small, "v1")
    plain = {each["digest"] for each in small.layers}
    (entry,) = entries(small)
    broken = {**entry, "digest": f"sha256:{'a' * 64}", "annotations": {"org.opencontainers.image.ref.name": "gone"}}
    layouts.write_index(small.directory, entry, broken)
    ended = done("encrypt", "--in-place", oci(small, "v1"), *recipient)
    assert "the plain blobs were not deleted" in ended.errors
    assert plain <= stored(small)


def test_links_in_a_target_are_not_followed(
    small: Layout, target: Layout, recipient: list[str], tmp_path: Path
) -> None:
    done("encrypt", oci(small), oci(target), *recipient)
    outside = tmp_path / "outside"
    outside.mkdir()
    victim = outside / "victim"
    victim.write_text("victim")
    for name in (".index.json.new", "index.json"):
        path = target.directory / name
        path.unlink(missing_ok=True)
        path.symlink_to(victim)
        ended = image("encrypt", oci(small), oci(target), *recipient)
        assert ended.status == (0 if name.startswith(".") else 7), ended.errors
        assert victim.read_text() == "victim"
        path.unlink()
        done("encrypt", oci(small), oci(target), *recipient)
    blob = target.directory / "blobs" / "sha256" / target.manifest["config"]["digest"].partition(":")[2]
    blob.unlink()
    blob.symlink_to(victim)
    done("encrypt", oci(small), oci(target), *recipient)
    assert (victim.read_text(), blob.is_symlink()) == ("victim", False)
    for folder in ("blobs/sha256", "blobs"):
        path = target.directory / folder
        os.rename(path, tmp_path / "moved")
        path.symlink_to(outside)
        ended = image("encrypt", oci(small), oci(target), *recipient)
        assert ended.status == 7, ended.errors
        assert set(files_below(outside)) == {"victim"}
        path.unlink()
        os.rename(tmp_path / "moved", path)
