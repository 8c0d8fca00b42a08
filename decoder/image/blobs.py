"""Reading blobs and checking their digests, and writing blobs under the digest of their content.

Readers and writers fail with an ImageError that names the blob. A reader that is not a regular file, such as a
registry's response, may return fewer bytes than were asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from decoder import limits
from decoder.errors import DigestError, ImageError, LayerError, quoted
from decoder.layer import stream
from decoder.layer.authenticator import Beside
from decoder.layer.digest import RunningDigest, split_digest

if TYPE_CHECKING:
    from decoder.image.transport import BlobReader, BlobSource, BlobWriter, Descriptor, ImageTarget
    from decoder.layer.annotations import LayerKey, PrivateOptions

Advance = Callable[[int], None]
"""Called with the number of bytes after every read; may raise to end the work."""


class Written(NamedTuple):
    """A blob that was written: its digest, its size in bytes, and its 32-byte HMAC if it was encrypted."""

    digest: str
    size: int
    hmac: bytes = b""


def _ignore(_count: int) -> None:
    pass


class CheckedReader:
    """A source for the cipher loops, which compares size and digest with a descriptor.

    Args:
        reader: the blob.
        descriptor: the blob's digest and size.
        advance: is called after every read.
        beside: whether the caller passes every block to `digest` itself, in another thread.

    Attributes:
        digest: the digest of the bytes so far, in the descriptor's algorithm.

    Raises:
        ImageError: the descriptor's digest is not SHA-256 or SHA-512.
    """

    def __init__(self, reader: BlobReader, descriptor: Descriptor, advance: Advance, *, beside: bool = False) -> None:
        self._reader = reader
        self._descriptor = descriptor
        self._advance = advance
        self._beside = beside
        self.digest = RunningDigest(split_digest(descriptor["digest"])[0])
        self._left: int = descriptor["size"]

    def readinto(self, buffer: memoryview, /) -> int:
        """Read at most as many bytes as fit, and return how many; 0 at the end.

        Raises:
            DigestError: the blob is longer than its descriptor says.
            ImageError: reading failed.
        """
        try:
            count = self._reader.readinto(buffer)
        except OSError as error:
            raise ImageError(f"reading {self._descriptor['digest']}: {error.strerror or error}") from error
        self._left -= count
        if self._left < 0:
            raise DigestError(f"{self._descriptor['digest']} is longer than {self._descriptor['size']} bytes")
        if count:
            if not self._beside:
                self.digest.update(buffer[:count])
            self._advance(count)
        return count

    def check(self) -> None:
        """Compare size and digest, after everything was read.

        Raises:
            DigestError: the size or the digest differs.
        """
        if self._left:
            raise DigestError(f"{self._descriptor['digest']} ends {self._left} bytes early")
        if self.digest.digest() != self._descriptor["digest"]:
            raise DigestError(f"{self._descriptor['digest']} is damaged: its digest differs")


class Sink:
    """A sink for the cipher loops.

    Args:
        writer: takes the blob; None to write nothing.
        digest: gets all that is written; None if the digest is computed elsewhere.
    """

    def __init__(self, writer: BlobWriter | None, digest: RunningDigest | None = None) -> None:
        self._writer = writer
        self._digest = digest
        self.size = 0

    def write(self, data: memoryview, /) -> int:
        """Write everything.

        Raises:
            ImageError: writing failed.
        """
        if self._digest:
            self._digest.update(data)
        if self._writer:
            _write(self._writer, data)
        self.size += len(data)
        return len(data)


def read_whole(source: BlobSource, descriptor: Descriptor, most: int) -> bytes:
    """Read a small blob, such as a manifest, and compare its digest.

    Args:
        source: the source of the blob.
        descriptor: the blob's digest and size.
        most: the largest accepted size, in bytes.

    Raises:
        DigestError: its digest or size is wrong.
        ImageError: it is larger, or cannot be read.
    """
    if descriptor["size"] > most:
        raise ImageError(f"{descriptor['digest']} has {descriptor['size']} bytes; at most {most} are accepted here")
    data = memoryview(bytearray(descriptor["size"] + 1))
    with checked(source, descriptor, _ignore) as reader:
        length = stream.fill(reader, data)
        reader.check()
    return bytes(data[:length])


def copy(source: BlobSource, target: ImageTarget, descriptor: Descriptor, advance: Advance = _ignore) -> None:
    """Copy a blob unchanged.

    Raises:
        DigestError: its digest or size is wrong; nothing is visible at the target.
        ImageError: reading or writing failed.
    """
    with (
        checked(source, descriptor, advance, beside=True) as reader,
        target.create(descriptor["size"]) as writer,
    ):
        _digest_beside(reader, Sink(writer))
        reader.check()
        _commit(writer, descriptor["digest"], descriptor["size"])


def encrypt(
    source: BlobSource, target: ImageTarget, descriptor: Descriptor, options: PrivateOptions, advance: Advance
) -> Written:
    """Encrypt a blob from one place to another.

    Args:
        source: the source of the plain layer.
        target: the destination of the encrypted layer.
        descriptor: the descriptor of the plain layer.
        options: a key and nonce that have never been used.
        advance: is called after every read.

    Raises:
        DigestError: the digest or size of the source is wrong; nothing is visible at the target.
        ImageError: reading or writing failed.
    """
    with checked(source, descriptor, advance) as reader, target.create(descriptor["size"]) as writer:
        sink, digest = Sink(writer), RunningDigest()
        key, nonce = options.symmetric_key, options.nonce
        hmac = stream.encrypt(reader, sink, key, nonce, also=digest.update)
        reader.check()
        written = Written(digest.digest(), sink.size, hmac)
        _commit(writer, written.digest, written.size)
    return written


def decrypt(
    source: BlobSource, target: ImageTarget, descriptor: Descriptor, key: LayerKey, plain: str, advance: Advance
) -> Written:
    """Decrypt a blob from one place to another.

    Args:
        source: the source of the encrypted layer.
        target: the destination of the plain layer.
        descriptor: the descriptor of the encrypted layer.
        key: the layer's key.
        plain: the digest that the plain layer must have; "" if it is unknown.
        advance: is called after every read.

    Raises:
        DigestError: the digest or size of the source is wrong; nothing is visible at the target.
        LayerError: the HMAC or the plain layer's digest differs; nothing is visible at the target.
        ImageError: reading or writing failed.
    """
    digest = _plain_digest(plain)
    with (
        checked(source, descriptor, advance, beside=True) as reader,
        target.create(descriptor["size"]) as writer,
    ):
        sink = Sink(writer, digest)
        stream.decrypt(reader, sink, key, also=reader.digest.update)
        reader.check()
        _compare(digest, plain, descriptor)
        written = Written(digest.digest(), sink.size)
        _commit(writer, written.digest, written.size)
    return written


def verify_encrypted(
    target: ImageTarget, descriptor: Descriptor, key: LayerKey, plain: str, advance: Advance = _ignore
) -> None:
    """Read an encrypted blob back, and decrypt it as the decoder does.

    Raises:
        LayerError: the HMAC or the plain layer's digest differs.
        ImageError: reading failed.
    """
    digest = _plain_digest(plain)
    with target.open(descriptor) as blob:
        stream.decrypt(_Counted(blob, descriptor, advance), Sink(None, digest), key)
    _compare(digest, plain, descriptor)


def verify_plain(target: ImageTarget, descriptor: Descriptor, advance: Advance = _ignore) -> None:
    """Read a blob back and compare its digest.

    Raises:
        DigestError: it differs.
        ImageError: reading failed.
    """
    with target.open(descriptor) as blob:
        reader = CheckedReader(blob, descriptor, advance, beside=True)
        _digest_beside(reader, Sink(None))
        reader.check()


def verify(source: BlobSource, descriptor: Descriptor, opened: tuple[LayerKey, str] | None, advance: Advance) -> None:
    """Read a blob and check its digest; for an encrypted layer, also check the HMAC and the plain layer's digest.

    Args:
        source: the source of the blob.
        descriptor: the blob's digest and size.
        opened: the key and the plain layer's digest ("" if unknown) of an encrypted layer; None for any other blob.
        advance: is called after every read.

    Raises:
        DigestError: the digest or size is wrong.
        LayerError: the HMAC or the plain layer's digest differs.
        ImageError: reading failed.
    """
    with checked(source, descriptor, advance, beside=True) as reader:
        if opened is None:
            _digest_beside(reader, Sink(None))
            reader.check()
            return
        key, plain = opened
        digest = _plain_digest(plain)
        stream.decrypt(reader, Sink(None, digest), key, also=reader.digest.update)
        reader.check()
    _compare(digest, plain, descriptor)


@contextmanager
def checked(
    source: BlobSource, descriptor: Descriptor, advance: Advance = _ignore, *, beside: bool = False
) -> Iterator[CheckedReader]:
    """Open a blob for reading; the caller calls `check` at its end.

    Raises:
        ImageError: it cannot be opened.
    """
    split_digest(descriptor["digest"])  # checked first, because the digest may become a file name
    with source.open(descriptor) as blob:
        yield CheckedReader(blob, descriptor, advance, beside=beside)


def _digest_beside(reader: CheckedReader, sink: Sink) -> None:
    """Read to the end and write, while a second thread digests the same blocks."""
    with Beside(reader.digest.update, limits.BUFFER_BYTES) as beside:
        while length := stream.fill(reader, block := beside.free_buffer()):
            beside.update(block[:length])
            sink.write(block[:length])


class _Counted:
    """A source without a digest, because an HMAC covers its content."""

    def __init__(self, reader: BlobReader, descriptor: Descriptor, advance: Advance) -> None:
        self._reader = reader
        self._name = descriptor["digest"]
        self._advance = advance

    def readinto(self, buffer: memoryview, /) -> int:
        try:
            count = self._reader.readinto(buffer)
        except OSError as error:
            raise ImageError(f"reading {self._name} back: {error.strerror or error}") from error
        self._advance(count)
        return count


def _plain_digest(plain: str) -> RunningDigest:
    """Start a digest in the algorithm that private options name; their author need not be trusted."""
    return RunningDigest(split_digest(plain)[0]) if plain else RunningDigest()


def _compare(digest: RunningDigest, plain: str, descriptor: Descriptor) -> None:
    if plain and digest.digest() != plain:
        raise LayerError(f"{descriptor['digest']} decrypts to a layer whose digest is not {quoted(plain)}")


def _write(writer: BlobWriter, data: memoryview) -> None:
    try:
        stream.write_all(writer, data)
    except OSError as error:
        _fail_to_write(error)


def _commit(writer: BlobWriter, digest: str, size: int) -> None:
    try:
        writer.commit(digest, size)
    except OSError as error:
        _fail_to_write(error)


def _fail_to_write(error: OSError) -> NoReturn:
    raise ImageError(f"writing a blob: {error.strerror or error}") from error
