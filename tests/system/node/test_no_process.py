"""No process or thread may be started (RLIMIT_NPROC): a failure is seen all the same, and a layer still opens.

Root is exempt from that limit, so the programs run as a user of their own, who may read what root may.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import pytest

from tests.support.image.images import write_image
from tests.support.keywrap.layers import Layer, encrypted, pem, public_pem, rsa_key
from tests.support.program.agent import Place, wait_until
from tests.support.program.processes import PROGRAM, payload_bytes

SECONDS = 60.0
SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
# A limit that is reached; the descriptor of the payload is 3.
_AS_ANOTHER = (
    'exec setpriv --reuid "$0" --regid "$0" --clear-groups --inh-caps=-all,+dac_read_search '
    '--ambient-caps=-all,+dac_read_search prlimit --nproc={processes}:4096 "$@" 3<&{payload} {payload}<&-'
)

_KEEPER = """
import resource, socket
from decoder.agent.processes.keeper import _Keeper
ours, theirs = socket.socketpair()
keeper = _Keeper(None)
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
keeper.begin([theirs.detach()])
assert ours.recv(1) == b""
"""

_SILENT = """
import socket, sys, time
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print("listening", flush=True)
connection = listener.accept()
print("taken", flush=True)
time.sleep(3600)
"""


@pytest.fixture
def user(worker_id: str) -> int:
    """A user with no other process."""
    return 61_000 + (0 if worker_id == "master" else int(worker_id.removeprefix("gw"))) + 100 * (os.getpid() % 20)


class Running:
    """A program that may start no process, with its pipes."""

    def __init__(self, user: int, layer: Layer, *command: str, processes: int = 1) -> None:
        self.user = user
        payload, writing = os.pipe()
        os.write(writing, payload_bytes(layer.descriptor, {"privkeys": [pem(rsa_key())]}))
        os.close(writing)
        line = _AS_ANOTHER.format(processes=processes, payload=payload)
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            ["/bin/bash", "-c", line, str(user), *command], stdin=pipe, stdout=pipe, stderr=pipe, pass_fds=[payload]
        )
        os.close(payload)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.stdin, self.stdout, self.stderr = self.process.stdin, self.process.stdout, self.process.stderr

    def lift(self) -> None:
        """Allow processes again; root of a container may lack the right to, but the user itself has it."""
        who = ["setpriv", "--reuid", str(self.user), "--regid", str(self.user), "--clear-groups"]
        command = [*who, "prlimit", f"--pid={self.process.pid}", "--nproc=4096:4096"]
        subprocess.run(command, check=True, timeout=SECONDS)

    def is_open(self) -> bool:
        """Check that standard output has not ended; what came is thrown away."""
        os.set_blocking(self.stdout.fileno(), False)
        try:
            while data := os.read(self.stdout.fileno(), 1 << 20):
                del data
        except BlockingIOError:
            return True
        return False


@contextmanager
def running(user: int, layer: Layer, *command: str, processes: int = 1) -> Iterator[Running]:
    started = Running(user, layer, *command, processes=processes)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.wait()
        for pipe in (started.stdin, started.stdout, started.stderr):
            with suppress(BrokenPipeError):
                pipe.close()


def held(started: Running, *statuses: int) -> None:
    """Check that standard output is held by the process itself, and then by a child until the status is collected."""
    for _ in range(10):  # much longer than HOLD_SECONDS here
        time.sleep(0.05)
        assert started.is_open()
    assert os.path.exists(f"/proc/{started.process.pid}/exe"), "it has ended, and with it standard output"
    started.lift()
    wait_until(lambda: not os.path.exists(f"/proc/{started.process.pid}/exe"))  # a zombie has none
    assert started.is_open()
    assert started.process.wait(SECONDS) in statuses
    wait_until(lambda: not started.is_open())


def program(hold_seconds: float = 0.1) -> list[str]:
    """The decoder, which holds standard output for no longer while its status is not collected."""
    code = f"from decoder import limits; limits.HOLD_SECONDS = {hold_seconds}; import decoder.__main__ as m; m.main()"
    return [sys.executable, "-c", code]


def damaged() -> Layer:
    layer = encrypted(bytes(20_000))
    return layer._replace(ciphertext=layer.ciphertext[:-1])


def test_a_failure_stays_until_it_can_be_seen(user: int) -> None:
    layer = damaged()
    with running(user, layer, *program(hold_seconds=3600)) as started:
        started.stdin.write(layer.ciphertext)
        started.stdin.close()
        wait_until(lambda: b"its HMAC differs" in started.stderr.peek())  # type: ignore[attr-defined]
        held(started, 5)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_no_success_either(number: signal.Signals, user: int) -> None:
    layer = encrypted(os.urandom(2_000_000))
    with running(user, layer, *program(hold_seconds=3600)) as started:
        started.stdin.write(layer.ciphertext)
        started.stdin.flush()
        assert started.stdout.read(1) == layer.plaintext[:1]
        started.process.send_signal(number)
        held(started, 128 + number)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_does_not_end_what_stays(number: signal.Signals, user: int) -> None:
    layer = damaged()
    with running(user, layer, *program(hold_seconds=3600)) as started:
        started.stdin.write(layer.ciphertext)
        started.stdin.close()
        wait_until(lambda: b"its HMAC differs" in started.stderr.peek())  # type: ignore[attr-defined]
        for _ in range(3):
            started.process.send_signal(number)
            time.sleep(0.1)
        held(started, 5, 128 + number)  # the first one may come before the decoder stays


def test_it_ends_when_nobody_reads(user: int) -> None:
    layer = damaged()
    with running(user, layer, *program()) as started:
        started.stdin.write(layer.ciphertext)
        started.stdin.close()
        wait_until(lambda: b"its HMAC differs" in started.stderr.peek())  # type: ignore[attr-defined]
        started.stdout.close()
        assert started.process.wait(SECONDS) == 5


def test_one_thread_is_enough(user: int) -> None:
    """A layer for which a second thread would be started."""
    layer = encrypted(os.urandom(9_000_000))
    with running(user, layer, PROGRAM) as started:
        plaintext, errors = started.process.communicate(layer.ciphertext, timeout=SECONDS)
        assert (started.process.returncode, errors) == (0, b"")
        assert plaintext == layer.plaintext


def test_a_provider_needs_no_thread(user: int, tmp_path: Path) -> None:
    from decoder.keywrap.keyprovider import KeyProvider
    from tests.support.keywrap.layers import private_options
    from tests.support.provider.client_parts import configuration
    from tests.support.provider.serving import write_key

    entry = {"local": {"native": "local", "key": str(write_key(tmp_path / "key"))}}
    config = configuration(tmp_path, entry)
    os.chown(tmp_path / "key", user, user)
    wrapped = KeyProvider("local", config).wrap(private_options(), [])
    layer = encrypted(b"text" * 5000, {"provider.local": [wrapped]})
    with running(user, layer, PROGRAM, "--keyprovider-config", config) as started:
        plaintext, errors = started.process.communicate(layer.ciphertext, timeout=SECONDS)
        assert (started.process.returncode, errors) == (0, b"")
        assert plaintext == layer.plaintext


def test_a_keeper_without_threads_goes_on(user: int) -> None:
    """The worker sees the connection end, and asks the provider itself."""
    who = ("setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups", "--inh-caps=-all,+dac_read_search")
    command = [*who, "--ambient-caps=-all,+dac_read_search", sys.executable, "-c", _KEEPER]
    done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_command_that_needs_threads_says_so(user: int, tmp_path: Path) -> None:
    write_image(tmp_path / "image", "application/vnd.oci.image.layer.v1.tar+gzip")
    (tmp_path / "key.pem").write_bytes(public_pem(rsa_key()))
    (tmp_path / "to").mkdir()
    os.chown(tmp_path / "to", user, user)
    who = ("setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups", "--inh-caps=-all,+dac_read_search")
    command = [*who, "--ambient-caps=-all,+dac_read_search", "prlimit", "--nproc=1:1", PROGRAM, "image", "encrypt"]
    command += ["--recipient", f"jwe:{tmp_path}/key.pem", f"oci:{tmp_path}/image", f"oci:{tmp_path}/to"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (8, 1), done.stderr
    assert done.stderr.startswith("ctd-decoder: error: no thread can be started: ")


# The native client.


def test_the_client_stays_too(user: int) -> None:
    """Here because the program that it would become is not there."""
    with Place() as place:
        place.directory.chmod(0o755)
        (place.directory / "fallback").unlink()
        with running(user, damaged(), place.client) as started:
            wait_until(lambda: b"cannot be started" in started.stderr.peek())  # type: ignore[attr-defined]
            held(started, 70)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_to_the_client_is_no_success_either(number: signal.Signals, user: int) -> None:
    """It waits for an agent of its own user, who says nothing."""
    with Place() as place, silent_agent(place, user) as agent:
        command = ["env", f"XDG_RUNTIME_DIR={place.directory}", "CTD_DECODER_AGENT=on", place.client]
        with running(user, damaged(), *command, processes=2) as started:
            assert select.select([agent], [], [], SECONDS)[0], "the client has not asked the agent"
            assert agent.readline() == b"taken\n"
            started.process.send_signal(number)
            held(started, 128 + number)


@contextmanager
def silent_agent(place: Place, user: int) -> Iterator[IO[bytes]]:
    """Listen in the place as another user, and accept without a word."""
    for path in (place.directory, place.socket.parent):
        os.chown(path, user, user)
    command = [
        "setpriv",
        "--reuid",
        str(user),
        "--regid",
        str(user),
        "--clear-groups",
        "--inh-caps=-all,+dac_read_search",
    ]
    command += ["--ambient-caps=-all,+dac_read_search", sys.executable, "-c", _SILENT, str(place.socket)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as agent:
        assert agent.stdout is not None
        try:
            assert agent.stdout.readline() == b"listening\n"
            yield agent.stdout
        finally:
            agent.kill()
