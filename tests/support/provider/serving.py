"""Our keyprovider as a command and as a server, and a client of the service that shares no code with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tests.support.program import forked, processes
from tests.support.program.processes import ROOT, varint

if TYPE_CHECKING:
    import grpc

# `ctd-decoder keyprovider`, from the sources.
_START = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
sys.argv[1:1] = ["keyprovider"]
from decoder import limits
from decoder.__main__ import main
exec(os.environ.get("PRELUDE", ""))
main()
"""
_BEFORE = "import os, sys\nfrom decoder import limits\n"
KEYPROVIDER = (sys.executable, "-c", _START)
SAMPLE_KEY = b"passphrasewhichneedstobe32bytes!"  # the sample provider of ocicrypt's documentation has it in its source
_SECONDS = 120.0
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def write_key(path: Path, key: bytes = SAMPLE_KEY) -> Path:
    """Write a key file that only its owner may read."""
    path.touch(0o600)
    path.write_bytes(key)
    return path


def local_options(directory: Path) -> tuple[str, ...]:
    """Write a key, and return the options of a server with the provider `local` that has it."""
    return ("--provider", "local", "--key", str(write_key(directory / "image.key")))


def write_command(path: Path, *arguments: str | Path) -> Path:
    """Write a program that runs our keyprovider with these arguments, for a configuration's `cmd`."""
    script = _START.replace('["keyprovider"]', repr(["keyprovider", "run", *map(str, arguments)]))
    path.write_text(f"#!{sys.executable}\n{script}")
    path.chmod(0o755)
    return path


def execute(*arguments: str | Path, request: bytes = b"", prelude: str = "") -> subprocess.CompletedProcess[bytes]:
    """Run `ctd-decoder keyprovider` with these arguments and a request on standard input."""
    if processes.forks:
        command = [processes.PROGRAM, "keyprovider", *map(str, arguments)]
        return forked.run(command, os.environ, _SECONDS, forked.Streams(request), _BEFORE + prelude)
    return subprocess.run(
        [*KEYPROVIDER, *map(str, arguments)],
        input=request,
        capture_output=True,
        timeout=_SECONDS,
        env={**os.environ, "PRELUDE": prelude},
        check=False,
    )


def request_of(operation: str, data: bytes, parameters: dict[str, list[str]] | None = None) -> bytes:
    """Write a request as ocicrypt does."""
    encoded = {name: [_base64(value.encode()) for value in values] for name, values in (parameters or {}).items()}
    wrap: dict[str, Any] = {"ec": None, "optsdata": None}
    unwrap: dict[str, Any] = {"dc": None, "annotation": None}
    if operation == "keywrap":
        wrap = {"ec": {"Parameters": encoded, "DecryptConfig": {"Parameters": None}}, "optsdata": _base64(data)}
    else:
        unwrap = {"dc": {"Parameters": encoded}, "annotation": _base64(data)}
    return json.dumps({"op": operation, "keywrapparams": wrap, "keyunwrapparams": unwrap}).encode()


def result_of(reply: bytes) -> bytes:
    """Read a reply as strictly as ocicrypt-rs: one result, an array of integers."""
    ((results, members),) = json.loads(reply).items()
    ((member, integers),) = members.items()
    assert (results, member) in (("keywrapresults", "annotation"), ("keyunwrapresults", "optsdata"))
    assert isinstance(integers, list)
    return bytes(integers)


class Server:
    """`keyprovider serve` while the context is open; it must end with status 0.

    Args:
        directory: for what it writes to standard error.
        arguments: those after `serve`.
        prelude: Python that runs before, to shorten a limit or to have the provider misbehave.
        program: another `ctd-decoder keyprovider` than that of the sources; there is no prelude then.
    """

    def __init__(
        self, directory: Path, *arguments: str | Path, prelude: str = "", program: tuple[str, ...] = KEYPROVIDER
    ) -> None:
        self._errors = directory / "server.log"
        self._environment = {**os.environ, "PRELUDE": prelude}
        # One process, so that tests can count what it keeps and refuses.
        processes = () if "--processes" in arguments else ("--processes", "1")
        self._command = [*program, "serve", *map(str, arguments), *processes]

    def __enter__(self) -> Server:
        with self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stderr=errors, env=self._environment
            )
        try:
            wait_for(lambda: "listening on" in self.log or self.process.poll() is not None)
            assert self.process.poll() is None, self.log
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.process.send_signal(signal.SIGTERM)
            status = self.process.wait(_SECONDS)
        finally:
            self.process.kill()
            self.process.wait()
        if kind is None:
            assert status == 0, self.log

    @property
    def log(self) -> str:
        """What it has written to standard error."""
        return self._errors.read_text()

    @property
    def audit(self) -> list[dict[str, str]]:
        """The lines of its audit."""
        whole, _, _ = self.log.rpartition("\n")  # the last line may just be written
        return [json.loads(line) for line in whole.splitlines() if line.startswith("{")]

    @property
    def target(self) -> str:
        """Where it says that it listens."""
        (line,) = [line for line in self.log.splitlines() if "listening on" in line]
        return line.rpartition(" ")[2]

    def status(self, path: str, accept: str = "*/*") -> tuple[int, str]:
        """Ask where --metrics says that it listens: the status and the body."""
        (line,) = [line for line in self.log.splitlines() if "metrics at " in line]
        url = line.rpartition(" ")[2].removesuffix("/metrics")
        request = urllib.request.Request(url + path, headers={"Accept": accept})
        try:
            with _OPENER.open(request, timeout=_SECONDS) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def metrics(self) -> dict[tuple[str, ...], float]:
        """Read its metrics as prometheus-client does: the name and the values of its labels, sorted by their names."""
        from prometheus_client.parser import text_string_to_metric_families

        families = text_string_to_metric_families(self.status("/metrics")[1])
        return {
            (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in families
            for sample in family.samples
        }


def ask(channel: grpc.Channel, method: str, data: bytes) -> bytes:
    """Call WrapKey or UnWrapKey and return what its reply holds."""
    call = method_of(channel, f"/keyprovider.KeyProviderService/{method}")
    return contents(call(message(data), timeout=_SECONDS))


def method_of(channel: grpc.Channel, path: str) -> Any:
    """Return a method of a service, which takes and returns bytes."""
    return channel.unary_unary(path)


def message(data: bytes) -> bytes:
    """Write a protobuf message with one field of bytes, number 1."""
    return b"\x0a" + varint(len(data)) + data


def contents(message: bytes) -> bytes:
    """Read such a message."""
    assert message[0] == 0x0A
    end = 1 + next(index for index, byte in enumerate(message[1:], 1) if byte < 0x80)
    length = sum((byte & 0x7F) << 7 * index for index, byte in enumerate(message[1:end]))
    assert len(message) == end + length
    return message[end:]


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + _SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def configure(path: Path, providers: dict[str, Any]) -> dict[str, str]:
    """Write a client's configuration, and return the environment that names it."""
    path.write_text(json.dumps({"key-providers": providers}))
    return {"OCICRYPT_KEYPROVIDER_CONFIG": str(path)}


def openssl(*arguments: str | Path) -> None:
    """Run openssl."""
    result = subprocess.run(["openssl", *arguments], capture_output=True, text=True, timeout=_SECONDS, check=False)
    assert result.returncode == 0, result.stderr


def _base64(data: bytes) -> str:
    return b64encode(data).decode()
