"""Images in containerd, `containerd:REF`: its content, image and lease services.

Everything is written under a lease, which protects it from containerd's garbage collection while no image names it.
After the lease, the labels of manifests and indexes keep what they name, as imgcrypt's `ctr-enc` writes them, and the
image keeps the first of them.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from decoder import limits
from decoder.errors import DigestError, ImageError, UsageError, quoted
from decoder.formats import containerd as messages
from decoder.image.containerd.client import ContainerdClient, ContainerdError
from decoder.image.transport import COSIGN_TAGS
from decoder.layer.digest import split_digest

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from decoder.formats.containerd import Fields, Value
    from decoder.image.transport import BlobReader, BlobWriter, Descriptor, ImageSource, ImageTarget, Options

_CONTENT, _IMAGES, _LEASES = "content.v1.Content/", "images.v1.Images/", "leases.v1.Leases/"
_WRITE, _COMMIT = 1, 2  # the actions of a WriteContentRequest
_EXPIRY = "containerd.io/gc.expire"
_HOLDS = "containerd.io/gc.ref.content."


@contextmanager
def open_source(name: str, place: str, options: Options) -> Iterator[ImageSource]:
    """Open an image of containerd for reading.

    Args:
        name: the name of the transport, not used here.
        place: the name of the image in containerd.
        options: the namespace, and the address of the socket.

    Raises:
        UsageError: the name of the image is empty or malformed.
        ImageError: containerd cannot be reached.
    """
    del name
    with _leased(place, options) as client:
        yield _Source(client, place)


@contextmanager
def open_target(name: str, place: str, options: Options) -> Iterator[ImageTarget]:
    """Open containerd for writing an image to it; see `open_source`."""
    del name
    with _leased(place, options) as client:
        yield _Target(client, place)


@contextmanager
def _leased(place: str, options: Options) -> Iterator[ContainerdClient]:
    """Connect, and hold a lease until the context ends. The lease also expires, in case this process is killed."""
    if not place or len(place) > limits.CONTAINERD_NAME_CHARACTERS or not place.isprintable() or " " in place:
        raise UsageError(f"{quoted('containerd:' + place)} is not of the form containerd:IMAGE")
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=limits.CONTAINERD_LEASE_SECONDS)
    with ContainerdClient(options.address, options.namespace) as client:
        labels = {_EXPIRY: end.isoformat(timespec="seconds").replace("+00:00", "Z")}
        identifier = f"ctd-decoder-{os.urandom(8).hex()}"
        client.call(_LEASES + "Create", {1: identifier, 3: labels})
        client.lease = identifier
        try:
            yield client
        finally:
            client.lease = ""
            with suppress(ImageError):
                client.call(_LEASES + "Delete", {1: identifier})


class _Blobs:
    """The blobs in containerd's content store, for reading."""

    def __init__(self, client: ContainerdClient, name: str) -> None:
        self._client = client
        self._name = name

    def open(self, descriptor: Descriptor) -> AbstractContextManager[BlobReader]:
        return closing(_Download(self._client, descriptor))


class _Source(_Blobs):
    def root(self) -> Descriptor:
        """Resolve the name, and keep its target from garbage collection while it is read."""
        try:
            reply = self._client.call(_IMAGES + "Get", {1: self._name})
        except ContainerdError as error:
            raise ImageError(f"containerd:{self._name}: {error}") from error
        target = messages.nested(messages.nested(reply, 1), 3)
        descriptor: Descriptor = {
            "mediaType": messages.text(target, 1),
            "digest": messages.text(target, 2),
            "size": messages.integer(target, 3),
        }
        if annotations := messages.mapping(target, 5):
            descriptor["annotations"] = annotations
        _hold(self._client, descriptor["digest"])
        return descriptor

    def referrers(self, digest: str) -> list[str]:
        """Return the names of the image's signatures and attestations, by their tags: containerd lists no referrers."""
        last = self._name.rpartition("/")[2]
        repository = self._name.removesuffix(last) + last.partition("@")[0].partition(":")[0]
        fallback = f"{repository}:{digest.replace(':', '-')}"
        names = [fallback, *(f"{fallback}.{end}" for end in COSIGN_TAGS)]
        return [f"the image {name}" for name in names if self._has_image(name)]

    def _has_image(self, name: str) -> bool:
        try:
            self._client.call(_IMAGES + "Get", {1: name})
        except ContainerdError as error:
            if error.code != "NOT_FOUND":
                raise
            return False
        return True


class _Target(_Blobs):
    def has(self, descriptor: Descriptor) -> bool:
        digest = descriptor["digest"]
        split_digest(digest)
        _hold(self._client, digest)  # first, because the garbage collection could delete it after the check
        return _size(self._client, digest) == int(descriptor["size"])

    def create(self, size: int) -> AbstractContextManager[BlobWriter]:
        return _Upload(self._client, size, {})

    def put_manifest(self, data: bytes, descriptor: Descriptor) -> None:
        labels = _labels(data)
        with _Upload(self._client, len(data), labels) as writer:
            writer.write(memoryview(data))
            writer.commit(descriptor["digest"], descriptor["size"])
            if writer.was_there:
                _label(self._client, descriptor["digest"], labels)

    def publish(self, descriptor: Descriptor) -> None:
        """Create the image, or change its target; its labels stay."""
        annotations = descriptor.get("annotations") or {}
        target = {1: descriptor["mediaType"], 2: descriptor["digest"], 3: descriptor["size"], 5: annotations}
        image = messages.build({1: self._name, 3: messages.build(target)})
        try:
            self._client.call(_IMAGES + "Create", {1: image})
        except ContainerdError as error:
            if error.code != "ALREADY_EXISTS":
                raise
            self._client.call(_IMAGES + "Update", {1: image, 2: messages.build({1: "target"})})

    def forget(self, _layers: list[str], _manifests: list[str]) -> list[str]:
        """Return nothing: containerd itself deletes the blobs to which no image refers."""
        return []


class _Download:
    """A download of a blob from containerd."""

    def __init__(self, client: ContainerdClient, descriptor: Descriptor) -> None:
        digest = descriptor["digest"]
        split_digest(digest)
        size = _size(client, digest)
        if size is None:
            raise ImageError(f"containerd has no {digest} in this namespace: was the image pulled for all platforms?")
        if size != descriptor["size"]:
            raise DigestError(f"{digest} has {size} bytes in containerd, but {descriptor['size']} in its descriptor")
        self._stream = client.receive(_CONTENT + "Read", {1: digest})
        self._data = memoryview(b"")

    def readinto(self, buffer: memoryview, /) -> int:
        """Read at most as much as fits; 0 at the end."""
        while not self._data:
            reply = self._stream.take()
            if reply is None:
                return 0
            self._data = memoryview(messages.content(reply, 2))
        count = min(len(buffer), len(self._data))
        buffer[:count] = self._data[:count]
        self._data = self._data[count:]
        return count

    def close(self) -> None:
        """End the call."""
        self._stream.close()


class _Upload:
    """An upload of a blob to containerd, which computes its digest.

    Args:
        client: the connection to containerd.
        size: the size of the blob, in bytes.
        labels: the labels to store with the blob.

    Attributes:
        was_there: after `commit`: containerd already had the blob, so these labels were not added.
    """

    def __init__(self, client: ContainerdClient, size: int, labels: dict[str, str]) -> None:
        self._client = client
        self._size = size
        self._labels = labels
        self._name = f"{client.lease}-{os.urandom(8).hex()}"
        self._offset = 0
        self._ahead = 0
        self._requests: SimpleQueue[bytes | None] = SimpleQueue()
        self._is_committed = False
        self.was_there = False

    def __enter__(self) -> _Upload:
        self._stream = self._client.converse(_CONTENT + "Write", iter(self._requests.get, None))
        return self

    def __exit__(self, *_: object) -> None:
        self._requests.put(None)
        self._stream.close()
        if not self._is_committed:
            with suppress(ImageError):
                self._client.call(_CONTENT + "Abort", {1: self._name})

    def write(self, data: memoryview, /) -> int:
        """Send all bytes, in pieces of CONTAINERD_WRITE_BYTES; return their number."""
        for start in range(0, len(data), limits.CONTAINERD_WRITE_BYTES):
            piece = bytes(data[start : start + limits.CONTAINERD_WRITE_BYTES])
            self._send({1: _WRITE, 5: self._offset, 6: piece})
            self._offset += len(piece)
        return len(data)

    def commit(self, digest: str, size: int) -> None:
        """Finish the blob; containerd accepts it only if the received bytes have this digest and size.

        Raises:
            DigestError: the bytes have another digest.
            ImageError: another number of bytes was written, or the call failed.
        """
        split_digest(digest)
        if size != self._size or self._offset != size:
            raise ImageError(f"a blob has {self._offset} bytes instead of {self._size}")
        try:
            self._send({1: _COMMIT, 4: digest, 5: self._offset, 7: self._labels})
            while self._ahead:
                self._take()
        except ContainerdError as error:
            if error.code == "FAILED_PRECONDITION":
                raise DigestError(f"containerd received something other than {digest}: {error}") from error
            if error.code != "ALREADY_EXISTS":
                raise
            _hold(self._client, digest)
            self.was_there = True
            return
        self._is_committed = True

    def _send(self, fields: dict[int, Value]) -> None:
        """Send a request, and receive replies until only a few are outstanding."""
        self._requests.put(messages.build({**fields, 2: self._name, 3: self._size}))
        self._ahead += 1
        if self._ahead > limits.CONTAINERD_WRITES_AHEAD:
            self._take()

    def _take(self) -> None:
        if self._stream.take() is None:
            raise ImageError("containerd ended the upload of a blob early")
        self._ahead -= 1


def _size(client: ContainerdClient, digest: str) -> int | None:
    """Return the size of a blob, or None if the namespace does not have it."""
    try:
        reply: Fields = client.call(_CONTENT + "Info", {1: digest})
    except ContainerdError as error:
        if error.code == "NOT_FOUND":
            return None
        raise
    return messages.integer(messages.nested(reply, 1), 2)


def _hold(client: ContainerdClient, digest: str) -> None:
    """Add a blob, and everything that its labels refer to, to the lease."""
    split_digest(digest)
    resource = messages.build({1: digest, 2: "content"})
    client.call(_LEASES + "AddResource", {1: client.lease, 2: resource})


def _labels(data: bytes) -> dict[str, str]:
    """Return the labels by which a manifest or index protects its blobs from garbage collection."""
    value: dict[str, Any] = json.loads(data)
    named = [
        value.get("config"),
        *(entry for name in ("layers", "blobs", "manifests") for entry in value.get(name, [])),
    ]
    return {f"{_HOLDS}{number}": entry["digest"] for number, entry in enumerate(filter(None, named))}


def _label(client: ContainerdClient, digest: str, labels: dict[str, str]) -> None:
    """Add labels to an existing blob; labels that containerd has set for the same references stay."""
    info = messages.build({1: digest, 5: labels})
    mask = b"".join(messages.build({1: f"labels.{name}"}) for name in labels)
    client.call(_CONTENT + "Update", {1: info, 2: mask})
