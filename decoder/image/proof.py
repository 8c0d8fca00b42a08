"""Proof of keys that only the HMAC of a whole layer can tell apart: the layer is read, and all failures look alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from decoder import limits
from decoder.errors import ImageError
from decoder.image import blobs
from decoder.keywrap.unproven import UnprovenError, keys_to_prove
from decoder.layer import stream
from decoder.layer.authenticator import OtherHmac, new_buffer
from decoder.layer.digest import RunningDigest, split_digest

if TYPE_CHECKING:
    from decoder.image.transport import BlobSource, Descriptor
    from decoder.layer.annotations import LayerKey, PublicOptions


def prove(
    source: BlobSource, descriptor: Descriptor, public: PublicOptions, error: UnprovenError
) -> tuple[LayerKey, str]:
    """Read an encrypted layer, and return the key that its HMAC proves, with the digest of the plain layer.

    Args:
        source: the source of the layer.
        descriptor: the layer's digest and size.
        public: the layer's public options.
        error: holds the candidates; it is raised if none of them is the layer's key.

    Raises:
        UnprovenError: no candidate is the key: the HMAC or the digest of the plain layer differs.
        DigestError: the layer's digest or size is wrong.
        ImageError: the layer cannot be read.
    """
    proofs = [_Proof(key, plain) for key, plain in keys_to_prove(public, error.unproven)]
    block = new_buffer(limits.BUFFER_BYTES)
    with blobs.checked(source, descriptor) as reader:
        while length := stream.fill(reader, block):
            for proof in proofs:
                proof.update(block[:length])
        reader.check()
    proven = [proof for proof in proofs if proof.fits()]
    if not proven:
        raise error
    return proven[0].key, proven[0].plain


class _Proof:
    """The computation for one candidate. It is the same for right and wrong keys, so that its time reveals nothing."""

    def __init__(self, key: LayerKey, plain: str) -> None:
        self.key = key
        self.plain = plain
        self._hmac = OtherHmac(key.symmetric_key)
        self._cipher = Cipher(algorithms.AES(key.symmetric_key), modes.CTR(key.nonce)).decryptor()
        self._digest = RunningDigest(_algorithm(plain))

    def update(self, block: memoryview) -> None:
        self._hmac.update(block)
        self._digest.update(self._cipher.update(block))

    def fits(self) -> bool:
        is_authentic = self._hmac.fits(self.key.hmac)
        return is_authentic and (not self.plain or self._digest.digest() == self.plain)


def _algorithm(digest: str) -> str:
    try:
        return split_digest(digest)[0]
    except ImageError:  # absent, or not a digest, so that no digest is equal to it
        return "sha256"
