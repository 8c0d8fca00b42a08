"""A failure must be seen: standard output ends only after the exit status could be collected."""

from __future__ import annotations

import os
import subprocess
import threading
import time

from decoder import limits
from tests.support.layers import Layer, encrypted, pem, rsa_key
from tests.support.processes import PROGRAM, payload_bytes


def start(layer: Layer) -> subprocess.Popen[bytes]:
    reading, writing = os.pipe()
    os.write(writing, payload_bytes(layer.descriptor, {"privkeys": [pem(rsa_key())]}))
    os.close(writing)
    command = ["/bin/bash", "-c", f'exec "$0" 3<&{reading} {reading}<&-', PROGRAM]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, pass_fds=[reading], bufsize=0)
    os.close(reading)
    assert process.stdin is not None
    process.stdin.write(layer.ciphertext)
    process.stdin.close()
    process.stdin = None
    return process


def damaged() -> Layer:
    layer = encrypted(bytes(20_000))
    return layer._replace(ciphertext=layer.ciphertext[:-1])


def test_standard_output_ends_after_the_status_was_collected() -> None:
    """Fails as soon as standard output can end first, which is what a plain exit does."""
    process = start(damaged())
    ended: list[float] = []
    assert process.stdout is not None
    assert process.stderr is not None
    stdout = process.stdout

    def read_to_the_end() -> None:
        while stdout.read(65536):
            pass
        ended.append(time.monotonic())

    reader = threading.Thread(target=read_to_the_end)
    reader.start()
    assert process.stderr.read().startswith(b"ctd-decoder: error: ")  # ends although somebody holds standard output
    time.sleep(0.5)  # the process is long gone, but nobody has collected its status
    assert not ended
    assert process.wait(10) == 5
    collected = time.monotonic()
    reader.join(10)
    assert collected < ended[0] < collected + limits.HOLD_SECONDS
    process.communicate()


def test_it_is_not_held_for_ever() -> None:
    process = start(damaged())
    assert process.stdout is not None
    started = time.monotonic()
    process.stdout.read()
    assert time.monotonic() - started < 2 * limits.HOLD_SECONDS + 2
    assert process.wait(10) == 5
    process.communicate()


def test_success_holds_nothing() -> None:
    process = start(encrypted(bytes(20_000)))
    started = time.monotonic()
    plaintext, errors = process.communicate(timeout=10)
    assert (process.returncode, plaintext, errors) == (0, bytes(20_000), b"")
    assert time.monotonic() - started < limits.HOLD_SECONDS
