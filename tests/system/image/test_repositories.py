"""Verbs on repositories of a real registry: logins, tags, signatures beside an image, and in place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from decoder.image import transport
from decoder.image.transport import Options
from tests.support.image import images, layouts
from tests.support.image.command import done, image, oci
from tests.support.registry import registries
from tests.support.registry.registries import (
    PASSWORD,
    USER,
    Registry,
    htpasswd,
    make_certificate,
    push,
    serving,
    skopeo,
)

if TYPE_CHECKING:
    from tests.support.image.images import Layout
    from tests.support.keys.keypairs import KeyPair
    from tests.support.keys.parties import Party

EMPTY = "application/vnd.oci.empty.v1+json"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with serving(tmp_path_factory.mktemp("registry")) as registry:
        yield registry


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry over TLS that wants USER's password."""
    directory = tmp_path_factory.mktemp("locked")
    with serving(directory, make_certificate(directory, "DNS:localhost"), auth=htpasswd(directory)) as registry:
        yield registry


@pytest.fixture
def party(parties: dict[str, Party]) -> Party:
    return parties["jwe"]


def test_logins_on_the_command_line(locked: Registry, gzipped: Layout, party: Party, tmp_path: Path) -> None:
    place, insecure = f"docker://{locked.host}/app:1", "--tls-verify=false"
    encrypt = ["encrypt", oci(gzipped), place, "--recipient", party.recipient, insecure]
    home = {"HOME": str(tmp_path), "DOCKER_CONFIG": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    refused = image(*encrypt, **home)
    assert (refused.status, "--creds" in refused.errors) == (7, True)
    done(*encrypt, "--creds", f"{USER}:{PASSWORD}", **home)
    authfile = tmp_path / "somewhere.json"
    command = ["login", f"--authfile={authfile}", "--tls-verify=false", "--username", USER, "--password", PASSWORD]
    skopeo(*command, locked.host)
    required = ["check", "--require-encrypted", "all", place, *party.ours, insecure]
    done(*required, "--authfile", authfile, **home)
    wrong = image(*required, "--creds", f"{USER}:not-the-password", **home)
    assert (wrong.status, "not-the-password" in wrong.errors) == (7, False)
    assert image(*required, "--creds", USER).status == 2


def sign(place: str, root: layouts.Descriptor) -> str:
    """Put an artifact about an image beside it, as OCI 1.1 has it, with the tag for registries without referrers."""
    empty = b"{}"
    with transport.open_target(place, Options()) as target:
        descriptor = {"mediaType": EMPTY, "digest": images.digest_of(empty), "size": len(empty)}
        registries.write(target, empty, images.digest_of(empty))
        subject = {name: root[name] for name in ("mediaType", "digest", "size")}
        value = {"schemaVersion": 2, "mediaType": layouts.MANIFEST, "config": descriptor, "layers": [descriptor]}
        data = layouts.to_json({**value, "artifactType": "application/vnd.example.signature", "subject": subject})
        manifest = {"mediaType": layouts.MANIFEST, "digest": images.digest_of(data), "size": len(data)}
        target.put_manifest(data, manifest)
    entry = {**manifest, "artifactType": "application/vnd.example.signature"}
    index = layouts.to_json({"schemaVersion": 2, "mediaType": layouts.INDEX, "manifests": [entry]})
    tag = f"{place.rpartition(':')[0]}:{root['digest'].replace(':', '-')}"
    with transport.open_target(tag, Options()) as target:
        descriptor = {"mediaType": layouts.INDEX, "digest": images.digest_of(index), "size": len(index)}
        target.put_manifest(index, descriptor)
        target.publish(descriptor)
    return str(manifest["digest"])


def test_signatures_beside_the_image_are_named(registry: Registry, gzipped: Layout, party: Party) -> None:
    place = f"docker://{registry.host}/signed:1"
    push(gzipped, place)
    (root,) = json.loads((gzipped.directory / "index.json").read_bytes())["manifests"]
    artifact = sign(place, root)
    push(gzipped, f"docker://{registry.host}/signed:{root['digest'].replace(':', '-')}.sig")
    ended = done("encrypt", place, f"docker://{registry.host}/signed:enc", "--recipient", party.recipient)
    (line,) = [line for line in ended.errors.splitlines() if "not copied" in line]
    assert artifact in line
    assert f"the tag {root['digest'].replace(':', '-')}.sig" in line
    assert "sign the encrypted image" in line


def test_in_place_the_plain_image_is_named(registry: Registry, gzipped: Layout, party: Party) -> None:
    place = f"docker://{registry.host}/inplace:1"
    push(gzipped, place)
    (root,) = json.loads((gzipped.directory / "index.json").read_bytes())["manifests"]
    ended = done("encrypt", "--in-place", place, "--recipient", party.recipient)
    assert f"can still be pulled as {registry.host}/inplace@{root['digest']}" in ended.errors
    done("check", "--require-encrypted", "all", "--verify", place, *party.ours)
    done("layerinfo", f"docker://{registry.host}/inplace@{root['digest']}")


def test_recipients_of_all_tags(registry: Registry, gzipped: Layout, party: Party, keys: dict[str, KeyPair]) -> None:
    repository = f"docker://{registry.host}/many"
    for tag in ("1", "2", "latest"):
        done("encrypt", oci(gzipped), f"{repository}:{tag}", "--recipient", party.recipient)
    before = registry.blobs
    added = ["--recipient", f"jwe:{keys['p384'].public}"]
    dry = done("rewrap", "--dry-run", repository, *added, *party.ours, "--json").value
    assert {each["image"]: each["action"] for each in dry["images"]} == {
        f"{repository}:{tag}": "would change" for tag in ("1", "2", "latest")
    }
    assert registry.blobs == before
    done("rewrap", f"{repository}:1", *added, *party.ours)
    ended = done("rewrap", repository, *added, *party.ours, "--json").value
    assert [each["action"] for each in ended["images"]] == ["unchanged", "changed", "changed"]
    assert len(registry.blobs - before) == 3  # manifests
    for tag in ("1", "2", "latest"):
        for options in (["--key", str(keys["p384"].private)], party.ours):
            done("check", "--require-encrypted", "all", f"{repository}:{tag}", *options)
