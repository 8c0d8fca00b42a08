"""Digests of blobs: how they are written, and computed block by block."""

from __future__ import annotations

import hashlib
import re

from decoder.errors import ImageError, quoted

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
