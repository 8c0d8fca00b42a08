"""Run decoders between pipes as containerd does, all at once, and print what the kernel counted.

This is a script for a process of its own: a process inherits, over fork and exec alike, the peak memory of the one that
starts it, and next to nothing is imported here. It reads the payload on standard input. Those who feed and drain a
decoder share the cores with it, so they do as little as can be: one block in the processor's cache is written over and
over (any bytes are a ciphertext), and plaintext is spliced away unread unless it is to be compared.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from select import select
from time import perf_counter

BLOCK = memoryview(bytes(range(256)) * 128)  # 32 KiB, as containerd writes
SECONDS = 600
_MOST = 1024 * 1024  # bytes that are drained at a time


def ciphertext(size: int) -> Iterator[memoryview]:
    """Yield the ciphertext of a layer of `size` bytes in blocks."""
    for start in range(0, size, len(BLOCK)):
        yield BLOCK[: size - start]


def main(size: int, copies: int, drain: str, program: list[str]) -> str:
    """Run `copies` of a program, each on a layer of `size` bytes.

    Returns:
        The highest exit status, wall and CPU time in seconds together, the peak memory of one process in KiB, and what
        was written: its length, or its SHA-256 if `drain` is "digest"; several that differ have commas between them.
    """
    payload = sys.stdin.buffer.read()
    ends, verdicts, helpers = [], [], []
    for _ in range(copies):
        (stdin, feed), (plain, stdout), (config, send), (verdict, tell) = (os.pipe() for _ in range(4))
        os.write(send, payload)
        os.close(send)
        helpers += [_fork(partial(_feed, feed, size), feed), _fork(partial(_drain, plain, tell, drain), plain, tell)]
        for descriptor in (feed, plain, tell):
            os.close(descriptor)
        select([stdin], [], [], SECONDS)
        ends.append((stdin, stdout, config))
        verdicts.append(verdict)
    processes: list[int] = []

    def end(*_: object) -> None:
        for process in processes:
            os.kill(process, signal.SIGKILL)

    signal.signal(signal.SIGALRM, end)
    signal.alarm(SECONDS)
    started = perf_counter()
    for triple in ends:
        moves = [(os.POSIX_SPAWN_DUP2, *move) for move in zip(triple, (0, 1, 3), strict=True)]
        processes.append(os.posix_spawn(program[0], program, os.environ, file_actions=moves))
    for descriptor in (each for triple in ends for each in triple):
        os.close(descriptor)
    results = [os.wait4(process, 0)[1:] for process in processes]
    wall = perf_counter() - started
    written = {os.read(verdict, 100).decode() for verdict in verdicts}
    for helper in helpers:
        os.waitpid(helper, 0)
    status = max(abs(os.waitstatus_to_exitcode(status)) for status, _ in results)
    cpu = sum(used.ru_utime + used.ru_stime for _, used in results)
    return f"{status} {wall} {cpu} {max(used.ru_maxrss for _, used in results)} {','.join(sorted(written))}"


def _fork(work: Callable[[], object], *kept: int) -> int:
    """Do work in a child that has no other descriptor than these."""
    if process := os.fork():
        return process
    try:
        for descriptor in {int(name) for name in os.listdir("/proc/self/fd")} - {0, 1, 2, *kept}:
            with suppress(OSError):  # the list itself had one
                os.close(descriptor)
        work()
    finally:
        os._exit(0)


def _feed(pipe: int, size: int) -> None:
    for block in ciphertext(size):
        written = os.write(pipe, block)
        while written < len(block):
            written += os.write(pipe, block[written:])


def _drain(pipe: int, tell: int, how: str) -> None:
    os.write(tell, (_digest(pipe) if how == "digest" else _count(pipe)).encode())


def _count(pipe: int) -> str:
    null, length = os.open(os.devnull, os.O_WRONLY), 0
    while count := os.splice(pipe, null, _MOST):
        length += count
    return str(length)


def _digest(pipe: int) -> str:
    from hashlib import sha256

    digest, buffer = sha256(), memoryview(bytearray(_MOST))
    while count := os.readv(pipe, [buffer]):
        digest.update(buffer[:count])
    return digest.hexdigest()


if __name__ == "__main__":
    os.dup2(2, 3)  # pipes get other numbers than those that a decoder has
    try:
        print(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:]))
    except OSError as error:
        sys.exit(str(error))
