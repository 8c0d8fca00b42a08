"""The recipient `provider:grants:HOST/REPO` of `image encrypt` and `image rewrap`: one key per image, for its owners.

The sealed key is pushed to the registry before the image gets its name.
"""

from __future__ import annotations

import os
import time
from _thread import allocate_lock
from typing import TYPE_CHECKING, Any

from decoder import limits
from decoder.errors import UsageError
from decoder.grants import artifacts, keys, statements
from decoder.grants.ownkeys import open_own_key
from decoder.grants.place import PROVIDER, Place, build_place
from decoder.grants.statements import SEALED_KEY, SealedKey
from decoder.layer.annotations import parse_private_options
from decoder.provider import envelope

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from decoder.grants.artifacts import Access


class Sealing:
    """Wraps the layers of images, one image after the other, each with its own key; for several threads.

    Args:
        owners: the files with the owners' public keys.
        sign_key: the file with the publisher's private key.
        access: the settings for the registry.

    Attributes:
        warnings: always empty; recipients of other schemes have warnings.

    Raises:
        UsageError: a key is missing, or cannot be used.
    """

    def __init__(self, owners: Sequence[str], sign_key: str, access: Access) -> None:
        if not owners or not sign_key:
            raise UsageError("--recipient provider:grants:HOST/REPO needs --grants-owner FILE and --sign-key FILE")
        self._owners = keys.read_pinned("--grants-owner", owners)
        if len(self._owners) > limits.GRANTS_OWNERS:
            raise UsageError(f"--grants-owner: an image has at most {limits.GRANTS_OWNERS} owners")
        self._publisher = open_own_key("--sign-key", sign_key)
        self._access = access
        self._lock = allocate_lock()
        self.warnings: list[str] = []
        self.forget()

    def forget(self) -> None:
        """Start with another image: the next layer gets a new key."""
        self._place: Place | None = None
        self._kek = b""
        self._layers: set[str] = set()
        self._sealed: tuple[int, bytes] = (0, b"")  # the number of layers, and the sealed key for them

    def wrap(self, options: bytes, recipients: Sequence[bytes]) -> bytes:
        """Wrap the private options of a layer; see `decoder.keywrap.Scheme`.

        Args:
            options: the private options.
            recipients: exactly one, the name of a repository.

        Raises:
            UsageError: there is not exactly one, or it is not the name of a repository.
        """
        if len(recipients) != 1:
            raise UsageError("give one --recipient provider:grants:HOST/REPO, with the repository for grants")
        repository = artifacts.canonical(recipients[0].decode(errors="replace"))
        with self._lock:
            if self._place is None:
                self._place, self._kek = Place(repository, os.urandom(16).hex()), envelope.new_kek()
            self._layers.add(parse_private_options(options).digest)
            return envelope.seal(self._kek, PROVIDER, build_place(self._place), options)

    def check(self) -> None:
        """Upload the sealed key without a tag, to detect failures early.

        Raises:
            UsageError: the image has too many layers.
            ImageError: the registry does not accept it.
        """
        if self._place:
            with artifacts.opened(self._place.repository, self._access, "pull,push") as repository:
                repository.upload(self._seal(self._place))

    def publish(self, image: str, descriptor: Mapping[str, Any]) -> None:
        """Push the sealed key, and start with another image.

        Args:
            image: the image's destination, `TRANSPORT:PLACE`.
            descriptor: the image's descriptor.

        Raises:
            UsageError: the image has too many layers.
            ImageError: the registry does not accept it.
        """
        if self._place is None:
            return
        place = self._place
        subject = descriptor if _repository_of(image) == place.repository else None
        with artifacts.opened(place.repository, self._access, "pull,push") as repository:
            repository.put(SEALED_KEY, artifacts.sealed_tag(place.id), self._seal(place), subject)
        self.forget()

    def _seal(self, place: Place) -> bytes:
        layers = tuple(sorted(self._layers))
        if len(layers) > limits.GRANTS_LAYERS:
            raise UsageError(f"the image has {len(layers)} layers; grants allow at most {limits.GRANTS_LAYERS}")
        if self._sealed[0] != len(layers):
            kek = self._kek.removeprefix(envelope.KEK_PREFIX)
            sealed = SealedKey(place.repository, place.id, kek, tuple(self._owners), layers, int(time.time()))
            signed = statements.build_sealed_key(sealed, self._publisher)
            self._sealed = len(layers), keys.encrypt(signed, self._owners.values())
        return self._sealed[1]


def _repository_of(image: str) -> str:
    """Return the repository of an image in a registry, `HOST/NAME`, or ""."""
    transport, _, place = image.partition("://")
    folder, slash, last = place.partition("@")[0].rpartition("/")
    try:
        return artifacts.canonical(f"{folder}{slash}{last.partition(':')[0]}") if transport == "docker" else ""
    except UsageError:
        return ""
