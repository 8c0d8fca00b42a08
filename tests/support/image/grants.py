"""Owners, publishers and nodes with their keys, and a registry whose content tests can change."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec

from decoder.grants import artifacts, keys, statements
from decoder.grants.approval.approver import Approver
from decoder.grants.approval.policy import read_policy
from decoder.grants.artifacts import Access
from decoder.grants.keys import FileKey
from decoder.grants.node import Identity, Node
from decoder.grants.node import Owner as Pinned
from decoder.grants.owner import Owner, acting, after_days
from decoder.grants.place import Place
from decoder.grants.statements import SealedKey
from decoder.keys.privatekey import PrivateKey
from tests.support.image.images import digest_of
from tests.support.keywrap.layers import pem

if TYPE_CHECKING:
    from tests.support.registry.memory_registry import MemoryRegistry

ACCESS = Access()
NAME = "team/app"
LAYER = f"sha256:{'1' * 64}"
KEK = bytes(range(32))
ID = "0123456789abcdef" * 2


def new_key(curve: type[ec.EllipticCurve] = ec.SECP256R1) -> FileKey:
    """Make a key that nobody else has."""
    return of_private(ec.generate_private_key(curve()))


def of_private(key: Any) -> FileKey:
    """Wrap a key of the library."""
    return FileKey(PrivateKey("test", "pem", pem(key), b""))


def believed(*of: FileKey) -> dict[str, Any]:
    """Pin the public halves of some keys."""
    return {keys.fingerprint(key.public): key.public for key in of}


class Parties(NamedTuple):
    """A key for everybody, and the registry."""

    registry: MemoryRegistry
    owner: FileKey
    publisher: FileKey
    node: FileKey

    @property
    def repository(self) -> str:
        """The repository of the grants, with its host."""
        return f"{self.registry.host}/{NAME}"

    @property
    def place(self) -> Place:
        """What the annotation of the one image says."""
        return Place(self.repository, ID)

    @property
    def node_print(self) -> str:
        """The fingerprint of the node."""
        return keys.fingerprint(self.node.public)

    def sealed(self, **changes: Any) -> SealedKey:
        """Return what is sealed for the one image."""
        sealed = SealedKey(self.repository, ID, KEK, tuple(believed(self.owner)), (LAYER,), 1)
        return sealed._replace(**changes)

    def put_sealed(self, sealed: SealedKey | None = None, signer: FileKey | None = None, tag: str = ID) -> None:
        """Put a sealed key where that of the image belongs."""
        signed = statements.build_sealed_key(sealed or self.sealed(), signer or self.publisher)
        self.put(artifacts.sealed_tag(tag), keys.encrypt(signed, [self.owner.public]))

    def put(self, tag: str, data: bytes, name: str = NAME) -> None:
        """Serve an artifact, as a registry can that is not honest."""
        self.registry.blobs[digest_of(data)] = data
        descriptor = {"mediaType": "application/x", "digest": digest_of(data), "size": len(data)}
        manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json"}
        content = json.dumps({**manifest, "artifactType": "x", "config": descriptor, "layers": [descriptor]}).encode()
        for version in (tag, digest_of(content)):
            self.registry.manifests[f"{name}:{version}"] = (content, str(manifest["mediaType"]))

    def get(self, tag: str, name: str = NAME) -> bytes:
        """Return the content of an artifact."""
        manifest = json.loads(self.registry.manifests[f"{name}:{tag}"][0])
        return self.registry.blobs[manifest["layers"][0]["digest"]]

    @property
    def grant_tag(self) -> str:
        """The tag of the grant for the node."""
        return artifacts.grant_tag(ID, self.node_print)

    def acting(self, *publishers: FileKey, repository: str = "") -> Any:
        """Act as the owner."""
        return acting(self.owner, believed(*(publishers or (self.publisher,))), repository or self.repository, ACCESS)

    def grant(self, days: int = 1) -> None:
        """Grant the node access."""
        owner: Owner
        with self.acting() as owner:
            owner.grant(ID, self.node.public, after_days(days))

    def client(self, key: FileKey | None = None, wait: float = 0, pattern: str = "*/team/*", name: str = "w1") -> Node:
        """Return the node."""
        identity = Identity(key or self.node, name, ())
        return Node(identity, [Pinned(pattern, self.owner.public)], "", wait, ACCESS)


def write_private(path: Path, key: FileKey) -> Path:
    """Write a private key to a file that only its owner can read."""
    path.write_bytes(pem(key._private))
    os.chmod(path, 0o600)
    return path


class Run:
    """An approver, and what it said."""

    def __init__(self, policy: Path, parties: Parties, dry_run: bool = False) -> None:
        self.lines: list[dict[str, Any]] = []
        self._parties = parties
        self.policy = policy
        self.approver = Approver(ACCESS, lambda text: self.lines.append(json.loads(text)), dry_run)

    def round(self) -> bool:
        return self.approver.round(read_policy(str(self.policy)), self._parties.owner)

    @property
    def decisions(self) -> dict[str, int]:
        return {name: count for name, count in self.approver.counts.items() if count}
