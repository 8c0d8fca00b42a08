"""The commands of docs/grants.md, in their order: a pull that is refused, approved, works, and is revoked."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.image import images
from tests.support.image.command import run
from tests.support.image.images import GZIP
from tests.support.node import cri
from tests.support.node.containerd import Containerd, ctr_finds_it
from tests.support.node.roots import SUITES, Suite
from tests.support.program.processes import ROOT
from tests.support.registry import registries

PAGE = (ROOT / "docs/grants.md").read_text()
HOST = "localhost:5000"  # as the page has it
NAMESPACE = f"grants-{os.getpid()}"  # also the name of the cgroup that containerd makes for its containers
_FOUND = re.compile(r"fingerprint of this node, (jwk-sha256:[0-9a-f]{64})")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


ENCRYPT, NODE, REFUSED, LIST, APPROVE, WORKS, REVOKE = blocks("sh")
MESSAGE, LISTED = blocks("text")


class Walk:
    """Whoever walks: a shell in a directory, where a containerd runs."""

    def __init__(self, containerd: Containerd, directory: Path, registry: str) -> None:
        self._containerd = containerd
        self._directory = directory
        self._registry = registry

    def run(self, block: str, fingerprint: str = "") -> str:
        """Run a block of the page, which must succeed, and return its output."""
        status, output, errors = self.try_to_run(block, fingerprint)
        assert status == 0, errors
        return output

    def try_to_run(self, block: str, fingerprint: str = "") -> tuple[int, str, str]:
        """Run a block of the page up to its first failure."""
        text = block.replace(HOST, self._registry).replace("FINGERPRINT", fingerprint)
        ended = self._containerd.execute("sh", "-c", f"set -e\ncd '{self._directory}'\n{text}")
        return ended.returncode, ended.stdout, ended.stderr

    def refused(self, message: str) -> str:
        """Pull, which must fail, and return the fingerprint in the message."""
        status, _, errors = self.try_to_run(REFUSED)
        assert status != 0
        assert message in errors
        found = _FOUND.search(errors)
        assert found, errors
        return found[1]


@pytest.fixture(autouse=True)
def client() -> Iterator[None]:
    with ctr_finds_it(NAMESPACE):
        yield


def manifest_of(registry: str, repository: str, tag: str) -> bytes:
    """Read a manifest as any client does."""
    request = urllib.request.Request(
        f"http://{registry}/v2/{repository}/manifests/{tag}",
        headers={"Accept": "application/vnd.oci.image.manifest.v1+json"},
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        content: bytes = response.read()
    return content


def sign(directory: Path, content: bytes) -> None:
    """Sign a manifest with openssl, detached, as a release process may do."""
    (directory / "manifest").write_bytes(content)
    run("openssl", "ecparam", "-genkey", "-noout", "-name", "prime256v1", "-out", directory / "signer.pem")
    run("openssl", "pkey", "-in", directory / "signer.pem", "-pubout", "-out", directory / "signer.pub")
    signing = ("openssl", "dgst", "-sha256", "-sign", directory / "signer.pem", "-out", directory / "signature")
    run(*signing, directory / "manifest")


def verify(directory: Path, content: bytes) -> None:
    (directory / "manifest").write_bytes(content)
    verifying = (
        "openssl",
        "dgst",
        "-sha256",
        "-verify",
        directory / "signer.pub",
        "-signature",
        directory / "signature",
    )
    assert "Verified OK" in run(*verifying, directory / "manifest")


def test_the_walk(tmp_path: Path) -> None:
    images.write_image(tmp_path / "app", GZIP)
    nodes = [tmp_path / name for name in ("node-1", "node-2")]
    for node in nodes:
        node.mkdir()
    with registries.serving(tmp_path / "registry") as registry:
        with Containerd(nodes[0]) as containerd:
            walk = Walk(containerd, tmp_path, registry.host)
            walk.run(ENCRYPT)
            before = manifest_of(registry.host, "team/app", "1")
            sign(tmp_path, before)
            walk.run(NODE)
            fingerprint = walk.refused(MESSAGE.strip().replace(HOST, registry.host))
            assert f"--key OWNER.key {registry.host}/team/app" in walk.try_to_run(REFUSED)[2]
            listed = walk.run(LIST)
            assert f"image        'sha256:{hashlib.sha256(before).hexdigest()}'" in listed
            assert [line.split()[0] for line in listed.splitlines()[1:] if line] == [
                line.split()[0] for line in LISTED.splitlines()[1:] if line
            ]
            assert listed.startswith(fingerprint)
            assert f"{fingerprint} granted until 2" in walk.run(APPROVE, fingerprint)
            output = walk.run(WORKS)
            assert images.expected_output() in output
            assert "revoked" in walk.run(REVOKE, fingerprint)
        with Containerd(nodes[1]) as containerd:
            walk = Walk(containerd, tmp_path, registry.host)
            walk.run(NODE)
            other = walk.refused(MESSAGE.strip().replace(HOST, registry.host))
            assert other != fingerprint
            walk.run(APPROVE, other)
            assert images.expected_output() in walk.run(WORKS)
        after = manifest_of(registry.host, "team/app", "1")
        assert after == before  # two nodes came, and one went
        verify(tmp_path, after)
        secrets = {hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.glob("*.key")}
        assert {digest.removeprefix("sha256:") for digest in registry.blobs}.isdisjoint(secrets)


def test_the_old_node_is_refused_after_its_key_was_revoked(tmp_path: Path) -> None:
    """On a fresh containerd, where nothing is unpacked and no agent remembers anything."""
    images.write_image(tmp_path / "app", GZIP)
    with registries.serving(tmp_path / "registry") as registry:
        for number in range(2):
            directory = tmp_path / f"containerd-{number}"
            directory.mkdir()
            with Containerd(directory) as containerd:
                walk = Walk(containerd, tmp_path, registry.host)
                if number == 0:
                    walk.run(ENCRYPT)
                    walk.run(NODE + f"cp -r /etc/ctd-decoder/grants '{tmp_path}/node'\n")
                    fingerprint = walk.refused("there is no grant for this node")
                    walk.run(APPROVE, fingerprint)
                    assert images.expected_output() in walk.run(WORKS)
                    walk.run(REVOKE, fingerprint)
                else:
                    walk.run(NODE.replace("ctd-decoder image keygen --type p256 /etc/ctd-decoder/grants/node", ""))
                    walk.run(f"cp '{tmp_path}'/node/node.key /etc/ctd-decoder/grants/")
                    assert walk.refused("the owner has revoked access for this node") == fingerprint
    shutil.rmtree(tmp_path / "node")


@pytest.mark.parametrize("suite", [SUITES[0], SUITES[-1]], ids=lambda suite: suite.name)
def test_the_kubelets_pull_waits_for_approval(suite: Suite, tmp_path: Path) -> None:
    """A pod whose pull began before anybody had approved the node: with `wait` the same pull succeeds."""
    images.write_image(tmp_path / "app", GZIP)
    directory = tmp_path / "node"
    directory.mkdir()
    with (
        registries.serving(tmp_path / "registry") as registry,
        Containerd(directory, programs=suite.programs) as containerd,
        ThreadPoolExecutor(1) as pool,
    ):
        walk = Walk(containerd, tmp_path, registry.host)
        walk.run(ENCRYPT)
        walk.run(NODE.replace('"name"', '"wait": "90", "name"'))
        pull = pool.submit(cri.pull_image, containerd.socket, f"{registry.host}/team/app:1")
        while "state        waits" not in (listed := walk.try_to_run(LIST)[1]):
            assert not pull.done(), pull.exception()
            time.sleep(0.2)
        walk.run(APPROVE, listed.split()[0])
        assert pull.result(100).startswith("sha256:")
        ran = containerd.run_stock(f"{registry.host}/team/app:1", cri.NAMESPACE)
        assert images.expected_output() in ran.stdout, ran.stderr


def test_the_repository_has_what_the_page_says(tmp_path: Path) -> None:
    """Artifacts in a registry without the referrers API, as any client sees them."""
    images.write_image(tmp_path / "app", GZIP)
    directory = tmp_path / "node"
    directory.mkdir()
    with registries.serving(tmp_path / "registry") as registry, Containerd(directory) as containerd:
        walk = Walk(containerd, tmp_path, registry.host)
        walk.run(ENCRYPT)
        walk.run(NODE)
        walk.run(APPROVE, walk.refused("there is no grant for this node"))
        tags = json.loads(run("skopeo", "list-tags", "--tls-verify=false", f"docker://{registry.host}/team/app"))[
            "Tags"
        ]
        kinds = sorted(tag.partition("-")[0] for tag in tags)
        assert kinds == ["1", "grant", "sealed"]
        subject = hashlib.sha256(manifest_of(registry.host, "team/app", "1")).hexdigest()
        for tag in tags:
            if tag != "1":
                artifact = json.loads(manifest_of(registry.host, "team/app", tag))
                assert artifact["subject"]["digest"] == f"sha256:{subject}"
                assert artifact["artifactType"].startswith("application/vnd.ctd-decoder.grants.")
