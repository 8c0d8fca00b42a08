"""A failure must be seen: standard output ends only after the exit status could be collected."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from decoder.node import ending
from tests.support.keywrap.layers import Layer, encrypted, pem, rsa_key
from tests.support.program.processes import payload_bytes

SECONDS = 60.0  # much longer than anything takes, even on a machine that is busy
FOR_EVER = 3600.0


def start(layer: Layer, hold_seconds: float, ends: bool = True) -> subprocess.Popen[bytes]:
    """Start the program, which holds standard output so long after a failure, and give it the layer."""
    reading, writing = os.pipe()
    os.write(writing, payload_bytes(layer.descriptor, {"privkeys": [pem(rsa_key())]}))
    os.close(writing)
    program = (
        # Tests may run in the background and under nohup(1), where these are ignored.
        "import signal as s; s.signal(s.SIGHUP, s.SIG_DFL); s.signal(s.SIGINT, s.default_int_handler)\n"
        f"from decoder import limits; limits.HOLD_SECONDS = {hold_seconds}; import decoder.__main__ as m; m.main()"
    )
    command = ["/bin/bash", "-c", f'exec "$0" -c "$1" 3<&{reading} {reading}<&-', sys.executable, program]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, pass_fds=[reading], bufsize=0)
    os.close(reading)
    assert process.stdin is not None
    process.stdin.write(layer.ciphertext)
    if ends:
        process.stdin.close()
        process.stdin = None
    return process


def damaged() -> Layer:
    layer = encrypted(bytes(20_000))
    return layer._replace(ciphertext=layer.ciphertext[:-1])


def test_standard_output_ends_after_the_status_was_collected() -> None:
    """Fails as soon as standard output can end first, which is what a plain exit does."""
    process = start(damaged(), FOR_EVER)
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
    assert process.wait(SECONDS) == 5
    collected = time.monotonic()
    reader.join(SECONDS)
    assert collected < ended[0]
    process.communicate()


def test_it_is_not_held_for_ever() -> None:
    process = start(damaged(), 0.2)
    assert process.stdout is not None
    reader = threading.Thread(target=process.stdout.read)
    reader.start()
    reader.join(SECONDS)
    assert not reader.is_alive()  # although nobody has collected the status
    assert process.wait(SECONDS) == 5
    process.communicate()


def test_who_reads_standard_output(tmp_path: Path) -> None:
    """While no child can be started, it is held only for a pipe with a reader."""
    before = os.dup(1)
    reading, writing = os.pipe()
    try:
        os.dup2(writing, 1)
        os.close(writing)
        assert ending._is_read()
        os.close(reading)
        assert not ending._is_read()
        file = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
        os.dup2(file, 1)
        os.close(file)
        assert not ending._is_read()
        os.close(1)
        assert not ending._is_read()
    finally:
        os.dup2(before, 1)
        os.close(before)


def test_success_holds_nothing() -> None:
    process = start(encrypted(bytes(20_000)), FOR_EVER)
    plaintext, errors = process.communicate(timeout=SECONDS)
    assert (process.returncode, plaintext, errors) == (0, bytes(20_000), b"")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_is_a_failure_that_cannot_be_missed(number: signal.Signals) -> None:
    layer = encrypted(os.urandom(2_000_000))
    process = start(layer, FOR_EVER, ends=False)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.read(1) == layer.plaintext[:1]
    process.send_signal(number)
    assert process.stderr.read() == b""  # it has ended
    os.set_blocking(process.stdout.fileno(), False)
    while process.stdout.read(1 << 20):
        pass
    assert process.stdout.read(1) is None  # but somebody holds standard output
    assert process.wait(120) == 128 + number
    process.communicate()


def test_a_signal_while_the_agent_is_started_is_one_too() -> None:
    """That is before the layer: the first decoder of an image starts it."""
    program = (
        "import os, sys, decoder.agent.birth as birth, decoder.__main__ as m\n"
        "birth.leave_agent = lambda _: os.kill(os.getpid(), 15)\n"
        "sys.argv[1:] = ['--agent-socket=4,5,name']; m.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=False
    )
    assert (done.returncode, done.stderr) == (128 + signal.SIGTERM, b"")
