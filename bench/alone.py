"""What decoders are held against: the work that no decoder can leave out, done alone."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path
from time import perf_counter, process_time
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hmac import HMAC

from bench import pipes
from bench.run import Run, run

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.layer import Layer

_BLOCK_BYTES = 256 * 1024  # stay in the processor's cache
_COPY = ("-IS", str(pipes.__file__), "copy")


def hmac_alone(size: int) -> Run:
    """Authenticate `size` bytes in memory, the same ones over and over: as fast as OpenSSL can."""
    hmac = HMAC(bytes(32), hashes.SHA256())
    done = _in_blocks(size, hmac.update)
    hmac.finalize()
    return done


def bound(layer: Layer) -> Run:
    """Divide the processor time of all that must be done among the cores, as if nobody ever waited for anybody.

    That is: HMAC and AES of as many bytes in memory, and what feeding, copying and draining them takes between the same
    pipes.
    """
    cipher = Cipher(algorithms.AES(bytes(32)), modes.CTR(bytes(16))).decryptor()
    plain = bytearray(_BLOCK_BYTES + 15)
    ciphers = _in_blocks(layer.size, lambda block: cipher.update_into(block, plain))
    start = _pipes_cpu(layer._replace(size=0))
    total = hmac_alone(layer.size).cpu + ciphers.cpu + max(0.0, _pipes_cpu(layer) - start)
    return Run(total / len(os.sched_getaffinity(0)), total, 0)


def _in_blocks(size: int, work: Callable[[memoryview], object]) -> Run:
    block = memoryview(bytes(_BLOCK_BYTES))
    wall, cpu = perf_counter(), process_time()
    for _ in range(size // _BLOCK_BYTES):
        work(block)
    work(block[: size % _BLOCK_BYTES])
    return Run(perf_counter() - wall, process_time() - cpu, 0)


def _pipes_cpu(layer: Layer) -> float:
    """Have a program copy that only copies, and return the seconds of all who took part."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run(Path(sys.executable), layer, arguments=_COPY)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
