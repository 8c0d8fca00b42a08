"""What decoders are held against: the work that no decoder can leave out, done alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from fcntl import F_SETPIPE_SZ, fcntl
from time import perf_counter, process_time

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hmac import HMAC

from bench import pipes
from bench.run import Run
from decoder import limits

_BLOCK_BYTES = 256 * 1024  # stay in the processor's cache


def hmac_alone(size: int) -> Run:
    """Authenticate `size` bytes in memory, the same ones over and over: as fast as OpenSSL can."""
    return _in_blocks(size, HMAC(bytes(32), hashes.SHA256()).update)


def bound(size: int) -> Run:
    """Divide the processor time of all that must be done among the cores, as if nobody ever waited or woke anybody.

    That is HMAC, AES, and the copies into and out of both pipes; what is longest is the HMAC, which nobody can divide.
    """
    hmac = hmac_alone(size).cpu
    total = hmac + _aes_alone(size).cpu + _pipes_alone(size).cpu
    return Run(max(hmac, total / len(os.sched_getaffinity(0))), total, 0)


def _aes_alone(size: int) -> Run:
    cipher = Cipher(algorithms.AES(bytes(32)), modes.CTR(bytes(16))).decryptor()
    plain = bytearray(_BLOCK_BYTES + 15)
    return _in_blocks(size, lambda block: cipher.update_into(block, plain))


def _pipes_alone(size: int) -> Run:
    """Feed, read, write and drain, all in this process."""
    (source, feed), (drain, sink) = os.pipe(), os.pipe()
    null, buffer = os.open(os.devnull, os.O_WRONLY), memoryview(bytearray(_BLOCK_BYTES))
    for descriptor in (source, sink):
        fcntl(descriptor, F_SETPIPE_SZ, limits.PIPE_BYTES)

    def carry(block: memoryview) -> None:
        for start in range(0, len(block), len(pipes.BLOCK)):
            os.write(feed, block[start : start + len(pipes.BLOCK)])
        left = os.write(sink, buffer[: os.readv(source, [buffer])])
        while left:
            left -= os.splice(drain, null, left)

    done = _in_blocks(size, carry)
    for descriptor in (source, feed, drain, sink, null):
        os.close(descriptor)
    return done


def _in_blocks(size: int, work: Callable[[memoryview], object]) -> Run:
    block = memoryview(bytes(_BLOCK_BYTES))
    wall, cpu = perf_counter(), process_time()
    for _ in range(size // _BLOCK_BYTES):
        work(block)
    if rest := size % _BLOCK_BYTES:
        work(block[:rest])
    return Run(perf_counter() - wall, process_time() - cpu, 0)
