"""Files of Secrets follow what the API server says at once; what the kubelet mounts counts where it says nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.support.kubernetes.manifests import MANIFESTS
from tests.support.kubernetes.mounted_secrets import Volume
from tests.support.kubernetes.watch_server import NAME, NAMESPACE, WatchServer, event
from tests.support.network.certificates import issue
from tests.support.provider.serving import wait_for

_START = (
    f"import sys; sys.path.insert(0, {str(MANIFESTS)!r})\n"
    "import install_on_node, kubernetes_api\n"
    "kubernetes_api._PAUSES = (0.05, 0.1)\n"
    "sys.exit(install_on_node.main())"
)


class Node:
    """A node's directory, the volume that the kubelet mounts, and the program that follows."""

    def __init__(self, directory: Path) -> None:
        self.place, self.volume = directory / "ocicrypt", Volume(directory / "mounted")
        self._errors = directory / "errors"

    @contextmanager
    def following(self, server: WatchServer) -> Iterator[None]:
        arguments: list[str | Path] = ["follow", "--every", "0.05", "--files", self.volume.directory, self.place]
        arguments += ["--secret", NAME, self.volume.directory, "--account", server.directory]
        with (
            self._errors.open("wb") as errors,
            subprocess.Popen(
                [sys.executable, "-c", _START, *arguments],
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env={**os.environ, **server.environment},
            ) as process,
        ):
            try:
                yield
            finally:
                process.terminate()
            assert process.wait(120) == 0

    @property
    def errors(self) -> list[str]:
        """Its lines about the Secret, and about nothing else, such as a volume that just changes."""
        return [line for line in self._errors.read_text().splitlines(keepends=True) if "is not watched" in line]

    def has(self, **files: str) -> bool:
        expected = {name.replace("_", "."): text for name, text in files.items()}
        found = {}
        for path in self.place.glob("[!.]*.*"):
            with suppress(FileNotFoundError):  # it is just replaced or removed
                found[path.name] = path.read_text()
        return found == expected


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WatchServer]:
    (tmp_path / "account").mkdir()
    with WatchServer(tmp_path / "account") as running:
        yield running


@pytest.fixture
def node(tmp_path: Path) -> Node:
    made = Node(tmp_path)
    made.volume.write({"a.key": b"mounted"})
    return made


def test_a_change_is_on_the_node_before_the_kubelet_mounts_it(server: WatchServer, node: Node) -> None:
    server.first = event("ADDED", a_key="mounted")
    with node.following(server):
        wait_for(lambda: node.has(a_key="mounted"))
        server.events.put(event("MODIFIED", a_key="changed", b_key="new"))
        wait_for(lambda: node.has(a_key="changed", b_key="new"))
        server.events.put(event("MODIFIED", b_key="new"))
        wait_for(lambda: node.has(b_key="new"))
        node.volume.write({"a.key": b"changed", "b.key": b"new"})  # the kubelet is late
        server.events.put(event("BOOKMARK") + event("MODIFIED", b_key="newer"))
        wait_for(lambda: node.has(b_key="newer"))
        server.hang_up()
    path, authorization = server.watches[0]
    assert authorization == "Bearer secret-token"
    assert urlsplit(path).path == f"/api/v1/namespaces/{NAMESPACE}/secrets"
    query = parse_qs(urlsplit(path).query)
    assert (query["watch"], query["fieldSelector"]) == (["true"], [f"metadata.name={NAME}"])
    assert not [line for line in node.errors if "is not watched" not in line]


def test_a_watch_that_ends_begins_again(server: WatchServer, node: Node) -> None:
    server.first = event("ADDED", a_key="first")
    with node.following(server):
        wait_for(lambda: node.has(a_key="first"))
        server.first = event("ADDED", a_key="second")
        server.hang_up()
        wait_for(lambda: node.has(a_key="second"))
        server.first = event("ADDED", a_key="third")
        gone = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old"}}
        server.events.put(json.dumps(gone).encode() + b"\n")
        wait_for(lambda: node.has(a_key="third"))
        server.hang_up()
    assert any("too old" in line for line in node.errors)


def test_what_is_mounted_counts_while_the_api_server_is_away(server: WatchServer, node: Node) -> None:
    """What it has said last stays until the kubelet mounts something else."""
    server.first = event("ADDED", a_key="said")
    with node.following(server):
        wait_for(lambda: node.has(a_key="said"))
        server.status = 503
        server.hang_up()
        wait_for(lambda: bool(node.errors))
        assert node.has(a_key="said")
        node.volume.write({"a.key": b"mounted later"})
        wait_for(lambda: node.has(a_key="mounted later"))
        server.status = 200
        server.first = event("ADDED", a_key="said again")
        wait_for(lambda: node.has(a_key="said again"))
        server.events.put(event("DELETED"))
        wait_for(lambda: node.has(a_key="mounted later"))
        server.hang_up()


@pytest.mark.parametrize(
    ("status", "first", "reason"),
    [
        (403, b"", "with 403: secrets is forbidden"),
        (200, b"{]\n", "Expecting"),
        (200, b'{"type": "ADDED"}\n', "malformed"),
        (200, event("ADDED", name="other", a_key="other"), "about another Secret"),
        (200, event("ADDED").replace(b'"data": {}', b'"data": {"../a.key": "AAAA"}'), "not the name of a file"),
        (200, event("ADDED").replace(b'"data": {}', b'"data": {"a.key": "%%"}'), "base64"),
        (200, b" " * (4 * 1024 * 1024 + 2), "more than 4194304 bytes"),
    ],
    ids=["refused", "JSON", "event", "name", "path", "base64", "size"],
)
def test_what_cannot_be_used_is_said_once(
    status: int, first: bytes, reason: str, server: WatchServer, node: Node
) -> None:
    server.status, server.first = status, first
    with node.following(server):
        wait_for(lambda: any(reason in line for line in node.errors))
        wait_for(lambda: node.has(a_key="mounted"))
        if status == 200:
            wait_for(lambda: len(server.watches) > 3)
        node.volume.write({"b.key": b"later"})
        wait_for(lambda: node.has(b_key="later"))
        server.hang_up()
    assert all(before != after for before, after in pairwise(node.errors))  # a slow machine may add another reason
    assert all("its files change when the kubelet updates the mount" in line for line in node.errors)


def test_an_api_server_with_another_authority_gets_no_token(server: WatchServer, node: Node) -> None:
    server.first = event("ADDED", a_key="of somebody")
    issue("another").write(server.directory / "ca.crt")
    with node.following(server):
        wait_for(lambda: any("CERTIFICATE_VERIFY_FAILED" in line for line in node.errors))
        wait_for(lambda: node.has(a_key="mounted"))
    assert server.watches == []
