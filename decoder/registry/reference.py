"""References to images in registries, in the form of docker and skopeo (distribution's reference grammar)."""

from __future__ import annotations

import re
from typing import NamedTuple

from decoder import limits
from decoder.errors import ImageError, UsageError, quoted
from decoder.layer.digest import split_digest

_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:.]+\])(?::[0-9]{1,5})?")
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_PART}(?:/{_PART})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DEFAULT_HOST = "docker.io"
_DEFAULT_API_HOST = "registry-1.docker.io"


class Reference(NamedTuple):
    """An image in a registry.

    Attributes:
        host: the registry's host, with its port if that was given.
        name: the repository's name.
        tag: the tag, or "" if there is a digest.
        digest: the digest of a manifest or index, or "" if there is a tag.
    """

    host: str
    name: str
    tag: str
    digest: str

    @property
    def api_host(self) -> str:
        """The host of the registry's API, with its port if that was given."""
        return _DEFAULT_API_HOST if self.host == _DEFAULT_HOST else self.host

    @property
    def version(self) -> str:
        """The tag or digest."""
        return self.digest or self.tag

    def __str__(self) -> str:
        return f"{self.host}/{self.name}{f'@{self.digest}' if self.digest else f':{self.tag}'}"


def parse_reference(place: str) -> Reference:
    """Parse the text after `docker:`, such as `//localhost:5000/image:tag`; the default tag is `latest`.

    Raises:
        UsageError: it is malformed, or has both a tag and a digest.
    """
    if not place.startswith("//") or len(place) > limits.REGISTRY_REFERENCE_CHARACTERS:
        raise UsageError(
            f"{quoted('docker:' + place)} is not of the form docker://HOST[:PORT]/REPOSITORY[:TAG|@DIGEST]"
        )
    named, at, digest = place[2:].partition("@")
    host, name = _split_host(named)
    name, colon, tag = name.partition(":")
    if at and colon:
        raise UsageError(f"{quoted('docker:' + place)} has a tag and a digest: use only one of them")
    is_known = _HOST.fullmatch(host) and _NAME.fullmatch(name) and (not colon or _TAG.fullmatch(tag))
    if not is_known or (at and not _is_digest(digest)):
        raise UsageError(
            f"{quoted('docker:' + place)} is not a reference: expected docker://HOST[:PORT]/REPOSITORY[:TAG|@DIGEST]"
        )
    return Reference(host, name, "" if at else tag or "latest", digest)


def is_tag(text: str) -> bool:
    """Check whether a text can be a tag."""
    return bool(_TAG.fullmatch(text))


def _split_host(named: str) -> tuple[str, str]:
    """Recognize a host by its dot, colon or name, as docker does; a reference without a host is at Docker Hub."""
    first, slash, rest = named.partition("/")
    if slash and (any(sign in first for sign in ".:[") or first == "localhost"):
        host, name = first, rest
    else:
        host, name = _DEFAULT_HOST, named
    if host in ("index.docker.io", _DEFAULT_HOST):
        return _DEFAULT_HOST, name if "/" in name else f"library/{name}"
    return host, name


def _is_digest(digest: str) -> bool:
    try:
        split_digest(digest)
    except ImageError:
        return False
    return True
