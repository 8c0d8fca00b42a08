"""A search of containerd's content store for the descriptor of a layer that came without a payload.

containerd commits a manifest, and then each layer, to its content store before it unpacks them. So a manifest
in the store names the layer on standard input, and its blob begins with the same bytes. The store is only
read: nothing is locked or written, no link is followed, and blobs that vanish meanwhile are skipped.

The search does not know which image is being unpacked. If an image names another image's layer without a
wrapped key of its own, the layer would be opened with the other image's wrapped key. Such manifests cause a
warning, and a strict search fails.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from time import monotonic

from decoder import limits
from decoder.errors import PayloadError, quoted
from decoder.formats import wire
from decoder.layer.annotations import DECODABLE, ENCRYPTED, has_wrapped_key
from decoder.layer.payload import Descriptor, parse_descriptor

BLOBS = "io.containerd.content.v1.content/blobs/sha256"

_NAME_CHARACTERS = 64
_HEX = frozenset("0123456789abcdef")
_JSON_SPACE = b" \t\n\r"
_ENCRYPTED_WORD = ENCRYPTED.strip("+").encode()  # some writers of JSON escape the plus sign


class Search:
    """A search in one store; iterating over it yields the descriptors that may be the layer's.

    Args:
        root: containerd's root directory, which holds the content store.
        head: the layer's first STORE_WINDOW_BYTES, or the whole layer if it is shorter.
        media_type: the layer's media type, or "" if it is not known.
        why: the reason why there is no payload, for messages.
        is_strict: whether to fail if any manifest names the layer without a wrapped key of its own.

    Attributes:
        manifests: how many manifests with encrypted layers were read so far.
        layers: how many blobs of encrypted layers were compared so far.
        warnings: a line for each manifest that names the layer without a wrapped key of its own.
    """

    def __init__(self, root: str, head: bytes, media_type: str, why: str, is_strict: bool = False) -> None:
        self.root = root
        self.why = why
        self.manifests = 0
        self.layers = 0
        self.warnings: list[str] = []
        self._is_strict = is_strict
        self._keyless: Descriptor | None = None
        self._head = head
        self._media_types = frozenset((media_type,)) & DECODABLE if media_type else DECODABLE
        self._compared: dict[str, bool] = {}
        self._offered: set[int] = set()  # hashes, because annotations may be large
        self._given_up = False
        self._deadline = monotonic() + limits.STORE_SECONDS

    def __iter__(self) -> Iterator[Descriptor]:
        """Yield descriptors whose blob begins with the head, those of newer manifests first.

        Tags that share a layer mostly share its annotations, too; equal descriptors are yielded once. The time that
        the caller spends on a descriptor does not count against STORE_SECONDS.

        Raises:
            PayloadError: the store cannot be read, it has no such descriptor, or the search is strict and a
                manifest names the layer without a wrapped key of its own.
        """
        folder = os.path.join(self.root, BLOBS)
        try:
            store = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise PayloadError(
                f"{self.why}, and the content store {quoted(folder)} cannot be read: {error.strerror}"
            ) from error
        try:
            if self._is_strict:
                self._refuse_keyless(store)
            for descriptor in self._search(store):
                if len(self._offered) == limits.STORE_DESCRIPTORS:
                    break
                annotations = hash(frozenset(descriptor.annotations.items()))
                if annotations not in self._offered:
                    self._offered.add(annotations)
                    offered_at = monotonic()
                    yield descriptor
                    self._deadline += monotonic() - offered_at
        finally:
            os.close(store)
        if not self._offered and self._keyless:
            yield self._keyless  # opening it fails with the message that it has no wrapped key
        elif not self._offered:
            end = "; then the search was given up" if self._given_up else ""
            raise PayloadError(
                f"{self.why}, and {quoted(folder)} has no layer that begins like this one ({self.manifests} manifests "
                f"with encrypted layers were read, {self.layers} such layers compared{end})"
            )

    def _refuse_keyless(self, store: int) -> None:
        """Search the whole store before a key is tried. The descriptors are not kept, because they may be large.

        Raises:
            PayloadError: a manifest names the layer without a wrapped key of its own, or the store is too large.
        """
        for _ in self._search(store):
            pass
        if self.warnings:
            raise PayloadError(f"--strict-lookup: {'; '.join(self.warnings)}")
        if self._given_up:
            raise PayloadError(f"--strict-lookup: the search was given up after {self.manifests} manifests")
        self.manifests = 0
        self._deadline = monotonic() + limits.STORE_SECONDS

    def _search(self, store: int) -> Iterator[Descriptor]:
        for name in self._newest_first(store):
            if self._is_over():
                return
            if manifest := _read_manifest(store, name):
                self.manifests += 1
                for descriptor in self._matching(store, manifest):
                    if has_wrapped_key(descriptor.annotations):
                        yield descriptor
                    else:
                        self._note_keyless(name, descriptor)

    def _note_keyless(self, name: str, descriptor: Descriptor) -> None:
        self._keyless = self._keyless or descriptor
        if len(self.warnings) < limits.STORE_CANDIDATES:
            self.warnings.append(
                f"the manifest sha256:{name} names the encrypted layer {descriptor.digest} without a wrapped key"
            )

    def _newest_first(self, store: int) -> Iterator[str]:
        """Yield the names of blobs that may be manifests, newer ones first.

        Reading the times of 10,000 files takes longer than decrypting a small layer. Inode numbers come with the
        names, and a new image often has the largest, so the STORE_BATCH blobs with the largest numbers come first.
        The others are sorted by time, because XFS numbers inodes in another order, and numbers can be reused.
        """
        with os.scandir(store) as scan:
            entries = sorted(scan, key=os.DirEntry.inode, reverse=True)
        yield from self._by_time(store, entries[: limits.STORE_BATCH])
        yield from self._by_time(store, entries[limits.STORE_BATCH :])

    def _by_time(self, store: int, entries: list[os.DirEntry[str]]) -> Iterator[str]:
        small: list[tuple[int, str]] = []
        for entry in entries:
            if self._is_over():
                break
            try:
                status = os.stat(entry.name, dir_fd=store, follow_symlinks=False)
            except OSError:
                continue
            if stat.S_ISREG(status.st_mode) and status.st_size <= limits.MANIFEST_BYTES:
                small.append((status.st_mtime_ns, entry.name))
        return (name for _, name in sorted(small, reverse=True) if _is_name(name))

    def _is_over(self) -> bool:
        """Check whether the search has reached a bound on its time or its manifests."""
        if monotonic() > self._deadline or self.manifests >= limits.STORE_MANIFESTS:
            self._given_up = True
        return self._given_up

    def _matching(self, store: int, manifest: dict[str, object]) -> Iterator[Descriptor]:
        entries = manifest.get("layers")
        for entry in entries if isinstance(entries, list) else []:
            try:
                descriptor = parse_descriptor(wire.object_value(entry))
            except ValueError:
                continue
            if descriptor.media_type in self._media_types and self._begins_alike(store, descriptor.digest):
                yield descriptor

    def _begins_alike(self, store: int, digest: str) -> bool:
        algorithm, _, name = digest.partition(":")
        if algorithm != "sha256" or not _is_name(name):
            return False
        if name not in self._compared and self.layers < limits.STORE_LAYERS:
            self.layers += 1
            self._compared[name] = _read(store, name, limits.STORE_WINDOW_BYTES) == self._head
        return self._compared.get(name, False)


def _read_manifest(store: int, name: str) -> dict[str, object] | None:
    """Return a blob that is JSON and may name an encrypted layer, parsed; None for all others.

    Most others are recognized by their first bytes, without reading the rest.
    """
    data = _read(store, name, limits.STORE_WINDOW_BYTES)
    if data is None or not data.lstrip(_JSON_SPACE).startswith(b"{"):
        return None
    if len(data) == limits.STORE_WINDOW_BYTES:
        data = _read(store, name, limits.MANIFEST_BYTES)
    if data is None or _ENCRYPTED_WORD not in data:
        return None
    try:
        return wire.parse_object(data)
    except ValueError:
        return None


def _read(store: int, name: str, size: int) -> bytes | None:
    """Return the first `size` bytes of a blob, or None if it cannot be read."""
    try:
        # O_NONBLOCK: opening a named pipe must not wait.
        blob = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=store)
        try:
            return os.read(blob, size)
        finally:
            os.close(blob)
    except OSError:
        return None


def _is_name(name: str) -> bool:
    return len(name) == _NAME_CHARACTERS and _HEX.issuperset(name)
