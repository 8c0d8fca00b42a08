"""The program: the only place that touches argv, descriptor 3, standard streams and the exit status."""

from __future__ import annotations

from decoder import leantyping  # before anything imports typing

# isort: split
import _signal  # type: ignore[import-not-found]  # signal creates enumerations, which cost time at a cold start
import gc
import os
import sys
from fcntl import fcntl
from io import FileIO
from typing import TYPE_CHECKING, cast

from decoder import limits
from decoder.arguments import COMMANDS, VERIFIED, Arguments, parse_arguments
from decoder.errors import DecoderError, PayloadError, ShortageError, StreamError, UsageError
from decoder.node.ending import fail  # now, because it must not fail for lack of memory
from decoder.node.reading import read_to_end

if TYPE_CHECKING:
    from collections.abc import Callable
    from mmap import mmap
    from typing import NoReturn

    from decoder.keys.kept import Kept
    from decoder.node.containerd.contentstore import Search

_PAYLOAD_DESCRIPTOR = 3
_MEDIA_TYPE = "STREAM_PROCESSOR_MEDIATYPE"  # containerd sets it for each stream processor
_AGENT_SOCKET = "--agent-socket="  # only packaging/client passes it, before all other arguments
_PKCS11_CHILD = "--pkcs11-child"  # only decoder/keywrap/pkcs11/token.py passes it
_INSTALLER = "install-on-node"  # a link to the program in the Kubernetes image, which alone has the module
_SIGNALLED = 128
_SIGNALS = (_signal.SIGTERM, _signal.SIGHUP, _signal.SIGINT)
_INTERRUPTED = 130
_NO_MEMORY = "ctd-decoder: error: there is not enough memory, not even to say which limit is too low\n"
_CUT_OFF = "… (cut off)\n".encode()
_F_SETPIPE_SZ = 1031  # Linux, fcntl(2); the module has the name only since Python 3.10 on some systems

_WHY_NO_PAYLOAD = (
    "containerd sends one only for the processors io.containerd.ocicrypt.decoder.v1.tar and …v1.tar.gzip, and only "
    "when the client asks for decryption; clients that unpack through the transfer service (CRI from containerd 2.1 "
    "on, nerdctl from 2.3 on, ctr images pull and import) do not ask"
)

_reserve: list[mmap] = []  # memory for the message of a failure

_AT_A_TERMINAL = (
    "this is the decoder of encrypted image layers: containerd starts it, with a layer on standard input. "
    "People use `ctd-decoder image` (encrypt, decrypt and inspect images) and `ctd-decoder doctor` (check this "
    "machine); see ctd-decoder --help"
)


def main() -> NoReturn:
    """Run the program and end the process with its exit status."""
    argv = sys.argv[1:]
    sys.warnoptions.append("ignore")  # libraries warn about unusual certificates, with paths, in several lines
    if sys.argv[0].endswith(f"/{_INSTALLER}"):
        os._exit(_guarded(lambda: _run("install_on_node", [])))
    if argv == [_PKCS11_CHILD]:
        os._exit(_guarded(lambda: _run("decoder.keywrap.pkcs11.child", [])))
    if argv and argv[0] in COMMANDS:
        status = _guarded(lambda: _run_command(argv))
    else:
        _catch_signals()
        if status := _guarded(_check_memory, lambda error, text: _report(error, text, 0)):
            _fail(status)
        kept = _leave_agent(argv.pop(0)) if argv and argv[0].startswith(_AGENT_SOCKET) else None
        if status := decode(argv, kept):
            _fail(status)
    os._exit(status)  # everything is written; tearing the interpreter down takes another 1 ms


def _catch_signals() -> None:
    """Turn signals that would end a layer into visible failures; ignored signals, as under nohup(1), stay ignored."""
    for number in _SIGNALS:
        if _signal.getsignal(number) in (_signal.SIG_DFL, _signal.default_int_handler):
            _signal.signal(number, lambda number, _: _fail(_SIGNALLED + number))


def _fail(status: int) -> NoReturn:
    for number in _SIGNALS:
        _signal.signal(number, _signal.SIG_IGN)
    fail(status)


def _leave_agent(option: str) -> Kept | None:
    """Start the agent for later layers; only the client in the packages asks for this.

    Returns:
        The way for this layer to use the agent; None if it could not be started. The error has been printed then.
    """
    from importlib import import_module

    left: list[Kept] = []

    def leave() -> int:
        left.append(import_module("decoder.agent.birth").leave_agent(option.removeprefix(_AGENT_SOCKET)))
        return 0

    _guarded(leave)
    return left[0] if left else None


def decode(argv: list[str], kept: Kept | None = None) -> int:
    """Decrypt a layer on the descriptors of this process, or print what the command line asks for.

    Args:
        argv: the command line, without the name of the program and without a command.
        kept: parsed keys and keyproviders' answers that an earlier process kept; by default nothing.

    Returns:
        The exit status; the message of a failure has been printed.
    """
    client = kept.client if kept else 0
    return _guarded(lambda: _decode(argv, kept), lambda error, text: _report(error, text, client))


def _guarded(work: Callable[[], int], report: Callable[[BaseException, str], None] | None = None) -> int:
    """Run `work` and return its exit status; if it fails, print and report the failure and return that status."""
    try:
        status = work()
        _flush()
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BaseException as error:  # noqa: BLE001 - a traceback is never printed: it may hold a secret
        _reserve.clear()
        try:
            return _tell(error, report)
        except (MemoryError, ImportError, OSError):
            _write(_NO_MEMORY)
            return ShortageError.status
    return status


def _tell(error: BaseException, report: Callable[[BaseException, str], None] | None) -> int:
    from decoder import failure

    _write(failure.traceback(error))
    text = failure.message(error)
    _say(f"error: {text}")
    status = failure.status(error)
    if report:
        try:  # noqa: SIM105 - without an import, for which there may be no memory
            report(error, text)
        except (MemoryError, ImportError, OSError):
            pass  # the failure itself matters more than its log entry
    return status


def _check_memory() -> int:
    """Check that there is enough memory for a layer, and reserve some for the message of a failure.

    Both are address space only, which takes no memory before it is used.

    Raises:
        ShortageError: there is not.
    """
    from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap

    try:
        mmap(-1, limits.LEAST_MEMORY_BYTES, MAP_PRIVATE | MAP_ANONYMOUS).close()
        _reserve.append(mmap(-1, limits.RESERVED_MEMORY_BYTES, MAP_PRIVATE | MAP_ANONYMOUS))
    except OSError as error:
        from decoder.failure import no_memory

        raise ShortageError(no_memory()) from error
    return 0


def _report(error: BaseException, text: str, client: int) -> None:
    """Log a failure to the journal if containerd started the decoder, because it drops most of what is printed."""
    if _MEDIA_TYPE not in os.environ:
        return  # started by something else, which reads standard error
    from contextlib import suppress

    from decoder.failure import status
    from decoder.node.containerd.storeroot import find_root
    from decoder.node.journal.failures import report_failure

    layer = error.layer if isinstance(error, DecoderError) else ""
    with suppress(Exception):  # the failure itself matters more than its log entry
        report_failure(status(error), text, layer, find_root(client))


def _flush() -> None:
    """Write out what a command printed: `os._exit` drops what standard output still buffers.

    Raises:
        StreamError: standard output failed.
    """
    if sys.stdout is None:  # it was closed when the program started, and nothing was printed
        return
    try:
        sys.stdout.flush()
    except OSError as error:
        raise StreamError("standard output", error) from error


def _run_command(argv: list[str]) -> int:
    return _run(COMMANDS[argv[0]], [argv[1:]])


def _run(module: str, arguments: list[list[str]]) -> int:
    from importlib import import_module

    leantyping.load()
    gc.enable()  # the packages' launcher disables it, but a command may run for long
    return cast("int", import_module(module).main(*arguments))


def _decode(argv: list[str], kept: Kept | None) -> int:
    gc.disable()  # one layer, then exit: there is nothing to collect, and 2 ms to save
    if not argv and os.isatty(0):
        raise UsageError(_AT_A_TERMINAL)
    arguments = parse_arguments(argv)
    if arguments.show:
        from decoder.commandline import show

        show(arguments.show)
    else:
        _decrypt(arguments, kept)
    return 0


def _decrypt(arguments: Arguments, kept: Kept | None) -> None:
    payload, why_none = _read_payload()
    if payload is None and arguments.require_payload:
        raise PayloadError(f"no payload came: {why_none}. {_WHY_NO_PAYLOAD}")
    from decoder.decrypt import Settings, decrypt_layer  # the costly imports, once there is something to do

    source = _open_descriptor(0, "rb", "standard input")
    sink = _open_descriptor(1, "wb", "standard output")
    enlarged = [_enlarge_pipe(descriptor) for descriptor in (0, 1)]
    settings = Settings(
        keys_directory=arguments.keys_directory,
        keyprovider_config=_keyprovider_config(arguments),
        buffer_bytes=limits.LARGE_BUFFER_BYTES if all(enlarged) else limits.SMALL_PIPE_BUFFER_BYTES,
        open_spool=_open_spool,
        look_up=lambda head: _look_up(arguments, head, why_none, kept.client if kept else 0),
        is_config_required=bool(arguments.keyprovider_config),
        is_verified_first=arguments.release == VERIFIED,
        find_root=lambda: _find_root(arguments, kept.client if kept else 0),
    )
    warnings = decrypt_layer(payload, source, sink, settings, kept)
    if warnings:
        from decoder.node.journal.failures import report_warnings

        _say(f"warning: {'; '.join(warnings)}")
        report_warnings(warnings)


def _look_up(arguments: Arguments, head: bytes, why_none: str, client: int) -> Search:
    from decoder.node.containerd.contentstore import Search
    from decoder.node.containerd.strictness import is_strict

    root = _find_root(arguments, client)
    why = f"no payload came ({why_none}: {_WHY_NO_PAYLOAD})"
    strict = arguments.strict_lookup or is_strict(_keyprovider_config(arguments))
    return Search(root, head, os.environ.get(_MEDIA_TYPE, ""), why, strict)


def _find_root(arguments: Arguments, client: int) -> str:
    from decoder.node.containerd.storeroot import find_root

    return arguments.content_store or find_root(client)


def _keyprovider_config(arguments: Arguments) -> str:
    return arguments.keyprovider_config or os.environ.get("OCICRYPT_KEYPROVIDER_CONFIG", "")


def _read_payload() -> tuple[bytes | None, str]:
    """Read descriptor 3 to its end, within PAYLOAD_BYTES and PAYLOAD_SECONDS.

    Returns:
        The payload, or None with the reason.
    """
    try:
        os.fstat(_PAYLOAD_DESCRIPTOR)
    except OSError:
        return None, "descriptor 3 is not open"
    try:
        payload = read_to_end(_PAYLOAD_DESCRIPTOR, limits.PAYLOAD_BYTES, limits.PAYLOAD_SECONDS)
    except TimeoutError as error:
        text = f"the payload on descriptor 3 did not end within {limits.PAYLOAD_SECONDS:.0f} seconds"
        raise PayloadError(text) from error
    except OSError as error:
        return None, f"descriptor 3 cannot be read: {error.strerror}"
    return (payload, "") if payload else (None, "descriptor 3 is empty")


def _open_descriptor(descriptor: int, mode: str, name: str) -> FileIO:
    try:
        return FileIO(descriptor, mode, closefd=False)
    except OSError as error:
        raise StreamError(name, error) from error


def _enlarge_pipe(descriptor: int) -> bool:
    """Enlarge a pipe, so that whole buffers fit; return False if it stays small. Other files need no enlarging."""
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
        raise StreamError("the spool file", error) from error


def _say(text: str) -> None:
    _write(f"ctd-decoder: {text}\n")


def _write(text: str) -> None:
    data = text.encode(errors="replace")
    if len(data) > limits.STANDARD_ERROR_BYTES:  # containerd holds the whole text in memory, and sends it to clients
        data = data[: limits.STANDARD_ERROR_BYTES - len(_CUT_OFF)].decode(errors="ignore").encode() + _CUT_OFF
    try:  # noqa: SIM105 - without an import, for which there may be no memory
        os.write(2, data)
    except OSError:
        pass  # if nobody reads it, there is still the exit status


if __name__ == "__main__":
    main()
