"""The content of a layer's annotation: the repository of the grants, and the ID of the key.

The annotation is an envelope (docs/formats.md §5) that has this instead of a wrapped key:

    {"key_url":"grants://HOST/REPO","wrap_type":"grants/1","id":ID}
"""

from __future__ import annotations

import json

from decoder import limits
from decoder.errors import UsageError, quoted
from decoder.formats import wire
from decoder.grants.artifacts import canonical
from decoder.grants.statements import ID
from decoder.provider.errors import ProviderError
from decoder.record import Record

PROVIDER = "grants"
SCHEME = f"{PROVIDER}://"
WRAP_TYPE = "grants/1"


class Place(Record):
    """The repository of grants, `HOST/NAME`, and the ID of the key."""

    repository: str
    id: str

    @property
    def key_url(self) -> str:
        """The repository as a URL, the name of the key in policies and in the audit."""
        return SCHEME + self.repository


def build_place(place: Place) -> bytes:
    """Build the content of the envelope."""
    members = {"key_url": place.key_url, "wrap_type": WRAP_TYPE, "id": place.id}
    return json.dumps(members, separators=(",", ":")).encode()


def parse_place(annotation: bytes) -> Place:
    """Parse the content of the envelope, which comes from a registry.

    Raises:
        ProviderError: it is malformed, or of another version.
    """
    if len(annotation) > limits.PROVIDER_WRAPPED_BYTES:
        raise ProviderError(f"the annotation is longer than {limits.PROVIDER_WRAPPED_BYTES} bytes")
    try:
        members = wire.parse_object(annotation)
        key_url, wrap_type, identifier = (wire.text_value(members.get(name)) for name in ("key_url", "wrap_type", "id"))
    except ValueError as error:
        raise ProviderError(f"the annotation is malformed: {error}") from error
    if wrap_type != WRAP_TYPE:
        raise ProviderError(f"the annotation's wrap_type is {quoted(wrap_type)}, not {WRAP_TYPE}")
    repository = key_url.removeprefix(SCHEME)
    try:
        is_canonical = key_url.startswith(SCHEME) and canonical(repository) == repository
    except UsageError:
        is_canonical = False
    if not is_canonical or not ID.fullmatch(identifier):
        raise ProviderError(f"the annotation names no repository and key of grants: {quoted(key_url)}")
    return Place(repository, identifier)
