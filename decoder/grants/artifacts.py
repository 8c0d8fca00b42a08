"""The storage of statements: one small OCI artifact for each, found by its tag (image-spec 1.1, Artifacts Guidance).

    sealed-ID                 the sealed key, a JWE
    grant-ID-FINGERPRINT      the grant of a node, a JWE, or a tombstone, a JWS
    request-ID-FINGERPRINT    in the repository of requests: a request, a JWS

Only tags are needed, so registries without the referrers API work. If an artifact is in the repository of the image,
its manifest names the image as its `subject`, so that a registry with that API lists it with the image. Manifests are
not trusted.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from decoder import limits
from decoder.errors import ImageError, UsageError, quoted
from decoder.formats import wire
from decoder.grants.errors import StatementError
from decoder.grants.statements import GRANT, ID, PRINT, REQUEST, SEALED_KEY, TOMBSTONE
from decoder.layer.digest import digest_of, split_digest
from decoder.record import Record
from decoder.registry.client import RegistryClient
from decoder.registry.hosts import UnreachableError
from decoder.registry.login import Login, Logins
from decoder.registry.queries import MANIFESTS, compare, tag_pages
from decoder.registry.reference import parse_reference

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from decoder.registry.http import Response

_MANIFEST = MANIFESTS[0]
_EMPTY = b"{}"  # image-spec, Guidance for an Empty Descriptor
_EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
_TYPE = "application/vnd.ctd-decoder.grants.{}.v1"
_FORMS = {SEALED_KEY: "+jwe", GRANT: "+jwe", REQUEST: "+jws", TOMBSTONE: "+jws"}
_REQUESTS = "-requests"
KUBELET = ("/var/lib/kubelet/config.json", "/root/.docker/config.json", "/.docker/config.json")


class Access(Record):
    """The settings for registries.

    Attributes:
        tls_verify: whether they must use TLS with a valid certificate.
        login: user and password, or ("", "") to use stored logins.
        authfile: the file with stored logins, or "" for the usual files.
        is_node: whether to use the kubelet's files with logins, too.
    """

    tls_verify: bool = True
    login: tuple[str, str] = ("", "")
    authfile: str = ""
    is_node: bool = False


class Artifact(Record):
    """An artifact.

    Attributes:
        data: the statement, encoded as in the registry.
        digest: the digest of the artifact's manifest.
        subject: the descriptor of the image that the manifest names, or None.
    """

    data: bytes
    digest: str
    subject: dict[str, Any] | None


def canonical(repository: str) -> str:
    """Return the full name of a repository, `HOST/NAME`.

    Raises:
        UsageError: it has a tag or digest.
    """
    reference = parse_reference(f"//{repository}")
    name = f"{reference.host}/{reference.name}"
    if reference.digest or reference.tag != "latest" or repository.endswith(":latest"):
        raise UsageError(f"{quoted(repository)} has a tag or digest, and only a repository is needed: {name}")
    return name


def requests_of(repository: str) -> str:
    """Return the default repository of requests for the grants of a repository."""
    return repository + _REQUESTS


def sealed_tag(identifier: str) -> str:
    """Return the tag of a sealed key."""
    return f"sealed-{identifier}"


def grant_tag(identifier: str, node: str) -> str:
    """Return the tag of a grant or tombstone."""
    return f"grant-{identifier}-{node}"


def request_tag(identifier: str, node: str) -> str:
    """Return the tag of a request."""
    return f"request-{identifier}-{node}"


def parse_tag(tag: str) -> tuple[str, str, str]:
    """Split a tag into its kind, the ID, and the fingerprint of a node; return empty strings for other tags."""
    kind, _, rest = tag.partition("-")
    identifier, _, node = rest.partition("-")
    is_ours = ID.fullmatch(identifier) and (not node if kind == "sealed" else PRINT.fullmatch(node))
    return (kind, identifier, node) if is_ours and kind in ("sealed", "grant", "request") else ("", "", "")


class Repository:
    """The artifacts of a repository; for several threads.

    Args:
        client: the client of the registry.
        name: `HOST/NAME`.
    """

    def __init__(self, client: RegistryClient, name: str) -> None:
        self.name = name
        self._client = client

    def get(self, tag: str) -> Artifact | None:
        """Fetch an artifact.

        Returns:
            The artifact, or None if the registry does not have it.

        Raises:
            ImageError: the registry fails.
            StatementError: it is not an artifact of grants, or is damaged.
        """
        with self._client.send("GET", self._client.url(f"manifests/{tag}"), {"Accept": _MANIFEST}) as response:
            if response.status == 404:
                return None
            if response.status != 200:
                raise self._client.failure(response, f"there is no {tag}")
            manifest = _read(response)
        layer, subject = _parse_manifest(manifest)
        with self._client.send("GET", self._client.url(f"blobs/{layer}")) as response:
            if response.status == 404:
                raise StatementError(f"the content of {tag} is missing")
            if response.status != 200:
                raise self._client.failure(response, f"the content of {tag} is missing")
            data = _read(response)
        if digest_of(data) != layer:
            raise StatementError(f"the content of {tag} is damaged: its digest differs")
        return Artifact(data, digest_of(manifest), subject)

    def put(self, kind: str, tag: str, data: bytes, subject: Mapping[str, Any] | None = None) -> None:
        """Store an artifact under a tag, replacing an existing one.

        Args:
            kind: the kind of statement.
            tag: the tag.
            data: the statement, at most GRANTS_ARTIFACT_BYTES.
            subject: the image's descriptor, if the image is in this repository.

        Raises:
            UsageError: the statement is too long.
            ImageError: the registry does not accept it.
        """
        if len(data) > limits.GRANTS_ARTIFACT_BYTES:
            raise UsageError(
                f"the {kind} has more than {limits.GRANTS_ARTIFACT_BYTES} bytes: the image has many layers"
            )
        media_type = _TYPE.format(kind)
        manifest: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "artifactType": media_type,
            "config": _descriptor(_EMPTY_TYPE, _EMPTY),
            "layers": [_descriptor(media_type + _FORMS[kind], data)],
        }
        if subject:
            manifest["subject"] = {name: subject[name] for name in ("mediaType", "digest", "size")}
        for blob in (_EMPTY, data):
            self.upload(blob)
        body = json.dumps(manifest, separators=(",", ":")).encode()
        url, headers = self._client.url(f"manifests/{tag}"), {"Content-Type": _MANIFEST}
        with self._client.send("PUT", url, headers, body) as response:
            if response.status != 201:
                raise self._client.failure(response, f"it does not accept {tag}")
            compare(response, digest_of(body))

    def upload(self, blob: bytes) -> None:
        """Store a blob (distribution-spec, Pushing a blob monolithically).

        Raises:
            ImageError: the registry does not accept it.
            DigestError: the registry received something else.
        """
        digest = digest_of(blob)
        with self._client.send("HEAD", self._client.url(f"blobs/{digest}")) as response:
            if response.status == 200:
                return
        url = self._client.url("blobs/uploads/")
        with self._client.send("POST", url) as response:
            if response.status != 202:
                raise self._client.failure(response, "it does not accept blobs")
            location = self._client.location(response, url)
        location = f"{location}{'&' if '?' in location else '?'}digest={quote(digest, safe=':')}"
        headers = {"Content-Type": "application/octet-stream"}
        with self._client.send("PUT", location, headers, blob) as response:
            if response.status not in (201, 204):
                raise self._client.failure(response, "it does not accept a blob")
            compare(response, digest)

    def delete(self, digest: str) -> bool:
        """Delete a manifest and all of its tags.

        Returns:
            Whether the registry deleted it; many do not.
        """
        with self._client.send("DELETE", self._client.url(f"manifests/{digest}")) as response:
            return response.status in (202, 204)

    def tags(self, kind: str, identifier: str = "", node: str = "") -> list[str]:
        """Return the tags of one kind, sorted, among the first REGISTRY_TAGS of the repository.

        The repository of requests exists only once a node has asked; before that, it has none.

        Args:
            kind: `sealed`, `grant` or `request`.
            identifier: the ID of a key, or "" for all keys.
            node: the fingerprint of a node, or "" for all nodes.

        Raises:
            ImageError: the registry does not list tags.
        """
        found = []
        read = 0
        for page in tag_pages(self._client, may_be_absent=kind == "request"):
            read += len(page)
            for tag in page:
                its_kind, its_id, its_node = parse_tag(tag)
                if its_kind == kind and identifier in ("", its_id) and node in ("", its_node):
                    found.append(tag)
            if read > limits.REGISTRY_TAGS:
                break
        return sorted(set(found))


@contextmanager
def opened(repository: str, access: Access, actions: str = "pull") -> Iterator[Repository]:
    """Open a repository.

    Args:
        repository: `HOST/NAME`, as `canonical` returns it.
        access: the settings for registries.
        actions: the rights to ask for: `pull`, `pull,push` or `pull,push,delete`.

    Raises:
        ImageError: the registry cannot be used.
    """
    reference = parse_reference(f"//{repository}")
    logins = Logins(
        access.authfile, Login(*access.login) if access.login[0] else None, KUBELET if access.is_node else ()
    )
    scopes = [f"repository:{reference.name}:{actions}"]
    with RegistryClient(reference, access.tls_verify, scopes, logins) as client:
        yield Repository(client, repository)


def _read(response: Response) -> bytes:
    """Read a body. If it is too long, the artifact is at fault and not the registry, so raise StatementError."""
    try:
        return response.read(limits.GRANTS_ARTIFACT_BYTES)
    except UnreachableError:
        raise
    except ImageError as error:
        raise StatementError(str(error)) from error


def _descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}


def _parse_manifest(data: bytes) -> tuple[str, dict[str, Any] | None]:
    """Return the digest of the only layer, and the descriptor of the image or None."""
    try:
        value = wire.parse_object(data)
        (layer,) = map(wire.object_value, wire.list_value(value.get("layers")))
        digest = wire.text_value(layer.get("digest"))
        split_digest(digest)
        subject = wire.object_value(value.get("subject"))
    except (ValueError, ImageError) as error:
        raise StatementError(f"it is not an artifact of grants: {error}") from error
    if not digest.startswith("sha256:"):
        raise StatementError("it is not an artifact of grants: its digest is not SHA-256")
    return digest, subject if _is_image(subject) else None


def _is_image(subject: Mapping[str, object]) -> bool:
    try:
        split_digest(subject.get("digest"))
    except ImageError:
        return False
    return subject.get("mediaType") in MANIFESTS and type(subject.get("size")) is int
