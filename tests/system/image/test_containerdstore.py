"""Images in a real containerd's store: what ours writes there, ctr sees, runs and keeps; and the other way round."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from decoder.errors import DigestError, ImageError
from decoder.image import transport
from decoder.image.transport import Options
from tests.support.image import images
from tests.support.image.command import done, image, oci
from tests.support.node.containerd import Containerd
from tests.support.node.roots import SUITES, Suite
from tests.support.registry import registries
from tests.support.registry.registries import pull, push

if TYPE_CHECKING:
    from tests.support.image.images import Layout
    from tests.support.keys.parties import Party

INDEX = "application/vnd.oci.image.index.v1+json"


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    return images.write_image(tmp_path_factory.mktemp("image") / "layout", images.GZIP)


@pytest.fixture(scope="module", params=SUITES, ids=lambda suite: suite.name)
def containerd(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    """The containerd of each suite."""
    suite: Suite = request.param
    with Containerd(tmp_path_factory.mktemp("containerd"), programs=suite.programs) as containerd:
        yield containerd


@pytest.fixture
def options(containerd: Containerd) -> Iterator[Options]:
    """A namespace for one test, in which nothing is left open."""
    namespace = f"test-{os.urandom(4).hex()}"
    yield Options(namespace=namespace, address=str(containerd.socket))
    assert ctr(containerd, namespace, "leases", "list", "--quiet") == ""
    assert len(ctr(containerd, namespace, "content", "active").splitlines()) == 1  # its header


def ctr(containerd: Containerd, namespace: str, *arguments: str) -> str:
    result = containerd.ctr("--namespace", namespace, *arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


def content(containerd: Containerd, namespace: str) -> set[str]:
    """List the digests of a namespace."""
    return set(ctr(containerd, namespace, "content", "list", "--quiet").split())


def collect(containerd: Containerd, namespace: str, layout: Layout) -> None:
    """Have the garbage collected: an image that is removed synchronously waits for that."""
    imported = containerd.import_image(layout, "--no-unpack", repository="garbage", namespace=namespace)
    assert imported.returncode == 0, imported.stderr
    ctr(containerd, namespace, "images", "remove", "--sync", f"garbage:{images.NAME}")


def root_of(layout: Layout) -> dict[str, Any]:
    (root,) = json.loads((layout.directory / "index.json").read_bytes())["manifests"]
    return dict(root)


def digests_of(layout: Layout) -> set[str]:
    return {each["digest"] for each in (root_of(layout), layout.manifest["config"], *layout.layers)}


def other_image(directory: Path) -> Layout:
    """Make an image that shares no blob with the usual one."""
    return images.write_layers(directory, [images.packed(images.tar_of({"garbage": os.urandom(999)}), images.GZIP)])


def test_an_image_is_checked_run_and_kept(
    containerd: Containerd, options: Options, layout: Layout, tmp_path: Path
) -> None:
    name = "host.example/image:tag"
    push(layout, f"containerd:{name}", options)
    checked = ctr(containerd, options.namespace, "images", "check", f"name=={name}")
    assert "complete (4/4)" in checked
    assert root_of(layout)["digest"] in checked
    other = other_image(tmp_path / "other")
    collect(containerd, options.namespace, other)
    assert content(containerd, options.namespace) == digests_of(layout)
    run = containerd.run_stock(name, options.namespace)
    assert (run.stdout, run.returncode) == (images.expected_output(), 0), run.stderr
    assert pull(f"containerd:{name}", options).keys() == digests_of(layout)


def test_commands(containerd: Containerd, options: Options, layout: Layout, parties: dict[str, Party]) -> None:
    """From a layout to an encrypted image, and within the store to a plain one that runs."""
    party, where = parties["jwe"], ["--namespace", options.namespace, "--address", options.address]
    secret, plain = "containerd:host.example/secret:1", "containerd:host.example/plain:1"
    done("encrypt", oci(layout), secret, "--recipient", party.recipient, *where)
    assert {each["opens"] for each in done("layerinfo", secret, *party.ours, "--json", *where).value["layers"]} == {
        True
    }
    assert "complete (4/4)" in ctr(containerd, options.namespace, "images", "check", "name==host.example/secret:1")
    done("encrypt", secret, secret, "--recipient", parties["pkcs7"].recipient, *party.ours, *where)
    done("decrypt", secret, plain, *parties["pkcs7"].ours, *where)
    run = containerd.run_stock("host.example/plain:1", options.namespace)
    assert (run.stdout, run.returncode) == (images.expected_output(), 0), run.stderr
    absent = image("layerinfo", secret, "--namespace", "other", "--address", options.address)
    assert (absent.status, "not found" in absent.errors) == (7, True)


def test_other_recipients(
    containerd: Containerd, options: Options, layout: Layout, parties: dict[str, Party], tmp_path: Path
) -> None:
    """rewrap changes the manifest alone, and names what stands under cosign's tags."""
    old, new = parties["jwe"], parties["pkcs7"]
    where = ["--namespace", options.namespace, "--address", options.address]
    name = "containerd:host.example:5000/secret:1"
    done("encrypt", oci(layout), name, "--recipient", old.recipient, *where)
    before = content(containerd, options.namespace)
    digest = pull_root(name, options)
    signature = other_image(tmp_path / "signature")
    push(signature, f"{name.removesuffix(':1')}:{digest.replace(':', '-')}.sig", options)
    dry = done("rewrap", "--dry-run", name, "--recipient", new.recipient, *old.ours, *where, "--json").value
    assert [(each["action"], each["digest"]) for each in dry["images"]] == [("would change", digest)]
    ended = done("rewrap", name, "--recipient", new.recipient, *old.ours, *where)
    (line,) = [line for line in ended.errors.splitlines() if "must be created again" in line]
    assert f"the image host.example:5000/secret:{digest.replace(':', '-')}.sig" in line
    assert [each for each in dry["remarks"] if each in line]
    collect(containerd, options.namespace, other_image(tmp_path / "garbage"))
    left = content(containerd, options.namespace) - digests_of(signature)
    assert left == before - {digest} | {pull_root(name, options)}
    assert not left & {each["digest"] for each in layout.layers}
    removed = done("rewrap", name, "--remove-recipient", "jwe:", *new.ours, *where)
    assert "removing a recipient does not revoke access" in removed.errors
    assert "must be created again" not in removed.errors
    assert image("check", name, *old.ours, *where).status == 4
    done("check", "--require-encrypted", "all", "--verify", name, *new.ours, *where)


def pull_root(name: str, options: Options) -> str:
    with transport.open_source(name, options) as source:
        return str(source.root()["digest"])


def test_ours_reads_what_ctr_imports(containerd: Containerd, options: Options, layout: Layout) -> None:
    assert containerd.import_image(layout, "--no-unpack", namespace=options.namespace).returncode == 0
    found = pull(f"containerd:image:{images.NAME}", options)
    assert found.keys() == digests_of(layout)
    assert all(images.digest_of(blob) == digest for digest, blob in found.items())


def test_an_index_holds_its_manifests(containerd: Containerd, options: Options, layout: Layout, tmp_path: Path) -> None:
    child = root_of(layout)
    data = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [child]}).encode()
    root = {"mediaType": INDEX, "digest": images.digest_of(data), "size": len(data)}
    with transport.open_target("containerd:index", options) as target:
        for descriptor in (layout.manifest["config"], *layout.layers):
            registries.write(target, layout.read(descriptor), descriptor["digest"])
        target.put_manifest(layout.read(child), child)
        target.put_manifest(data, root)
        assert registries.read(target, root) == data
        target.publish(root)
    collect(containerd, options.namespace, other_image(tmp_path / "other"))
    assert content(containerd, options.namespace) == {*digests_of(layout), root["digest"]}
    with transport.open_source("containerd:index", options) as source:
        assert source.root() == root


def test_what_is_not_published_is_garbage(
    containerd: Containerd, options: Options, layout: Layout, tmp_path: Path
) -> None:
    with transport.open_target("containerd:unpublished", options) as target:
        for descriptor in (layout.manifest["config"], *layout.layers):
            registries.write(target, layout.read(descriptor), descriptor["digest"])
        target.put_manifest(layout.read(root_of(layout)), root_of(layout))
        collect(containerd, options.namespace, other_image(tmp_path / "one"))
        assert content(containerd, options.namespace) == digests_of(layout)  # the lease holds it
    collect(containerd, options.namespace, other_image(tmp_path / "two"))
    assert content(containerd, options.namespace) == set()
    with pytest.raises(ImageError, match=r"containerd:unpublished: .*not found"):
        pull("containerd:unpublished", options)


def test_what_is_there_is_held_and_not_written_again(
    containerd: Containerd, options: Options, layout: Layout, tmp_path: Path
) -> None:
    """Blobs whose only image goes while ours is being written, and one that turns out to be there."""
    push(layout, "containerd:old", options)
    with transport.open_target("containerd:new", options) as target:
        first, *others = (layout.manifest["config"], *layout.layers)
        registries.write(target, layout.read(first), first["digest"])
        assert all(target.has(descriptor) for descriptor in others)
        assert not target.has({**others[0], "size": 1})
        ctr(containerd, options.namespace, "images", "remove", "--sync", "old")
        assert content(containerd, options.namespace) == digests_of(layout) - {root_of(layout)["digest"]}
        target.put_manifest(layout.read(root_of(layout)), root_of(layout))
        target.publish(root_of(layout))
    collect(containerd, options.namespace, other_image(tmp_path / "other"))
    assert content(containerd, options.namespace) == digests_of(layout)


def test_a_manifest_that_was_there_gets_its_labels(
    containerd: Containerd, options: Options, layout: Layout, tmp_path: Path
) -> None:
    push(layout, "containerd:image", options)
    digest = root_of(layout)["digest"]
    with transport.open_target("containerd:other", options) as target:
        assert all(target.has(descriptor) for descriptor in (layout.manifest["config"], *layout.layers))
        emptied = [f"containerd.io/gc.ref.content.{number}=" for number in range(4)]
        ctr(containerd, options.namespace, "content", "label", digest, *emptied)
        target.put_manifest(layout.read(root_of(layout)), root_of(layout))
        target.publish(root_of(layout))
    collect(containerd, options.namespace, other_image(tmp_path / "other"))
    assert content(containerd, options.namespace) == digests_of(layout)


def test_a_name_gets_another_image(containerd: Containerd, options: Options, layout: Layout, tmp_path: Path) -> None:
    push(layout, "containerd:image", options)
    ctr(containerd, options.namespace, "images", "label", "image", "kept=label")
    other = other_image(tmp_path / "other")
    push(other, "containerd:image", options)
    listed = ctr(containerd, options.namespace, "images", "list", "name==image")
    assert root_of(other)["digest"] in listed
    assert "kept=label" in listed
    assert pull("containerd:image", options).keys() == digests_of(other)


def test_a_wrong_digest_is_refused_by_containerd(options: Options) -> None:
    blob, other = os.urandom(3_000_000), images.digest_of(b"other")
    with transport.open_target("containerd:image", options) as target:
        with pytest.raises(DigestError, match=f"containerd received something other than {other}"):
            registries.write(target, blob, other)
        for digest in (other, images.digest_of(blob)):
            assert not target.has({"mediaType": "", "digest": digest, "size": len(blob)})
        registries.write(target, blob, images.digest_of(blob))


def test_what_is_not_committed_is_not_there(options: Options, layout: Layout) -> None:
    blob = os.urandom(2_500_000)
    descriptor: dict[str, Any] = {"mediaType": "", "digest": images.digest_of(blob), "size": len(blob)}
    with transport.open_target("containerd:image", options) as target:
        with target.create(len(blob)) as writer:
            registries.write_all(writer, blob)
        assert not target.has(descriptor)
        with target.create(len(blob) + 1) as writer:
            registries.write_all(writer, blob)
            with pytest.raises(ImageError, match="a blob has 2500000 bytes instead of"):
                writer.commit(descriptor["digest"], len(blob))
        with pytest.raises(ImageError, match="is not a sha256 or sha512 digest"):
            target.has({**descriptor, "digest": "sha256:../.."})
        registries.write(target, b"", images.digest_of(b""))
        assert registries.read(target, {"mediaType": "", "digest": images.digest_of(b""), "size": 0}) == b""
        with pytest.raises(ImageError, match=f"containerd has no {layout.layers[0]['digest']} in this namespace"):
            registries.read(target, layout.layers[0])


def test_a_descriptor_with_another_size(options: Options, layout: Layout) -> None:
    push(layout, "containerd:image", options)
    descriptor = {**layout.layers[0], "size": 5}
    with (
        transport.open_source("containerd:image", options) as source,
        pytest.raises(DigestError, match="but 5 in its descriptor"),
        source.open(descriptor),
    ):
        pass


def test_side_by_side(options: Options) -> None:
    blobs = [os.urandom(3_000_000 + number) for number in range(6)]
    with transport.open_target("containerd:image", options) as target:
        writers = [
            threading.Thread(target=registries.write, args=(target, blob, images.digest_of(blob))) for blob in blobs
        ]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        for blob in blobs:
            descriptor: dict[str, Any] = {"mediaType": "", "digest": images.digest_of(blob), "size": len(blob)}
            assert registries.read(target, descriptor) == blob


def test_giving_up_reading(options: Options) -> None:
    """Whoever leaves early does not keep a thread or a call."""
    blob = os.urandom(20_000_000)
    descriptor: dict[str, Any] = {"mediaType": "", "digest": images.digest_of(blob), "size": len(blob)}
    with transport.open_target("containerd:image", options) as target:
        registries.write(target, blob, descriptor["digest"])
        before = threading.active_count()
        for _ in range(5):
            with target.open(descriptor) as reader:
                assert reader.readinto(memoryview(bytearray(10))) == 10
        deadline = time.monotonic() + 5
        while threading.active_count() > before and time.monotonic() < deadline:
            time.sleep(0.02)
        assert threading.active_count() <= before
