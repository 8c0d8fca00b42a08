"""Recompression of zstd layers to gzip, which every containerd unpacks, before they are encrypted."""

from __future__ import annotations

import hashlib
import zlib
from contextlib import AbstractContextManager, ExitStack, nullcontext
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, Any

from decoder import limits
from decoder.errors import DigestError, ImageError
from decoder.extras import missing
from decoder.image import blobs
from decoder.image.files.room import check_room
from decoder.image.files.tarindex import Place, Section
from decoder.layer.annotations import OCI_TAR

if TYPE_CHECKING:
    from decoder.image.blobs import Advance, CheckedReader
    from decoder.image.transport import BlobReader, BlobSource, Descriptor

_GZIP_WINDOW = 31  # zlib's number for gzip with the largest window


class Recompressed:
    """A source that also has recompressed layers, in unlinked temporary files.

    Args:
        source: the source of all other blobs.
    """

    def __init__(self, source: BlobSource) -> None:
        self._source = source
        self._files: dict[str, tuple[IO[bytes], int]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Recompressed:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def open(self, descriptor: Descriptor) -> AbstractContextManager[BlobReader]:
        """Open a blob of the source, or a recompressed one."""
        found = self._files.get(descriptor["digest"])
        if found is None:
            return self._source.open(descriptor)
        return nullcontext(Section(found[0].fileno(), Place(0, found[1])))

    def add(self, descriptor: Descriptor, diff_id: object, advance: Advance) -> Descriptor:
        """Compress a zstd layer as gzip.

        Args:
            descriptor: the layer's descriptor.
            diff_id: the digest of the uncompressed layer in the image's configuration, or None.
            advance: is called after every read.

        Returns:
            The descriptor of the new blob.

        Raises:
            DigestError: the layer's digest or size is wrong, or its content does not have the diff ID.
            ImageError: it is not zstd, or a file cannot be written or needs more room than there is.
        """
        file = self._stack.enter_context(TemporaryFile(buffering=limits.IMAGE_BUFFER_BYTES))  # noqa: SIM115 - the stack closes it
        try:
            with blobs.checked(self._source, descriptor, advance) as reader:
                digest, size, content = _convert(reader, file, descriptor["digest"])
                reader.check()
            file.flush()
        except OSError as error:
            raise ImageError(f"writing a temporary file: {error.strerror or error}") from error
        if isinstance(diff_id, str) and diff_id.startswith("sha256:") and diff_id != content:
            raise DigestError(f"{descriptor['digest']} does not unpack to its diff ID {diff_id}")
        self._files[digest] = file, size
        return {"mediaType": f"{OCI_TAR}+gzip", "digest": digest, "size": size}


def _convert(reader: CheckedReader, file: IO[bytes], name: str) -> tuple[str, int, str]:
    """Write the gzip stream; return its digest, its size, and the digest of its content."""
    content, digest, size = hashlib.sha256(), hashlib.sha256(), 0
    compressor = zlib.compressobj(wbits=_GZIP_WINDOW)
    with _unpacked(reader) as unpacked:
        while True:
            block = unpacked.read(limits.IMAGE_BUFFER_BYTES)
            content.update(block)
            packed = compressor.compress(block) if block else compressor.flush()
            digest.update(packed)
            check_room(file.fileno(), len(packed), name)
            size += file.write(packed)
            if not block:
                return f"sha256:{digest.hexdigest()}", size, f"sha256:{content.hexdigest()}"


class _File:
    """A blob with the interface of files that zstandard reads."""

    def __init__(self, reader: CheckedReader) -> None:
        self._reader = reader

    def read(self, size: int) -> bytes:
        buffer = bytearray(size)
        return bytes(buffer[: self._reader.readinto(memoryview(buffer))])


class _Unpacked:
    """A decompressed zstd stream with all of its frames, up to the end of the blob."""

    def __init__(self, reader: CheckedReader) -> None:
        import zstandard

        self._error = zstandard.ZstdError
        stream: Any = _File(reader)
        unpacker: Any = zstandard.ZstdDecompressor()
        self._stream = unpacker.stream_reader(stream, read_across_frames=True)

    def __enter__(self) -> _Unpacked:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def read(self, size: int) -> bytes:
        try:
            return bytes(self._stream.read(size))
        except self._error as error:
            raise ImageError(f"a layer is not the zstd stream that its media type says: {error}") from error


def _unpacked(reader: CheckedReader) -> _Unpacked:
    try:
        return _Unpacked(reader)
    except ImportError as error:
        raise ImageError(missing("image", error)) from error
