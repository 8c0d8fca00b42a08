"""A process that has imported the program and its libraries, and forks for each run: see `forked`.

usage: python -P fork_server.py DESCRIPTOR [CONFIGURATION-OF-COVERAGE]
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import pkgutil
import selectors
import socket
import struct
import sys
import tempfile
import traceback
from importlib import import_module
from typing import Any

import coverage

LIBRARIES = (
    "argparse",
    "concurrent.futures",
    "cryptography.hazmat.primitives.ciphers",
    "cryptography.hazmat.primitives.serialization",
    "cryptography.x509",
    "dataclasses",
    "decimal",
    "hashlib",
    "hmac",
    "http.client",
    "json",
    "jwcrypto.jwe",
    "logging",
    "msgpack",
    "selectors",
    "shutil",
    "ssl",
    "subprocess",
    "tarfile",
    "tempfile",
    "tomllib",
    "typing",
    "urllib.request",
    "urllib3",
    "zstandard",
)
# The start itself; and modules that import grpcio, which no process should have before it forks, and Azure's library.
LATER = ("decoder.__main__", "decoder.provider.server", "decoder.provider.services.azureclient")
DESCRIPTORS = 8  # at most, of one request
REQUEST_BYTES = 1 << 20


class Lines(coverage.Coverage):
    """Measure the forks. When one ends, it writes down only what no other has reached.

    A database for each fork, as coverage would write it, takes longer than most commands.
    """

    def __init__(self, configuration: str) -> None:
        super().__init__(config_file=configuration)
        self._known: dict[str, set[int]] = {}
        self._notes = tempfile.NamedTemporaryFile()  # noqa: SIM115 - it is there as long as this process
        self._read = 0

    def save(self) -> None:
        """Write down the lines that are new: coverage calls this before os._exit."""
        collector: Any = self._collector
        new = {
            file: sorted(lines)
            for file, reached in collector.data.copy().items()
            if (lines := reached - self._known.get(file, set()))
        }
        if new:
            with open(self._notes.name, "ab", buffering=0) as notes:
                notes.write(json.dumps(new).encode() + b"\n")

    def learn(self) -> None:
        """Read what forks have written down."""
        while (line := self._notes.readline()).endswith(b"\n"):
            self._read += len(line)
            for file, lines in json.loads(line).items():
                self._known.setdefault(file, set()).update(lines)
        self._notes.seek(self._read)

    def end(self) -> None:
        """Save what all forks have reached."""
        self.learn()
        self.get_data().add_lines(self._known)
        super().save()


def serve(requests: socket.socket, measuring: Lines | None) -> None:
    """Fork for every request until the other end is closed."""
    events = selectors.DefaultSelector()
    events.register(requests, selectors.EVENT_READ)
    while True:
        for event, _ in events.select():
            if event.fileobj is requests:
                data, descriptors, _, _ = socket.recv_fds(requests, REQUEST_BYTES, DESCRIPTORS)
                if not data:
                    return
                answers, *others = descriptors
                process = _fork(json.loads(data), others, measuring)
                os.write(answers, struct.pack("i", process))
                events.register(os.pidfd_open(process), selectors.EVENT_READ, (process, answers))
                for descriptor in others:
                    os.close(descriptor)
            else:
                process, answers = event.data
                events.unregister(event.fileobj)
                os.close(event.fd)
                status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
                with contextlib.suppress(BrokenPipeError):
                    os.write(answers, struct.pack("i", status))
                os.close(answers)


def _fork(request: dict[str, Any], descriptors: list[int], measuring: Lines | None) -> int:
    if measuring:
        measuring.learn()
    process = os.fork()
    if not process:
        try:
            _become(request, descriptors)
            if measuring:
                measuring.start()
            exec(request["before"], {})
            from decoder.__main__ import main

            main()
        except BaseException:  # noqa: BLE001 - whatever it is, this process must end here
            traceback.print_exc()
            sys.stderr.flush()
        os._exit(70)
    return process


def _become(request: dict[str, Any], descriptors: list[int]) -> None:
    """Take the descriptors, directory, environment and arguments of a request."""
    above = max(descriptors) + 1
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, above + number)
    for number in range(len(descriptors)):
        os.dup2(above + number, number)
    os.closerange(len(descriptors), os.sysconf("SC_OPEN_MAX"))
    os.chdir(request["directory"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = request["command"]


def _measured(configuration: str) -> Lines:
    """Prepare what measures coverage in each fork."""
    measuring = Lines(configuration)
    measuring.start()
    _prepare()
    measuring.stop()
    measuring.save()
    return measuring


def _prepare() -> None:
    """Import the program, but for LATER: that takes longer than most commands."""
    room = import_module("decoder")
    for module in pkgutil.walk_packages(room.__path__, "decoder."):
        if not module.name.startswith(LATER):
            import_module(module.name)


if __name__ == "__main__":
    for library in LIBRARIES:
        import_module(library)
    measured = _measured(sys.argv[2]) if sys.argv[2:] else None
    _prepare()
    gc.freeze()  # or the forks would copy the memory in which the garbage collector keeps notes
    serve(socket.socket(fileno=int(sys.argv[1])), measured)
    if measured:
        measured.end()
