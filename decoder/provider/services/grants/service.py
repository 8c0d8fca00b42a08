"""The service of the provider `grants`; only this module, not the one with its options, needs the registry client."""

from __future__ import annotations

import re
import socket
from _thread import allocate_lock
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from decoder import limits
from decoder.errors import DecoderError, KeyFileError, UsageError, quoted
from decoder.formats import wire
from decoder.grants import artifacts, keys
from decoder.grants.artifacts import Access
from decoder.grants.node import Identity, Node, Owner
from decoder.grants.place import PROVIDER, Place, build_place, parse_place
from decoder.keys.file import read_key_file
from decoder.keys.formats import pem
from decoder.layer.annotations import parse_private_options
from decoder.node.containerd.imagename import find_image_with
from decoder.node.containerd.storeroot import find_root
from decoder.provider import Checked, Use, envelope
from decoder.provider.errors import ProviderError

if TYPE_CHECKING:
    from decoder.grants.statements import Grant
    from decoder.provider.policy import KeyPolicy

_SECONDS = re.compile(r"[0-9]{1,9}", re.ASCII)  # int() raises ValueError for thousands of digits


def create(options: Mapping[str, str], policy: KeyPolicy) -> Grants:
    """Create the provider.

    Raises:
        UsageError: an option is missing or malformed.
        ProviderError: a file cannot be used.
    """
    if not options.get("key") or not options.get("owner"):
        raise UsageError("the provider grants needs the options key and owner")
    owners = [_owner(text) for text in options["owner"].split("\n")]
    try:
        own = keys.read_own_key(options["key"], private=True)
    except KeyFileError as error:
        raise ProviderError(f"the key {quoted(options['key'])}: {error}") from error
    name = options.get("name") or socket.gethostname()
    if len(name) > limits.GRANTS_TEXT_CHARACTERS:
        raise UsageError(f"the name is longer than {limits.GRANTS_TEXT_CHARACTERS} characters")
    identity = Identity(own, name, _certificates(options.get("certificate", ""), options["key"]))
    requests = artifacts.canonical(options["requests"]) if options.get("requests") else ""
    access = Access(authfile=options.get("authfile", ""), is_node=True)
    node = Node(identity, owners, requests, _wait(options.get("wait", "0")), access, _image_of)
    return Grants(node, policy, len(owners))


class Grants:
    """The grants of this node.

    Args:
        node: fetches and checks grants.
        policy: the repositories that may be asked, as keys `grants://HOST/REPO`.
        owners: the number of configured owners, for `check`.
    """

    def __init__(self, node: Node, policy: KeyPolicy, owners: int) -> None:
        self._node = node
        self._policy = policy.with_configured("")
        self._owners = owners
        self._lock = allocate_lock()
        self._seen: dict[Place, Grant] = {}  # without their keys

    def wrap(self, options: bytes, parameters: Sequence[str]) -> Use:
        """Reject the request, because a node grants nothing; see `KeyService`."""
        raise ProviderError(
            "it only unwraps: encrypt with `ctd-decoder image encrypt --recipient provider:grants:HOST/REPO "
            "--grants-owner FILE --sign-key FILE`"
        )

    def unwrap(self, annotation: bytes, parameters: Sequence[str]) -> Use:
        """Prepare to fetch a grant; see `KeyService`."""
        place = parse_place(annotation)
        self._policy.check(place.key_url)
        self._node.owners_of(place)
        return Use(
            (place.key_url,),
            lambda seconds: envelope.KEK_PREFIX + self._fetch(place, seconds).kek,
            check=lambda options, seconds: self._check(place, options, seconds),
        )

    def check(self, _seconds: float) -> Checked:
        """Report the configuration; which registries are asked depends on the images. See `CheckableService`."""
        return Checked([f"the node's key can be used; owners whose grants are accepted: {self._owners}"], [])

    def _fetch(self, place: Place, seconds: float) -> Grant:
        grant = self._node.fetch(place, seconds)
        with self._lock:
            if len(self._seen) >= limits.GRANTS_REMEMBERED_IMAGES:
                del self._seen[next(iter(self._seen))]
            self._seen[place] = grant._replace(kek=b"")
        return grant

    def _check(self, place: Place, options: bytes, seconds: float) -> None:
        """Check that the grant lists the layer: other nodes have the same key, and could encrypt other layers."""
        with self._lock:
            grant = self._seen.get(place)
        if grant is None:  # the key was kept from another time
            grant = self._fetch(place, seconds)
        self._node.check(grant)
        try:
            digest = parse_private_options(options).digest
        except ValueError as error:
            raise ProviderError(f"the private options are malformed: {error}") from error
        if digest not in grant.layers:
            raise ProviderError(f"the layer {quoted(digest)} is not one of the layers in the grant")


def _image_of(place: Place) -> str:
    """Return the name of the image in containerd's store whose annotation names this place; "" if none is found."""
    beginning = envelope.seal(envelope.new_kek(), PROVIDER, build_place(place), b"").partition(b'"iv"')[0]
    text = wire.encode_base64(
        beginning[: len(beginning) // 3 * 3]
    )  # the annotation contains this with any continuation
    found = find_image_with(find_root(), text.encode())
    return (found.name[1:-1] or found.digest)[: limits.GRANTS_TEXT_CHARACTERS]


def _owner(text: str) -> Owner:
    pattern, equals, path = text.rpartition("=")
    if not equals or not pattern:
        raise UsageError(f"the option owner of the provider grants is PATTERN=FILE, not {quoted(text)}")
    try:
        return Owner(pattern, keys.read_public_key(path).key)
    except KeyFileError as error:
        raise ProviderError(f"the owner's key {quoted(path)}: {error}") from error


def _certificates(path: str, key_path: str) -> tuple[bytes, ...]:
    """Read the node's certificates from their own file, which must have some, or else from the key file."""
    try:
        blocks = pem.split(read_key_file(path or key_path))
        found = tuple(block.data() for block in blocks if block.label.endswith("CERTIFICATE"))
    except (DecoderError, ValueError) as error:
        raise ProviderError(f"the certificate {quoted(path)}: {error}") from error
    if path and not found:
        raise ProviderError(f"the certificate {quoted(path)}: it holds none in PEM form")
    most, size = limits.GRANTS_CERTIFICATES, limits.GRANTS_CERTIFICATE_BYTES
    if len(found) > most or any(len(each) > size for each in found):
        raise ProviderError(f"a request has room for {most} certificates of {size} bytes each")
    return found


def _wait(text: str) -> float:
    if not _SECONDS.fullmatch(text) or int(text) > limits.GRANTS_WAIT_SECONDS:
        raise UsageError(f"the option wait is a number of seconds up to {limits.GRANTS_WAIT_SECONDS:.0f}")
    return float(text)
