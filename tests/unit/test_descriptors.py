"""Standard input and output other than large pipes, and machines with one core."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from fcntl import F_GETPIPE_SZ, fcntl
from functools import cache
from pathlib import Path

import pytest

from decoder import limits
from tests.support.keywrap.layers import Layer, encrypted, pem, rsa_key
from tests.support.program.processes import PROGRAM, payload_bytes

Ends = tuple[int, int]  # the program's and ours

USUAL_PIPE_BYTES = 64 * limits.KIB
# Holds as many large pipes as a user may have, and becomes the program. Root's capabilities lift that limit.
CROWDED = """
import fcntl, os, sys
while True:
    reading, writing = os.pipe()
    os.set_inheritable(reading, True)
    try:
        fcntl.fcntl(reading, fcntl.F_SETPIPE_SZ, 1 << 20)
    except PermissionError:
        break
os.execv(sys.argv[1], sys.argv[1:])
"""
WITHOUT_CAPABILITIES = ["--bounding-set=-sys_resource,-sys_admin", "--inh-caps=-sys_resource,-sys_admin"]


@cache
def layer() -> Layer:
    """Encrypt a layer that is large enough for every buffer and the second thread."""
    return encrypted(os.urandom(limits.LARGE_AFTER_BYTES + 5 * limits.MIB + 7))


def decrypt(stdin: Ends, stdout: Ends, *command: str) -> bytes:
    """Run the program between any descriptors, feed and drain it, and return the plaintext."""
    reading, writing = os.pipe()
    os.write(writing, payload_bytes(layer().descriptor, {"privkeys": [pem(rsa_key())]}))
    os.close(writing)
    shell = ["/bin/bash", "-c", f'exec "$0" "$@" 3<&{reading} {reading}<&-', *(command or [PROGRAM])]
    process = subprocess.Popen(shell, stdin=stdin[0], stdout=stdout[0], stderr=subprocess.PIPE, pass_fds=[reading])
    for descriptor in (reading, stdin[0], stdout[0]):
        os.close(descriptor)
    feeder = threading.Thread(target=feed, args=[stdin[1]])
    feeder.start()
    with open(stdout[1], "rb", buffering=0) as drained:
        plaintext = b"".join(iter(lambda: drained.read(limits.MIB), b""))
    feeder.join()
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, b"")
    return plaintext


def feed(descriptor: int) -> None:
    if descriptor < 0:
        return
    with open(descriptor, "wb", buffering=0) as file:
        rest = memoryview(layer().ciphertext)
        while rest:
            rest = rest[file.write(rest) :]


def pipes() -> tuple[Ends, Ends]:
    (read_in, write_in), (read_out, write_out) = os.pipe(), os.pipe()
    return (read_in, write_in), (write_out, read_out)


def sockets() -> tuple[Ends, Ends]:
    pairs = [socket.socketpair() for _ in range(2)]
    (first, second), (third, fourth) = ((one.detach(), other.detach()) for one, other in pairs)
    return (first, second), (third, fourth)


@pytest.mark.parametrize("make", [pipes, sockets])
@pytest.mark.parametrize("prefix", [[], ["taskset", "--cpu-list", str(min(os.sched_getaffinity(0)))]])
def test_pipes_and_sockets_with_one_core_or_more(make: Callable[[], tuple[Ends, Ends]], prefix: list[str]) -> None:
    assert decrypt(*make(), *prefix, PROGRAM) == layer().plaintext


def test_files(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(layer().ciphertext)
    stdin = os.open(tmp_path / "in", os.O_RDONLY)
    stdout = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT, 0o600)
    assert decrypt((stdin, -1), (stdout, os.open(os.devnull, os.O_RDONLY))) == b""
    assert (tmp_path / "out").read_bytes() == layer().plaintext


@pytest.mark.parametrize("is_crowded", [False, True])
def test_pipes_that_cannot_be_enlarged(is_crowded: bool) -> None:
    """Where they can, they are; else the layer goes through the small ones.

    The limit is that of a user (pipe(7), pipe-user-pages-soft), whose other processes take and free pipes meanwhile.
    """
    crowd = ["setpriv", *WITHOUT_CAPABILITIES, sys.executable, "-c", CROWDED] if is_crowded else []
    wanted = USUAL_PIPE_BYTES if is_crowded else limits.PIPE_BYTES
    assert any(size_after_a_layer(*crowd) == wanted for _ in range(20))


def size_after_a_layer(*prefix: str) -> int:
    """Decrypt a layer through a pipe, and return the pipe's size in bytes."""
    stdin, stdout = pipes()
    ours = os.dup(stdout[1])
    assert decrypt(stdin, stdout, *prefix, PROGRAM) == layer().plaintext
    size: int = fcntl(ours, F_GETPIPE_SZ)
    os.close(ours)
    return size
