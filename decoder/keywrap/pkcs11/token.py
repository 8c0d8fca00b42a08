"""Access to tokens through a child process, which loads the PKCS#11 module and has a time limit.

A PKCS#11 module is foreign native code. If it hangs, crashes, prints, forks or changes the environment, only the
child is affected. The request, with the PIN, is passed in anonymous memory: no argument, variable or file shows it.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from time import monotonic, sleep
from typing import TYPE_CHECKING

from decoder import limits
from decoder.errors import KeyFileError, WrappedKeyError, quoted
from decoder.extras import missing
from decoder.formats import wire
from decoder.keywrap.pkcs11.keyfile import EXTRA, Pkcs11KeyFile
from decoder.record import Record

if TYPE_CHECKING:
    from decoder.keywrap.pkcs11.request import Reply, Request

# -I and -S: no environment variable, current directory or .pth file has an influence; sys.path is the parent's.
# The packages have no Python interpreter that takes these options: their program starts itself.
_CODE = "import sys; sys.path[:] = sys.argv[1:]; from decoder.keywrap.pkcs11.child import main; main()"
_PACKAGED = "/ctd-decoder"

# Tokens, as the child identifies them, each with a PIN that it has refused. Another attempt could lock the token.
_wrong_pins: set[tuple[str, str]] = set()


class _Work(Record):
    """The child's task: decrypt one of `blobs`, find the key, or sign; by default, read the public key."""

    blobs: Sequence[tuple[str, str]] = ()
    finds: bool = False
    signs: str = ""
    seconds: float = limits.PKCS11_SECONDS


class PublicNumbers(Record):
    """An RSA public key on a token, and whether that token can do OAEP with SHA-256."""

    modulus: int
    exponent: int
    does_sha256: bool


def decrypt(
    key_file: Pkcs11KeyFile,
    module: str,
    pin: str,
    blobs: Sequence[tuple[str, bytes]],
    seconds: float = limits.PKCS11_SECONDS,
) -> bytes:
    """Decrypt RSA-OAEP with a key on a token; return the result for the first blob that the key opens.

    Args:
        key_file: names the token and the key.
        module: the real path of a module that is allowed.
        pin: the PIN. If a token refuses it, this process does not try it there again.
        blobs: pairs of a hash name, `sha1` or `sha256`, and a ciphertext of at most PKCS11_BLOB_BYTES.
        seconds: how long the module may take, at most PKCS11_SECONDS.

    Raises:
        KeyFileError: the key opens no blob, or the token, key or module cannot be used; the message says which.
        WrappedKeyError: the PKCS#11 library is not installed.
    """
    encoded = [(hash_name, wire.encode_base64(blob)) for hash_name, blob in blobs]
    return wire.bytes_value(_ask(key_file, module, pin, _Work(encoded, seconds=seconds))["opened"])


def sign(key_file: Pkcs11KeyFile, module: str, pin: str, data: bytes) -> bytes:
    """Sign with RSA PKCS #1 v1.5 and SHA-256.

    Args:
        key_file: names the token and the key.
        module: the real path of a module that is allowed.
        pin: the PIN. If a token refuses it, this process does not try it there again.
        data: the data to sign, at most GRANTS_STATEMENT_BYTES.

    Raises:
        KeyFileError: the token, key or module cannot be used; the message says which.
        WrappedKeyError: the PKCS#11 library is not installed.
    """
    return wire.bytes_value(_ask(key_file, module, pin, _Work(signs=wire.encode_base64(data)))["signature"])


def public_numbers(key_file: Pkcs11KeyFile, module: str, pin: str | None) -> PublicNumbers:
    """Read an RSA public key from a token, without a login if the token allows that.

    Raises:
        KeyFileError: the token, key or module cannot be used; the message says which.
        WrappedKeyError: the PKCS#11 library is not installed.
    """
    reply = _ask(key_file, module, pin, _Work())
    return PublicNumbers(int(str(reply["modulus"]), 16), int(str(reply["exponent"]), 16), reply["sha256"] is True)


def is_found_with_pin(key_file: Pkcs11KeyFile, module: str, pin: str) -> bool:
    """Find a key on a token; return whether the PIN was needed for that.

    Raises:
        KeyFileError: the token, key or module cannot be used; the message says which.
        WrappedKeyError: the PKCS#11 library is not installed.
    """
    return _ask(key_file, module, pin, _Work(finds=True))["with_pin"] is True


def _ask(key_file: Pkcs11KeyFile, module: str, pin: str | None, work: _Work) -> Reply:
    uri = key_file.uri
    request: Request = {
        "module": module,
        "environment": key_file.environment,
        "token": uri.token,
        "label": uri.label,
        "key_id": None if uri.key_id is None else wire.encode_base64(uri.key_id),
        "pin": pin,
        "wrong_pin_at": [token for token, refused_pin in _wrong_pins if refused_pin == pin],
        "blobs": list(work.blobs),
        "finds": work.finds,
        "signs": work.signs,
    }
    reply = _run(json.dumps(request).encode(), f"the module {quoted(module)}", work.seconds)
    if reply.get("missing"):
        raise WrappedKeyError(missing(EXTRA, ModuleNotFoundError(name="pkcs11")))
    if wrong_pin_at := reply.get("wrong_pin_at"):
        _wrong_pins.add((str(wrong_pin_at), str(pin)))
    if "refused" in reply:
        raise KeyFileError(str(reply["refused"]))
    return reply


def _run(request: bytes, name: str, seconds: float) -> Reply:
    """Run the child for one request. When this returns, it and all processes that it started have been killed."""
    if not sys.executable:
        raise KeyFileError("PKCS#11 needs a child process, but this Python does not know the path of its interpreter")
    memory = os.memfd_create("pkcs11-request")
    try:
        os.write(memory, request)
        os.lseek(memory, 0, os.SEEK_SET)
        child = subprocess.Popen(  # noqa: S603 - starts this program itself, without any input as an argument
            _child_command(),
            stdin=memory,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # so that `_end` can kill all processes of the module
            bufsize=0,
        )
    except OSError as error:
        raise KeyFileError(f"PKCS#11 needs a child process: {error.strerror}") from error
    finally:
        os.close(memory)
    has_ended = True
    try:
        line = _read_line(child, seconds)
        if not line.endswith(b"\n"):
            has_ended = _has_ended(child)
    finally:
        status = _end(child)
    if not line.endswith(b"\n"):
        if status == -signal.SIGALRM:  # the child's own time limit, because this process was held up
            raise KeyFileError(_too_slow(seconds))
        raise KeyFileError(f"{name} {_ending(status if has_ended else None)}")
    return wire.parse_object(line)


def _child_command() -> list[str]:
    if sys.executable.endswith(_PACKAGED):
        return [sys.executable, "--pkcs11-child"]
    return [sys.executable, "-IS", "-c", _CODE, *sys.path]


def _read_line(child: subprocess.Popen[bytes], seconds: float) -> bytes:
    """Read the reply up to a line break; the pipe may not end, because processes of the module may hold it open."""
    assert child.stdout is not None  # noqa: S101 - it was asked for
    deadline = monotonic() + seconds
    reading = select.poll()
    reading.register(child.stdout, select.POLLIN)
    line = b""
    with child.stdout as pipe:
        while not line.endswith(b"\n") and len(line) <= limits.PKCS11_REPLY_BYTES:
            if not reading.poll(max(0.0, deadline - monotonic()) * 1000):
                raise KeyFileError(_too_slow(seconds))
            if not (chunk := os.read(pipe.fileno(), limits.PKCS11_REPLY_BYTES)):
                break
            line += chunk
    return line


def _too_slow(seconds: float) -> str:
    return f"the PKCS#11 module did not answer within {seconds:.0f} seconds"


def _has_ended(child: subprocess.Popen[bytes]) -> bool:
    """Check whether the child, which has closed its pipe, has ended by itself; that may take a moment."""
    deadline = monotonic() + limits.PKCS11_REAP_SECONDS
    while os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if monotonic() > deadline:
            return False
        sleep(limits.PKCS11_POLL_SECONDS)
    return True


def _end(child: subprocess.Popen[bytes]) -> int | None:
    """Kill the child and all processes that it started; return its exit status, None if it cannot be collected."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):  # a process inside a driver can be neither killed nor waited for
        child.wait(limits.PKCS11_REAP_SECONDS)
    return child.returncode


def _ending(status: int | None) -> str:
    """Describe how the child has ended, or why this process had to end it (None)."""
    if status is None:
        return "gave no answer, and its process did not end by itself"
    if status >= 0:
        return "ended its process without an answer"
    return f"crashed ({signal.Signals(-status).name})"
