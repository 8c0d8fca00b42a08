"""Streams that are damaged, break or stall."""

from __future__ import annotations

import os
import resource
import subprocess
import threading
import time
from typing import TYPE_CHECKING

import pytest

from decoder import limits
from tests.support.keywrap.layers import encrypted, pem, rsa_key
from tests.support.program.onelayer import PLAINTEXT, fails, run_layer
from tests.support.program.processes import PROGRAM, Result, payload_bytes

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("release", ["streaming", "verified"])
def test_damaged_layers(release: str) -> None:
    layer = encrypted(PLAINTEXT)
    damaged = [layer.ciphertext[:-1], layer.ciphertext + b"\0", b"", layer.ciphertext[1:], layer.ciphertext[:1]]
    places = (0, 1, len(PLAINTEXT) // 2, len(PLAINTEXT) - 1)
    damaged += [
        layer.ciphertext[:at] + bytes([layer.ciphertext[at] ^ 0x80]) + layer.ciphertext[at + 1 :] for at in places
    ]
    for ciphertext in damaged:
        result = run_layer(layer._replace(ciphertext=ciphertext), "--release", release)
        fails(result, 5, "its HMAC differs")
        held_back = limits.TAIL_BYTES if release == "streaming" else len(ciphertext)
        assert len(result.plaintext) == max(0, len(ciphertext) - held_back)
        assert len(result.errors.splitlines()) == 1


def test_reader_that_goes_away() -> None:
    layer = encrypted(bytes(8 * limits.MIB))
    payload = payload_bytes(layer.descriptor, {"privkeys": [pem(rsa_key())], "privkeys-passwords": [b""]})
    for arguments in ([], ["--release", "verified"]):
        reading, writing = os.pipe()
        os.write(writing, payload)
        os.close(writing)
        command = ["/bin/bash", "-c", f'exec "$0" "$@" 3<&{reading}', PROGRAM, *arguments]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, pass_fds=[reading]) as process:
            os.close(reading)
            assert process.stdout is not None
            process.stdout.close()
            process.stdout = None
            _, errors = process.communicate(layer.ciphertext, timeout=120)
        fails(Result(process.returncode, b"", errors.decode()), 7, "standard output: Broken pipe")


@pytest.mark.parametrize(
    ("redirections", "text"),
    [
        (">/dev/full", "standard output: No space left on device"),
        (">&-", "standard output: Bad file descriptor"),
        ("<&-", "standard input: Bad file descriptor"),
    ],
)
def test_broken_streams(redirections: str, text: str, tmp_path: Path) -> None:
    layer = encrypted(PLAINTEXT)
    (tmp_path / "payload").write_bytes(payload_bytes(layer.descriptor, {"privkeys": [pem(rsa_key())]}))
    (tmp_path / "layer").write_bytes(layer.ciphertext)
    command = f'exec "$0" 3<"$1/payload" <"$1/layer" {redirections}'
    done = subprocess.run(
        ["/bin/bash", "-c", command, PROGRAM, str(tmp_path)], capture_output=True, timeout=120, check=False
    )
    fails(Result(done.returncode, done.stdout, done.stderr.decode()), 7, text)


def test_spool_that_cannot_be_made_or_is_full(tmp_path: Path) -> None:
    absent = run_layer(encrypted(PLAINTEXT), "--release", "verified", environment={"TMPDIR": str(tmp_path / "absent")})
    assert (absent.status, absent.plaintext) == (0, PLAINTEXT)  # tempfile looks further
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # noqa: E731
    layer = encrypted(bytes(limits.MIB))
    (tmp_path / "payload").write_bytes(payload_bytes(layer.descriptor, {"privkeys": [pem(rsa_key())]}))
    (tmp_path / "layer").write_bytes(layer.ciphertext)
    command = 'exec "$0" --release verified 3<"$1/payload" <"$1/layer"'
    done = subprocess.run(
        ["/bin/bash", "-c", command, PROGRAM, str(tmp_path)],
        capture_output=True,
        timeout=120,
        check=False,
        preexec_fn=limit,
    )
    fails(Result(done.returncode, done.stdout, done.stderr.decode()), 7, "the spool file: File too large")
    assert done.stdout == b""


def test_waits_for_a_writer_that_stalls() -> None:
    layer = encrypted(PLAINTEXT)
    payload = payload_bytes(layer.descriptor, {"privkeys": [pem(rsa_key())]})
    reading, writing = os.pipe()
    os.write(writing, payload)
    os.close(writing)
    command = ["/bin/bash", "-c", f'exec "$0" 3<&{reading}', PROGRAM]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[reading], bufsize=0
    ) as process:
        os.close(reading)
        assert process.stdin is not None
        process.stdin.write(layer.ciphertext[:100])
        time.sleep(2)
        assert process.poll() is None
        plaintext, _ = process.communicate(layer.ciphertext[100:], timeout=120)
    assert (process.returncode, plaintext) == (0, PLAINTEXT)


def test_nonblocking_pipes() -> None:
    """A pipe that somebody else made non-blocking is waited for, not an error."""
    layer = encrypted(bytes(2 * limits.MIB))
    (payload_read, payload_write), (stdin_read, stdin_write), (stdout_read, stdout_write) = (
        os.pipe() for _ in range(3)
    )
    os.write(payload_write, payload_bytes(layer.descriptor, {"privkeys": [pem(rsa_key())]}))
    os.set_blocking(stdin_read, False)
    os.set_blocking(stdout_write, False)
    command = ["/bin/bash", "-c", f'exec "$0" 3<&{payload_read}', PROGRAM]
    with subprocess.Popen(command, stdin=stdin_read, stdout=stdout_write, pass_fds=[payload_read]) as process:
        for descriptor in (payload_read, payload_write, stdin_read, stdout_write):
            os.close(descriptor)
        feeder = threading.Thread(target=write_slowly, args=(stdin_write, layer.ciphertext))
        feeder.start()
        time.sleep(1)  # by now standard output is full
        with open(stdout_read, "rb") as reader:
            plaintext = reader.read()
        feeder.join(120)
        assert process.wait(120) == 0
    assert plaintext == layer.plaintext


def write_slowly(descriptor: int, data: bytes) -> None:
    with open(descriptor, "wb", 0) as pipe:
        for start in range(0, len(data), 100_000):
            pipe.write(data[start : start + 100_000])
            time.sleep(0.01)
