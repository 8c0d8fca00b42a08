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


def main(size: int, copies: int, drain: Callable[[int], str], program: list[str]) -> str:
    """Run `copies` of a program, each on a layer of `size` bytes.

    Returns:
        The highest exit status, wall and CPU time in seconds, the peak memory of the largest process in KiB, and what
        `drain` returned about the plaintext (separated by commas if the decoders differ).
    """
    payload, ends, verdicts = sys.stdin.buffer.read(), [], []
    for _ in range(copies):
        (stdin, feed), (plain, stdout), (config, send), (verdict, tell) = (os.pipe() for _ in range(4))
        os.write(send, payload)
        os.close(send)
        if os.fork() == 0:
            os.close(stdin)
            _feed(feed, size)
        os.close(feed)
        if os.fork() == 0:
            os.close(stdout)
            os.write(tell, drain(plain).encode())
            os._exit(0)
        os.close(plain)
        os.close(tell)
        select([stdin], [], [], SECONDS)
        ends.append((stdin, stdout, config))
        verdicts.append(verdict)
    signal.alarm(SECONDS)
    started = perf_counter()
    processes = [_start(program, each) for each in ends]
    results = [os.wait4(process, 0)[1:] for process in processes]
    wall = perf_counter() - started
    written = {os.read(verdict, 100).decode() for verdict in verdicts}
    status = max(abs(os.waitstatus_to_exitcode(status)) for status, _ in results)
    cpu = sum(used.ru_utime + used.ru_stime for _, used in results)
    return f"{status} {wall} {cpu} {max(used.ru_maxrss for _, used in results)} {','.join(sorted(written))}"


def _start(program: list[str], ends: tuple[int, int, int]) -> int:
    moves = [(os.POSIX_SPAWN_DUP2, *move) for move in zip(ends, (0, 1, 3), strict=True)]
    process = os.posix_spawn(program[0], program, os.environ, file_actions=moves)
    for descriptor in ends:
        os.close(descriptor)
    return process


def _feed(pipe: int, size: int) -> None:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    for block in ciphertext(size):
        written = os.write(pipe, block)
        while written < len(block):
            written += os.write(pipe, block[written:])
    os._exit(0)


def _count(pipe: int) -> str:
    null, length = os.open(os.devnull, os.O_WRONLY), 0
    while count := os.splice(pipe, null, _DRAINED_BYTES):
        length += count
    return str(length)


def _digest(pipe: int) -> str:
    from hashlib import file_digest

    with open(pipe, "rb", buffering=0) as plain:
        return file_digest(plain, "sha256").hexdigest()


if __name__ == "__main__":
    os.dup2(2, 3)  # keeps the pipes off the descriptor that a decoder reads its payload from
    try:
        print(main(int(sys.argv[1]), int(sys.argv[2]), _digest if sys.argv[3] else _count, sys.argv[4:]))
    except OSError as error:
        sys.exit(str(error))
