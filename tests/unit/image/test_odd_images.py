"""Images with odd parts, and options and programs that fail, each with its message."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from decoder import limits
from tests.support.image import layouts
from tests.support.image.command import done, image, oci

if TYPE_CHECKING:
    from tests.support.image.images import Layout

JWE = "org.opencontainers.image.enc.keys.jwe"


@pytest.fixture
def locked(small: Layout, target: Layout, recipient: list[str]) -> Layout:
    """An image of two encrypted layers."""
    done("encrypt", oci(small), oci(target), *recipient)
    return target


def annotate(layout: Layout, **annotations: str) -> None:
    """Change annotations of the lowest layer; `_` stands for `.`."""
    value = layout.manifest
    value["layers"][0]["annotations"] |= {name.replace("_", "."): text for name, text in annotations.items()}
    layouts.publish(layout, layout.add(layouts.to_json(value), layouts.MANIFEST))


def test_two_platforms_and_a_note_go_to_a_directory_and_back(
    tmp_path: Path, target: Layout, recipient: list[str], key: list[str], small: Layout
) -> None:
    images = [layouts.add_image(small, name, [layouts.tar(name)]) for name in ("amd64", "arm64")]
    note = small.add(b"a note", "text/plain")
    layouts.publish(small, layouts.add_index(small, *images, note))
    directory = f"dir:{tmp_path}/directory"
    done("encrypt", oci(small), directory, *recipient, "--allow-plain", "text/plain")
    assert len(list((tmp_path / "directory").glob("*.manifest.json"))) == 2
    assert (tmp_path / "directory" / note["digest"].removeprefix("sha256:")).read_bytes() == b"a note"
    done("check", directory, *key)
    done("decrypt", directory, oci(target), *key)
    before, after = (
        [layouts.layers_of(each, found) for found in layouts.manifests(each)[:2]] for each in (small, target)
    )
    assert after == before


@pytest.mark.parametrize(
    ("manifest", "media_type", "reason"),
    [
        (b"[", layouts.MANIFEST, "the manifest DIGEST: "),
        (b"{}", "text/plain", "DIGEST has the media type 'text/plain', which is neither a manifest nor an index"),
        (b'{"layers":{"a":1}}', layouts.MANIFEST, "DIGEST has no list of layers"),
        (b'{"manifests":7}', layouts.INDEX, "DIGEST has no list of manifests"),
        (b'{"layers":[]}', layouts.MANIFEST, "a descriptor is absent or not a JSON object"),
    ],
)
def test_malformed_manifest(manifest: bytes, media_type: str, reason: str, small: Layout) -> None:
    descriptor = small.add(manifest, media_type)
    layouts.publish(small, descriptor)
    ended = image("layerinfo", oci(small))
    assert (ended.status, ended.output) == (7, "")
    assert ended.errors.startswith(f"ctd-decoder: error: {reason.replace('DIGEST', descriptor['digest'])}")


def test_malformed_configuration(small: Layout) -> None:
    config = small.add(b"[", layouts.CONFIG)
    layouts.publish(small, small.add(layouts.to_json({**small.manifest, "config": config}), layouts.MANIFEST))
    ended = image("layerinfo", oci(small))
    assert (ended.status, ended.output) == (7, "")
    assert ended.errors.startswith(f"ctd-decoder: error: the image configuration {config['digest']}: ")


def test_docker_archive_of_two_platforms(small: Layout, tmp_path: Path, recipient: list[str], key: list[str]) -> None:
    images = [layouts.add_image(small, name, [layouts.tar(name)]) for name in ("amd64", "arm64")]
    layouts.publish(small, layouts.add_index(small, *images))
    done("encrypt", oci(small), f"oci-archive:{tmp_path}/two.tar", *recipient)
    ended = image("decrypt", f"oci-archive:{tmp_path}/two.tar", f"docker-archive:{tmp_path}/x.tar", *key)
    assert ended.status == 2
    assert "can hold only one platform, but the image has 2: use oci-archive:" in ended.errors
    assert not (tmp_path / "x.tar").exists()


def test_archive_of_another_image_is_replaced(
    small: Layout, tmp_path: Path, recipient: list[str], key: list[str]
) -> None:
    """The source is an archive, too: the names of what was in the destination are lost with it."""
    for name in ("one", "two"):
        done("encrypt", oci(small), f"oci-archive:{tmp_path}/{name}.tar:{name}", *recipient)
    done("decrypt", f"oci-archive:{tmp_path}/one.tar:one", f"oci-archive:{tmp_path}/two.tar:new", *key)
    for name, status in (("two", 7), ("new", 0)):
        assert image("layerinfo", f"oci-archive:{tmp_path}/two.tar:{name}").status == status
    done("encrypt", f"oci-archive:{tmp_path}/two.tar:new", f"oci-archive:{tmp_path}/two.tar:renamed", *recipient)
    for name, status in (("new", 7), ("renamed", 0)):
        assert image("layerinfo", f"oci-archive:{tmp_path}/two.tar:{name}").status == status


def test_scheme_that_is_not_supported(locked: Layout, key: list[str]) -> None:
    annotate(locked, org_opencontainers_image_enc_keys_other="e30=")
    layer = done("layerinfo", oci(locked), "--json", *key).value["layers"][0]
    assert [each["name"] for each in layer["recipients"] if each["scheme"] == "other"] == ["scheme not supported"]
    assert layer["opens"]


def test_too_many_wrapped_keys(locked: Layout, key: list[str]) -> None:
    annotate(locked, **{JWE: ",".join(["e30="] * (limits.WRAPPED_KEYS + 1))})
    layer = done("layerinfo", oci(locked), "--json", *key).value["layers"][0]
    assert (layer["encryption"], layer["recipients"], layer["opens"]) == (["?"], [], False)
    assert layer["reason"] == f"the layer has more than {limits.WRAPPED_KEYS} wrapped keys"


def test_foreign_layer(small: Layout, target: Layout, recipient: list[str], key: list[str]) -> None:
    value = small.manifest
    absent = {"mediaType": value["layers"][0]["mediaType"], "digest": f"sha256:{'0' * 64}", "size": 9}
    value["layers"].append({**absent, "urls": ["https://example.com/layer"]})
    layouts.publish(small, small.add(layouts.to_json(value), layouts.MANIFEST))
    ended = done("check", oci(small), "--verify")
    assert "layer 2 (linux/amd64) is stored elsewhere (urls) and was not read" in ended.errors
    assert "stays plain: it is a foreign layer" in done("encrypt", oci(small), oci(target), *recipient).errors


@pytest.mark.parametrize(
    ("options", "status", "reason"),
    [
        (["--tls-verify=maybe"], 2, "--tls-verify"),
        (["--digestfile", "/nonexistent/file"], 2, "--digestfile '/nonexistent/file': No such file or directory"),
        (["--gpg-keyring", "/nonexistent", "--recipient", "pgp:a@b"], 2, "--gpg-keyring '/nonexistent': No such file"),
        (["--recipient", "pgp:a@b"], 2, "the GnuPG keyring: gpg cannot be run: No such file or directory"),
        (["--recipient", "LONG"], 2, "names no protocol"),
    ],
)
def test_options(
    options: list[str], status: int, reason: str, small: Layout, recipient: list[str], tmp_path: Path
) -> None:
    long = tmp_path / "long"
    long.write_bytes(b"x" * (limits.KEY_FILE_BYTES + 1))
    options = [option.replace("LONG", str(long)) for option in options]
    ended = image("encrypt", oci(small), f"oci:{tmp_path}/target", *recipient, *options, PATH=str(tmp_path))
    assert (ended.status, ended.output) == (status, ""), ended.errors
    assert reason in ended.errors
    assert ended.errors.count("error: ") == 1


def test_digestfile_that_cannot_be_written(
    small: Layout, target: Layout, recipient: list[str], key: list[str], tmp_path: Path
) -> None:
    for verb, options in (("encrypt", recipient), ("decrypt", key)):
        for path, reason in ((tmp_path / "no/file", "No such file or directory"), (tmp_path, "Is a directory")):
            ended = image(verb, oci(small), oci(target), *options, "--digestfile", path)
            assert (ended.status, ended.output, target.directory.exists()) == (2, "", False)
            assert ended.errors == f"ctd-decoder: error: --digestfile '{path}': {reason}\n"
    ended = image("encrypt", oci(small), oci(target), *recipient, "--digestfile", "/dev/full")
    (root,) = layouts.roots(target)
    assert (ended.status, root["digest"] in ended.errors) == (7, True)
    assert "but --digestfile '/dev/full': No space left on device" in ended.errors


def test_digestfile_of_an_image_that_is_not_written(small: Layout, target: Layout, tmp_path: Path) -> None:
    (tmp_path / "old").write_text("sha256:old")
    for name in ("old", "new"):
        ended = image("encrypt", oci(small), oci(target), "--recipient", "jwe:/none", "--digestfile", tmp_path / name)
        assert ended.status == 2
    assert ((tmp_path / "old").read_text(), (tmp_path / "new").exists()) == ("sha256:old", False)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("#!/bin/sh\necho first >&2\necho 'no such image' >&2\nexit 1\n", "skopeo' failed: 'no such image'"),
        ("#!/bin/sh\nexit 3\n", "skopeo' failed: 3"),
        ("", "skopeo' failed: [Errno 8] Exec format error"),
    ],
)
def test_containers_storage(program: str, reason: str, tmp_path: Path) -> None:
    skopeo = tmp_path / "skopeo"
    skopeo.write_text(program)
    skopeo.chmod(0o755)
    ended = image("layerinfo", "containers-storage:example.com/image", PATH=str(tmp_path))
    assert (ended.status, ended.output, reason in ended.errors) == (7, "", True), ended.errors


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"message":"No such image: \\u001b x"}', "does not export 'x': No such image: "),
        (b"<html>", "does not export 'x': it does not return the image (HTTP 404)"),
        (b"[]", "does not export 'x': it does not return the image (HTTP 404)"),
    ],
)
def test_docker_daemon(body: bytes, reason: str, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/docker.sock")
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

        server = threading.Thread(target=answer, daemon=True)
        server.start()
        ended = image("layerinfo", "docker-daemon:x", DOCKER_HOST=f"unix://{tmp_path}/docker.sock")
        server.join(60)
    assert (ended.status, reason in ended.errors, "\x1b" in ended.errors) == (7, True, False), ended.errors


def test_plain_layers_have_no_recipient_to_remove(
    small: Layout, target: Layout, recipient: list[str], key: list[str], tmp_path: Path
) -> None:
    done("encrypt", oci(small), oci(target), *recipient, "--layer", "0")
    more = image("encrypt", oci(target), f"oci:{tmp_path}/more", *key, "--remove-recipient", "jwe")
    assert "layer 1 (linux/amd64) is not encrypted, so it has no recipient to remove" in more.errors
    assert more.status == 4, more.errors
