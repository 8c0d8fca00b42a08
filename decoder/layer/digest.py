"""Digests of blobs: parsed, and computed block by block."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, cast

from decoder.errors import ImageError, quoted

if TYPE_CHECKING:
    from decoder.layer.stream import HasDescriptor, Sink, Source

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")


def split_digest(digest: object) -> tuple[str, str]:
    """Split a digest into algorithm and hexadecimal digits, fit for a file name (image-spec, descriptor.md).

    Raises:
        ImageError: it is neither SHA-256 nor SHA-512 in lower-case digits.
    """
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise ImageError(f"{quoted(digest)} is not a sha256 or sha512 digest")
    algorithm, _, digits = digest.partition(":")
    return algorithm, digits


def digest_of(data: bytes) -> str:
    """Compute the SHA-256 digest of bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class RunningDigest:
    """The digest of blocks.

    Args:
        algorithm: `sha256` or `sha512`.
    """

    def __init__(self, algorithm: str = "sha256") -> None:
        self._algorithm = algorithm
        self._hash = hashlib.new(algorithm)
        self.update = self._hash.update

    def digest(self) -> str:
        """Return the digest of everything so far, algorithm first."""
        return f"{self._algorithm}:{self._hash.hexdigest()}"


class DigestingReader:
    """A source for the cipher loops that computes the SHA-256 of what is read."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.digest = hashlib.sha256()

    def fileno(self) -> int:
        """Return the source's descriptor."""
        return cast("HasDescriptor", self._source).fileno()

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Read, as the source does."""
        count = self._source.readinto(buffer)
        self.digest.update(buffer[: count or 0])
        return count


class DigestingWriter:
    """A sink for the cipher loops that computes the SHA-256 and the size of what is written."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.digest = hashlib.sha256()
        self.size = 0

    def fileno(self) -> int:
        """Return the sink's descriptor."""
        return cast("HasDescriptor", self._sink).fileno()

    def write(self, data: memoryview, /) -> int | None:
        """Write, as the sink does."""
        count = self._sink.write(data)
        self.digest.update(data[: count or 0])
        self.size += count or 0
        return count
