"""The program: the only place that touches argv, descriptor 3, standard streams and the exit status."""

from __future__ import annotations

import gc
import os
import sys
from contextlib import suppress
from fcntl import fcntl
from io import FileIO
from select import POLLIN, poll
from time import monotonic
from typing import TYPE_CHECKING, cast

from decoder import limits
from decoder.arguments import COMMANDS, VERIFIED, Arguments, parse_arguments
from decoder.errors import DecoderError, PayloadError, StreamError

if TYPE_CHECKING:
    from typing import NoReturn

    from decoder.node.contentstore import Search

_PAYLOAD_DESCRIPTOR = 3
_INTERRUPTED = 130
_F_SETPIPE_SZ = 1031  # Linux, fcntl(2); the module has the name only since Python 3.10 on some systems

_WHY_NO_PAYLOAD = (
    "containerd sends one for the processors io.containerd.ocicrypt.decoder.v1.tar and …v1.tar.gzip alone, and only "
    "when the client asks for decryption; what unpacks through the transfer service (CRI from containerd 2.1 on, "
    "nerdctl from 2.3 on, ctr images pull and import) does not ask"
)


def main() -> NoReturn:
    """Run the program and end the process with its exit status."""
    argv = sys.argv[1:]
    status = run(argv)
    if status and "".join(argv[:1]) not in COMMANDS:
        from decoder.node.ending import fail

        fail(status)
    os._exit(status)  # everything is written; tearing the interpreter down takes another 1 ms


def run(argv: list[str]) -> int:
    """Do what the command line asks for, on the descriptors of this process, and say what fails.

    Args:
        argv: the command line, without the name of the program.

    Returns:
        The exit status.
    """
    try:
        status = _run(argv)
        _flush()
    except DecoderError as error:
        _say(f"error: {error}")
        return error.status
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BaseException as error:  # noqa: BLE001 - whatever it is, no traceback; the text may hold a secret: say where, not what
        _say(f"error: internal error, please report it: {_place(error)}")
        return DecoderError.status
    return status


def _flush() -> None:
    """Write out what a command printed: `os._exit` drops whatever standard output still buffers.

    Raises:
        StreamError: standard output failed.
    """
    if sys.stdout is None:  # it was closed when the program started, and nothing was printed
        return
    try:
        sys.stdout.flush()
    except OSError as error:
        raise StreamError("standard output", error) from error


def _run(argv: list[str]) -> int:
    if argv and argv[0] in COMMANDS:
        from importlib import import_module

        return cast("int", import_module(COMMANDS[argv[0]]).main(argv[1:]))
    gc.disable()  # one layer, then exit: there is nothing to collect, and 2 ms to save
    arguments = parse_arguments(argv)
    if arguments.show:
        from decoder.commandline import show

        show(arguments.show)
    else:
        _decrypt(arguments)
    return 0


def _decrypt(arguments: Arguments) -> None:
    payload, why_none = _read_payload()
    if payload is None and arguments.require_payload:
        raise PayloadError(f"no payload came: {why_none}. {_WHY_NO_PAYLOAD}")
    from decoder.decrypt import Settings, decrypt_layer  # the costly imports, once there is something to do

    source = _open_descriptor(0, "rb", "standard input")
    sink = _open_descriptor(1, "wb", "standard output")
    enlarged = [_enlarge_pipe(descriptor) for descriptor in (0, 1)]
    settings = Settings(
        keys_directory=arguments.keys_directory,
        keyprovider_config=arguments.keyprovider_config or os.environ.get("OCICRYPT_KEYPROVIDER_CONFIG", ""),
        buffer_bytes=limits.LARGE_BUFFER_BYTES if all(enlarged) else limits.SMALL_PIPE_BUFFER_BYTES,
        open_spool=_open_spool if arguments.release == VERIFIED else None,
        look_up=lambda head: _look_up(arguments.content_store, head, why_none),
    )
    warnings = decrypt_layer(payload, source, sink, settings)
    if warnings:
        from decoder.node import journal

        text = "; ".join(warnings)
        _say(f"warning: {text}")
        journal.warn(text)


def _look_up(root: str, head: bytes, why_none: str) -> Search:
    from decoder.node.contentstore import Search
    from decoder.node.storeroot import find_root

    media_type = os.environ.get("STREAM_PROCESSOR_MEDIATYPE", "")
    return Search(root or find_root(), head, media_type, f"no payload came ({why_none}: {_WHY_NO_PAYLOAD})")


def _read_payload() -> tuple[bytes | None, str]:
    """Read descriptor 3 to its end, within PAYLOAD_BYTES and PAYLOAD_SECONDS.

    Returns:
        The payload, or None and why there is none.
    """
    deadline = monotonic() + limits.PAYLOAD_SECONDS
    payload = bytearray()
    waiting = poll()
    waiting.register(_PAYLOAD_DESCRIPTOR, POLLIN)
    try:
        os.fstat(_PAYLOAD_DESCRIPTOR)
    except OSError:
        return None, "descriptor 3 is not open"
    while len(payload) <= limits.PAYLOAD_BYTES:
        if not waiting.poll(max(0.0, deadline - monotonic()) * 1000):
            raise PayloadError(f"the payload on descriptor 3 did not end within {limits.PAYLOAD_SECONDS:.0f} seconds")
        try:
            chunk = os.read(_PAYLOAD_DESCRIPTOR, limits.BUFFER_BYTES)
        except BlockingIOError:
            continue
        except OSError as error:
            return None, f"descriptor 3 cannot be read: {error.strerror}"
        if not chunk:
            break
        payload += chunk
    return (bytes(payload), "") if payload else (None, "descriptor 3 is empty")


def _open_descriptor(descriptor: int, mode: str, name: str) -> FileIO:
    try:
        return FileIO(descriptor, mode, closefd=False)
    except OSError as error:
        raise StreamError(name, error) from None


def _enlarge_pipe(descriptor: int) -> bool:
    """Give a pipe room for whole buffers; false if it stays small. What is no pipe needs none."""
    try:
        fcntl(descriptor, _F_SETPIPE_SZ, limits.PIPE_BYTES)
    except PermissionError:
        return False
    except OSError:
        return True
    return True


def _open_spool() -> FileIO:
    from tempfile import TemporaryFile

    try:
        return TemporaryFile(buffering=0)
    except OSError as error:
        raise StreamError("the spool file", error) from None


def _say(text: str) -> None:
    with suppress(OSError):  # if nobody listens, the exit status still tells
        os.write(2, f"ctd-decoder: {text}\n".encode(errors="replace"))


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    place = f" at {os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}" if trace else ""
    return type(error).__name__ + place


if __name__ == "__main__":
    main()
