"""Run the installed program in a fork of a process that has imported it and its libraries.

That takes a fifth of the time of a new process. The unit tests run most commands so; what starts a new process there
are the tests of the start itself, and of what is imported then.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

# The configuration with which coverage measures these runs, if it does; set by the unit tests.
coverage = ""
_SERVER = Path(__file__).with_name("fork_server.py")
_NUMBER = struct.Struct("i")
# Variables that change how Python runs: it is to write with a buffer, as it does for users.
_NOT_OURS = ("COVERAGE_PROCESS", "PYTHONUNBUFFERED")


class Streams(NamedTuple):
    """The descriptors of a run.

    Attributes:
        given: what comes on standard input.
        payload: what comes on descriptor 3; by default it is closed.
        output: a descriptor that becomes standard output; by default what is printed is returned.
    """

    given: bytes = b""
    payload: bytes | None = None
    output: int = subprocess.PIPE


def run(
    command: Sequence[str],
    environment: Mapping[str, str],
    seconds: float,
    streams: Streams,
    before: str = "",
) -> subprocess.CompletedProcess[bytes]:
    """Run the program to its end.

    Args:
        command: what sys.argv is to be.
        environment: its variables.
        seconds: after which it is killed.
        streams: what it reads, and where it writes.
        before: Python to run first.

    Raises:
        subprocess.TimeoutExpired: it was killed.
    """
    (source, feed), (printed, sink), (errors, error_sink), (answers, answer_sink) = (os.pipe() for _ in range(4))
    if streams.output != subprocess.PIPE:
        os.dup2(streams.output, sink)
    request = {
        "command": list(command),
        "environment": dict(environment),
        "directory": os.getcwd(),
        "before": before,
    }
    theirs = [answer_sink, source, sink, error_sink]
    feeds = [(feed, streams.given)]
    if streams.payload is not None:
        payload_source, payload_feed = os.pipe()
        theirs.append(payload_source)
        feeds.append((payload_feed, streams.payload))
    socket.send_fds(_server()[0], [json.dumps(request).encode()], theirs)
    for descriptor in theirs:
        os.close(descriptor)
    with ThreadPoolExecutor(4) as pool, open(answers, "rb", buffering=0) as numbers:
        for descriptor, data in feeds:
            pool.submit(_feed, descriptor, data)
        outputs = [pool.submit(_take, descriptor) for descriptor in (printed, errors)]
        (process,) = _NUMBER.unpack(numbers.read(_NUMBER.size) or b"")
        in_time = bool(select.select([numbers], [], [], seconds)[0])
        if not in_time:
            os.kill(process, signal.SIGKILL)
        (status,) = _NUMBER.unpack(numbers.read(_NUMBER.size) or b"")
        texts = [taken.result() for taken in outputs]
    if not in_time:
        raise subprocess.TimeoutExpired(command, seconds, *texts)
    return subprocess.CompletedProcess(command, status, *texts)


def end() -> None:
    """End the process that forks, if there is one, and wait until it has saved what it measured."""
    if _server.cache_info().currsize:
        requests, process = _server()
        requests.close()
        process.wait()
        _server.cache_clear()


@cache
def _server() -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """Start the process that forks."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with its:
        process = subprocess.Popen(
            [sys.executable, "-P", str(_SERVER), str(its.fileno()), *([coverage] if coverage else [])],
            stdin=subprocess.DEVNULL,
            pass_fds=[its.fileno()],
            env={name: value for name, value in os.environ.items() if not name.startswith(_NOT_OURS)},
        )
    return ours, process


def _feed(descriptor: int, data: bytes) -> None:
    with open(descriptor, "wb", buffering=0) as pipe, suppress(BrokenPipeError):
        view = memoryview(data)
        while view:
            view = view[pipe.write(view) :]


def _take(descriptor: int) -> bytes:
    with open(descriptor, "rb") as pipe:
        return pipe.read()
