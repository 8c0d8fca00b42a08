"""The two ends of the pipes, run as a script in processes of their own.

Whoever feeds and drains shares the cores with the program that is measured, so both do as little as
can be: one block in the processor's cache is written over and over, and plaintext is spliced away
unread. It makes no difference to a decoder, since any bytes are a ciphertext; and a layer of 10 GiB
needs no disk.
"""

import os
import sys
from collections.abc import Iterator
from signal import SIG_DFL, SIGPIPE, signal

BLOCK = memoryview(bytes(range(256)) * 128)  # 32 KiB, as containerd writes
_SPLICE_BYTES = 1024 * 1024


def ciphertext(size: int) -> Iterator[memoryview]:
    """Yield the ciphertext of a layer of `size` bytes, in blocks of 32 KiB."""
    for _ in range(size // len(BLOCK)):
        yield BLOCK
    if rest := size % len(BLOCK):
        yield BLOCK[:rest]


def feed(size: int) -> None:
    """Write the ciphertext of `size` bytes to standard output."""
    signal(SIGPIPE, SIG_DFL)  # a decoder that ends early is reported by its exit status
    for block in ciphertext(size):
        written = os.write(1, block)
        while written < len(block):
            written += os.write(1, block[written:])
    os.close(1)  # the decoder sees the end now, and not when this interpreter is torn down


def drain() -> str:
    """Throw standard input away and return its length in bytes."""
    null = os.open(os.devnull, os.O_WRONLY)
    length = 0
    while count := os.splice(0, null, _SPLICE_BYTES):
        length += count
    return str(length)


def digest() -> str:
    """Return the SHA-256 of standard input, in hexadecimal."""
    from hashlib import sha256

    state, buffer = sha256(), memoryview(bytearray(_SPLICE_BYTES))
    while count := os.readv(0, [buffer]):
        state.update(buffer[:count])
    return state.hexdigest()


if __name__ == "__main__":
    if sys.argv[1] == "feed":
        feed(int(sys.argv[2]))
    else:
        print("ready", flush=True)
        print(digest() if sys.argv[1] == "digest" else drain())
