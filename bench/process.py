"""Run decoders between pipes as containerd does, all at once, and print what the kernel counted.

This script runs in a process of its own and imports next to nothing, because a process inherits the peak memory of the
one that starts it. It reads the payload on standard input. Those who feed and drain a decoder share the cores with it,
so they do little: one block in the processor's cache is written over and over (any bytes are a ciphertext), and
plaintext is spliced away unread unless its digest is asked for.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from select import select
from time import perf_counter

BLOCK = memoryview(bytes(range(256)) * 128)  # 32 KiB, as containerd writes
SECONDS = 600
_DRAINED_BYTES = 1024 * 1024  # at a time


def ciphertext(size: int) -> Iterator[memoryview]:
    """Yield the ciphertext of a layer of `size` bytes in blocks."""
    for start in range(0, size, len(BLOCK)):
        yield BLOCK[: size - start]


def main(size: int, copies: int, sha256: str, program: list[str]) -> str:
    """Run `copies` of a program, each on a layer of `size` bytes; the pipes are ready and full before the clock starts.

    The plaintext must have this SHA-256. If that is "", only the length is compared, which takes less time.

    Returns:
        Wall and CPU time in seconds, and the peak memory of the largest process in bytes.
    """
    payload, ends, drains = sys.stdin.buffer.read(), [], []
    for _ in range(copies):
        (stdin, feed), (plain, stdout), (config, send) = (os.pipe() for _ in range(3))
        os.write(send, payload)
        os.close(send)
        _fork(stdin, _feed, feed, size)
        os.close(feed)
        drains.append(_fork(stdout, _drain, plain, size, sha256))
        os.close(plain)
        select([stdin], [], [], SECONDS)
        ends.append((stdin, stdout, config))
    signal.alarm(SECONDS)
    started = perf_counter()
    processes = [_start(program, each) for each in ends]
    ended = [os.wait4(process, 0) for process in processes]
    wall = perf_counter() - started
    if status := max(abs(os.waitstatus_to_exitcode(status)) for _, status, _ in ended):
        sys.exit(f"ended with status {status}")
    if any(os.waitpid(drain, 0)[1] for drain in drains):
        sys.exit("wrote something other than the layer's plaintext")
    used = [each for _, _, each in ended]
    cpu = sum(each.ru_utime + each.ru_stime for each in used)
    return f"{wall} {cpu} {1024 * max(each.ru_maxrss for each in used)}"


def _start(program: list[str], ends: tuple[int, int, int]) -> int:
    moves = [(os.POSIX_SPAWN_DUP2, *move) for move in zip(ends, (0, 1, 3), strict=True)]
    process = os.posix_spawn(program[0], program, os.environ, file_actions=moves)
    for descriptor in ends:
        os.close(descriptor)
    return process


def _fork(unneeded: int, work: Callable[..., int], *arguments: int | str) -> int:
    """Do work in a process of its own; what `work` returns is its exit status."""
    if process := os.fork():
        return process
    os.close(unneeded)
    os._exit(work(*arguments))


def _feed(pipe: int, size: int) -> int:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    for block in ciphertext(size):
        written = os.write(pipe, block)
        while written < len(block):
            written += os.write(pipe, block[written:])
    return 0


def _drain(pipe: int, size: int, sha256: str) -> int:
    if sha256:
        from hashlib import file_digest

        with open(pipe, "rb", buffering=0) as plain:
            return file_digest(plain, "sha256").hexdigest() != sha256
    null = os.open(os.devnull, os.O_WRONLY)
    while count := os.splice(pipe, null, _DRAINED_BYTES):
        size -= count
    return size != 0


if __name__ == "__main__":
    os.dup2(2, 3)  # keeps the pipes off the descriptor that a decoder reads its payload from
    try:
        print(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:]))
    except OSError as error:
        sys.exit(f"cannot be started: {error}")
