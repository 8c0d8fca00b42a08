"""Requests to a registry about manifests, blobs and tags (distribution-spec 1.1)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

from decoder import limits
from decoder.errors import DigestError, ImageError, quoted
from decoder.formats.mediatypes import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from decoder.layer.digest import RunningDigest, split_digest
from decoder.registry.reference import is_tag

if TYPE_CHECKING:
    from decoder.registry.client import RegistryClient
    from decoder.registry.http import Response

MANIFESTS = (OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST)
DIGEST_HEADER = "Docker-Content-Digest"

Descriptor = dict[str, Any]
"""An OCI descriptor as parsed JSON: `mediaType`, `digest`, `size`, and its other members."""


def tags(client: RegistryClient) -> list[str]:
    """Return all tags of a repository, sorted.

    Raises:
        ImageError: there are more than REGISTRY_TAGS, or the registry does not list tags.
    """
    found = list[str]()
    for page in tag_pages(client):
        found += page
        if len(found) > limits.REGISTRY_TAGS:
            raise ImageError(f"{client.reference.name} has more than {limits.REGISTRY_TAGS} tags: name some")
    return sorted(found)


def tag_pages(client: RegistryClient, may_be_absent: bool = False) -> Iterator[list[str]]:
    """Yield the tags of a repository (distribution-spec, Listing Tags), page by page.

    Args:
        client: the registry and the repository.
        may_be_absent: whether a repository that the registry does not have counts as empty.

    Raises:
        ImageError: the registry does not list tags.
    """
    url = client.url("tags/list?n=1000")
    while url:
        with client.send("GET", url) as response:
            if may_be_absent and response.status == 404:
                return
            if response.status != 200:
                raise client.failure(response, "its tags cannot be listed")
            page = _page(response.read(limits.MANIFEST_BYTES))
            link = re.match(r'<([^>]+)>;\s*rel="?next"?', response.headers.get("Link", ""))
        yield page
        url = urljoin(url, link[1]) if link and page else ""


def _page(data: bytes) -> list[str]:
    try:
        return [tag for tag in json.loads(data)["tags"] or [] if isinstance(tag, str) and is_tag(tag)]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ImageError("the registry does not list tags as the distribution-spec says") from error


def listed(client: RegistryClient, path: str) -> list[str]:
    """Return the entries of an index of referrers as text (distribution-spec, Listing Referrers); [] without one."""
    with client.send("GET", client.url(path), {"Accept": MANIFESTS[1]}) as response:
        if response.status != 200:
            return []
        try:
            entries = json.loads(response.read(limits.MANIFEST_BYTES))["manifests"]
            return [f"{quoted(each['digest'])[1:-1]} ({quoted(each.get('artifactType', ''))})" for each in entries]
        except (ValueError, LookupError, TypeError, RecursionError):
            return []


def has_tag(client: RegistryClient, tag: str) -> bool:
    """Check whether the repository has a tag."""
    with client.send("HEAD", client.url(f"manifests/{tag}"), {"Accept": ", ".join(MANIFESTS)}) as response:
        return response.status == 200


def exists(client: RegistryClient, descriptor: Descriptor) -> bool:
    """Check whether the repository has the blob or manifest with its size.

    Raises:
        ImageError: the registry denies the request.
    """
    url = client.url(blob_path(descriptor))
    headers = {"Accept": descriptor["mediaType"]} if is_manifest(descriptor) else {}
    with client.send("HEAD", url, headers) as response:
        if response.status in (401, 403):
            raise client.failure(response, "it does not allow checking for blobs")
        return response.status == 200 and response.headers.get("Content-Length") in (None, str(descriptor["size"]))


def get_manifest(client: RegistryClient, version: str) -> tuple[bytes, Descriptor]:
    """Fetch a manifest or an index by its tag or digest; return its bytes and descriptor.

    Raises:
        ImageError: it does not exist, or is not an image.
        DigestError: it is damaged.
    """
    url = client.url(f"manifests/{version}")
    with client.send("GET", url, {"Accept": ", ".join(MANIFESTS)}) as response:
        if response.status != 200:
            raise client.failure(response, f"there is no {version}")
        data = response.read(limits.MANIFEST_BYTES)
        media_type = _media_type(data) or response.headers.get("Content-Type", "").partition(";")[0].strip()
        said = version if ":" in version else response.headers.get(DIGEST_HEADER, "")
    digest = _digest(data, said)
    if said and digest != said:
        raise DigestError(f"{client.reference}: the manifest is damaged: its digest differs")
    if media_type not in MANIFESTS:
        raise ImageError(f"{client.reference} is not an image: its media type is {quoted(media_type)}")
    return data, {"mediaType": media_type, "digest": digest, "size": len(data)}


def _media_type(data: bytes) -> str:
    """Return the media type in the manifest itself, which its digest covers; "" if it has none."""
    try:
        value = json.loads(data)["mediaType"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""
    return value if isinstance(value, str) else ""


def _digest(data: bytes, like: str) -> str:
    """Return the digest of data in the algorithm of another digest; in SHA-256 if that is ""."""
    digest = RunningDigest(split_digest(like)[0]) if like else RunningDigest()
    digest.update(memoryview(data))
    return digest.digest()


def compare(response: Response, digest: str) -> None:
    """Check that a registry has computed the expected digest.

    Raises:
        DigestError: its digest differs.
    """
    said = response.headers.get(DIGEST_HEADER, digest)
    if said != digest and said.partition(":")[0] == digest.partition(":")[0]:
        raise DigestError(f"{response.host} received something other than {digest}: {quoted(said)}")


def is_manifest(descriptor: Descriptor) -> bool:
    """Check whether a descriptor refers to a manifest or index, and not to a blob."""
    return descriptor["mediaType"] in MANIFESTS


def blob_path(descriptor: Descriptor) -> str:
    """Return the path of a blob or manifest below the repository.

    Raises:
        ImageError: its digest is malformed.
    """
    split_digest(descriptor["digest"])
    return f"{'manifests' if is_manifest(descriptor) else 'blobs'}/{descriptor['digest']}"
