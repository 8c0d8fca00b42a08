"""Start a decoder the way containerd does: payload on descriptor 3, pipes for everything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from decoder.formats import wire
from tests.support.program import forked

ROOT = Path(__file__).parents[3]
# The program in the virtual environment, or another installation of it that is to be tested.
PROGRAM = os.environ.get("CTD_DECODER_PROGRAM") or str(Path(sys.executable).parent / "ctd-decoder")
REFERENCE = str(ROOT / ".cache/imgcrypt/usr/bin/ctd-decoder")
CONTAINERD_WRITE_BYTES = 32 * 1024
TIME_LIMIT = 120.0

# Python that runs a program, and prints the most memory that it used, in KiB. (A child starts with its parent's
# figure: a small one.)
MEASURE = (
    "import os, sys; process = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ);"
    "_, status, used = os.wait4(process, 0); print(used.ru_maxrss, file=sys.stderr); sys.exit(status != 0)"
)


# Whether the installed program runs in forks of a process that has its libraries: quicker, and set by the unit tests.
forks = False


class Result(NamedTuple):
    """How a decoder ended."""

    status: int
    plaintext: bytes
    errors: str


def without_modules(directory: Path, *names: str) -> str:
    """Write a program that is the decoder on a machine that lacks some Python modules; return its path."""
    program = directory / "without-modules"
    absent = "".join(f"sys.modules[{name!r}] = None\n" for name in names)
    start = "from decoder.__main__ import main\nmain()\n"
    program.write_text(f"#!{sys.executable} -I\nimport sys\n{absent}{start}")
    program.chmod(0o755)
    return str(program)


def run_decoder(
    payload: bytes | None,
    ciphertext: bytes,
    *arguments: str,
    program: str = PROGRAM,
    environment: dict[str, str] | None = None,
) -> Result:
    """Decrypt one layer; without a payload descriptor 3 is not open, as containerd leaves it then."""
    if forks and program == PROGRAM:
        ended = forked.run(
            [program, *arguments],
            {**os.environ, **(environment or {})},
            TIME_LIMIT,
            forked.Streams(ciphertext, payload),
        )
        return Result(ended.returncode, ended.stdout, ended.stderr.decode(errors="replace"))
    payload_read, payload_write = os.pipe()
    redirections = f"3<&{payload_read} {payload_read}<&-" if payload is not None else f"3<&- {payload_read}<&-"
    if payload is not None and payload_read == 3:
        redirections = ""
    process = subprocess.Popen(
        ["/bin/bash", "-c", f'exec "$0" "$@" {redirections}', program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=[payload_read],
        env={**os.environ, **(environment or {})},
        bufsize=0,
    )
    os.close(payload_read)
    assert process.stdin is not None
    feeders = [
        threading.Thread(target=_feed, args=(payload_write, payload or b"")),
        threading.Thread(target=_feed, args=(os.dup(process.stdin.fileno()), ciphertext)),
    ]
    process.stdin.close()
    process.stdin = None
    results: dict[str, bytes] = {}
    assert process.stdout is not None
    assert process.stderr is not None
    drains = [
        threading.Thread(target=lambda pipe=pipe, name=name: results.update({name: pipe.read()}))
        for name, pipe in (("plaintext", process.stdout), ("errors", process.stderr))
    ]
    for thread in (*feeders, *drains):
        thread.start()
    try:
        process.wait(TIME_LIMIT)  # like containerd: not only once standard output has ended
    finally:
        process.kill()
        process.wait()
        for thread in (*feeders, *drains):
            thread.join()
        process.stdout.close()
        process.stderr.close()
    return Result(process.returncode, results["plaintext"], results["errors"].decode(errors="replace"))


def run_program(
    arguments: Sequence[str],
    seconds: float,
    given: bytes = b"",
    environment: Mapping[str, str] = MappingProxyType({}),
    output: int = subprocess.PIPE,
) -> subprocess.CompletedProcess[bytes]:
    """Run a command of the program to its end; `output` is a descriptor for its standard output."""
    command = [PROGRAM, *arguments]
    variables = {**os.environ, **environment}
    if forks:
        return forked.run(command, variables, seconds, forked.Streams(given, output=output))
    return subprocess.run(
        command, input=given, stdout=output, stderr=subprocess.PIPE, env=variables, timeout=seconds, check=False
    )


def unmeasured() -> dict[str, str]:
    """Return the environment without what measures coverage, which takes memory and descriptors itself."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_PROCESS")}


def payload_bytes(descriptor: object, parameters: dict[str, list[bytes]] | None) -> bytes:
    """Build the payload that a client sends: a protobuf Any around JSON."""
    encoded = None
    if parameters is not None:
        encoded = {name: [wire.encode_base64(item) for item in items] for name, items in parameters.items()}
    return any_bytes(json.dumps({"DecryptConfig": {"Parameters": encoded}, "Descriptor": descriptor}).encode())


def any_bytes(value: bytes, type_url: bytes = b"io.containerd.ocicrypt.v1.Payload") -> bytes:
    """Build the protobuf Any around a value."""
    return b"\x0a" + varint(len(type_url)) + type_url + b"\x12" + varint(len(value)) + value


def varint(value: int) -> bytes:
    """Encode a protobuf varint."""
    encoded = b""
    while value > 0x7F:
        encoded += bytes([value & 0x7F | 0x80])
        value >>= 7
    return encoded + bytes([value])


def _feed(descriptor: int, data: bytes) -> None:
    with suppress(BrokenPipeError):
        for start in range(0, len(data), CONTAINERD_WRITE_BYTES):
            os.write(descriptor, data[start : start + CONTAINERD_WRITE_BYTES])
    os.close(descriptor)
