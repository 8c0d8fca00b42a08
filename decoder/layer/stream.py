"""The layer cipher, both ways: AES-256-CTR, and HMAC-SHA256 over the ciphertext.

`decrypt` writes plaintext as it is decrypted, except for the last TAIL_BYTES, which are held back until
the HMAC has been verified (a layer of at most that size is held back completely). `decrypt_verified`
writes nothing before that. Memory does not depend on the layer's size.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, cast

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from decoder import limits
from decoder.errors import LayerError, StreamError
from decoder.layer.authenticator import HMAC_DIFFERS, Authenticator, OtherHmac, new_buffer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Protocol

    from decoder.layer.annotations import LayerKey

    Digest = Callable[[memoryview], object]

    class Source(Protocol):
        """An unbuffered binary file to read, such as `open(0, "rb", buffering=0)`."""

        def readinto(self, buffer: memoryview, /) -> int | None:
            """Read at most as much as fits; return 0 at the end, None if a file with a descriptor would block."""

    class Sink(Protocol):
        """An unbuffered binary file to write."""

        def write(self, data: memoryview, /) -> int | None:
            """Write as much as is possible at once; return None if a file with a descriptor would block."""

    class HasDescriptor(Protocol):
        """A source or sink that may be non-blocking."""

        def fileno(self) -> int:
            """Return the descriptor, to wait for it."""

    class Spool(Source, Sink, Protocol):
        """An unbuffered binary file to write and then to read again."""

        def seek(self, offset: int, /) -> int:
            """Seek to an offset, in bytes from the start."""


_SLACK = 15  # the room that update_into() requires behind its output: an AES block less one byte


class Rewound:
    """A source whose first bytes can be looked at before they are read.

    Args:
        source: the file to read.
        head_bytes: how much of it to read ahead, in bytes.

    Attributes:
        head: the first `head_bytes`, or fewer if the source is shorter.

    Raises:
        StreamError: reading failed.
    """

    def __init__(self, source: Source, head_bytes: int) -> None:
        head = memoryview(bytearray(head_bytes))
        self.head = bytes(head[: fill(source, head)])
        self._rest = memoryview(self.head)
        self._source = source

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Read from the head, then from the source."""
        if not self._rest:
            return self._source.readinto(buffer)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def fileno(self) -> int:
        """Return the descriptor, to wait for it."""
        return cast("HasDescriptor", self._source).fileno()


def decrypt(
    source: Source,
    sink: Sink,
    key: LayerKey,
    buffer_bytes: int = limits.BUFFER_BYTES,
    source_name: str = "standard input",
    also: Digest | None = None,
) -> None:
    """Decrypt a layer, holding back its tail until the HMAC over the whole ciphertext is verified.

    Args:
        source: the ciphertext, read to its end.
        sink: takes the plaintext, which has the same length.
        key: 32-byte key, 16-byte nonce, and the expected 32-byte HMAC.
        buffer_bytes: the maximum number of bytes that are read and decrypted at a time.
        source_name: what a StreamError calls the source.
        also: is called with every block of ciphertext, perhaps in another thread.

    Raises:
        LayerError: the HMAC differs; the last TAIL_BYTES of plaintext were not written.
        StreamError: reading or writing failed.
    """
    cipher = Cipher(algorithms.AES(key.symmetric_key), modes.CTR(key.nonce)).decryptor()
    plain = new_buffer(limits.TAIL_BYTES + buffer_bytes + _SLACK)
    held = 0
    with Authenticator(key.symmetric_key, buffer_bytes, limits.BUFFER_BYTES, also) as mac:
        while length := fill(source, block := mac.free_buffer(), source_name):
            mac.update(block[:length])
            held += cipher.update_into(block[:length], plain[held:])
            held = _release_all_but_tail(sink, plain, held)
        mac.verify(key.hmac)
    _write(sink, plain[:held])


def decrypt_verified(
    source: Source, sink: Sink, keys: Sequence[LayerKey], spool: Spool, buffer_bytes: int = limits.BUFFER_BYTES
) -> None:
    """Decrypt a layer without releasing a byte before the HMAC is verified.

    Args:
        source: the ciphertext, read to its end.
        sink: takes the plaintext, once the HMAC is verified.
        keys: candidates, each as for `decrypt`; the first one whose HMAC fits is used.
        spool: an empty file that only this process can read; it takes the ciphertext.
        buffer_bytes: the maximum number of bytes that are read and decrypted at a time.

    Raises:
        LayerError: the HMAC differs; nothing was written to `sink`.
        StreamError: reading, writing or spooling failed.
    """
    others = [OtherHmac(key.symmetric_key) for key in keys[1:]]
    also = (lambda block: [other.update(block) for other in others]) if others else None
    with Authenticator(keys[0].symmetric_key, buffer_bytes, limits.BUFFER_BYTES, also) as mac:
        while length := fill(source, block := mac.free_buffer()):
            _write(spool, block[:length], "the spool file")
            mac.update(block[:length])
        # All candidates are compared, so that the time does not show which one is right.
        fits = [mac.fits(keys[0].hmac), *(other.fits(key.hmac) for other, key in zip(others, keys[1:], strict=True))]
    if True not in fits:
        raise LayerError(HMAC_DIFFERS)
    key = keys[fits.index(True)]
    spool.seek(0)
    decrypt(spool, sink, key, buffer_bytes, "the spool file")


def encrypt(
    source: Source,
    sink: Sink,
    symmetric_key: bytes,
    nonce: bytes,
    buffer_bytes: int = limits.BUFFER_BYTES,
    also: Digest | None = None,
) -> bytes:
    """Encrypt a layer.

    Args:
        source: the plaintext, read to its end.
        sink: takes the ciphertext, which has the same length.
        symmetric_key: 32 bytes, which must never be used for another layer.
        nonce: 16 bytes, the first counter block.
        buffer_bytes: how much is read and encrypted at a time, in bytes.
        also: is called with every block of ciphertext, perhaps in another thread.

    Returns:
        The 32-byte HMAC-SHA256 over the ciphertext.

    Raises:
        StreamError: reading or writing failed.
    """
    cipher = Cipher(algorithms.AES(symmetric_key), modes.CTR(nonce)).encryptor()
    plain = new_buffer(buffer_bytes)
    with Authenticator(symmetric_key, buffer_bytes + _SLACK, also=also) as mac:
        while length := fill(source, plain):
            block = mac.free_buffer()
            cipher.update_into(plain[:length], block)
            mac.update(block[:length])
            _write(sink, block[:length])
        return mac.finish()


def fill(source: Source, buffer: memoryview, name: str = "standard input") -> int:
    """Read until the buffer is full or the source ends; return the number of bytes.

    Raises:
        StreamError: reading failed.
    """
    length = 0
    while length < len(buffer):
        try:
            count = source.readinto(buffer[length:])
        except OSError as error:
            raise StreamError(name, error) from error
        if count == 0:
            break
        if count is None:
            select.select([cast("HasDescriptor", source)], [], [])
        else:
            length += count
    return length


def write_all(sink: Sink, data: bytes | memoryview) -> None:
    """Write everything, even if the sink takes little at a time.

    Raises:
        OSError: writing failed.
    """
    rest = memoryview(data)
    while rest:
        count = sink.write(rest)
        if count is None:
            select.select([], [cast("HasDescriptor", sink)], [])
        else:
            rest = rest[count:]


def _write(sink: Sink, data: memoryview, name: str = "standard output") -> None:
    try:
        write_all(sink, data)
    except OSError as error:
        raise StreamError(name, error) from error


def _release_all_but_tail(sink: Sink, plain: memoryview, held: int) -> int:
    """Write all but the last TAIL_BYTES, move those to the front, and return how many bytes are left there."""
    releasable = held - limits.TAIL_BYTES
    if releasable <= 0:
        return held
    _write(sink, plain[:releasable])
    plain[: limits.TAIL_BYTES] = plain[releasable:held]
    return limits.TAIL_BYTES
