"""The place of a failure, for the message of an internal error and for the traceback of CTD_DECODER_DEBUG=1.

Only places and types are shown, because the text of an exception and every value may hold a secret.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from decoder import __version__, limits, project
from decoder.errors import DEBUG_VARIABLE, DecoderError, NoKeyError, ShortageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

_PACKAGE = "decoder"
_NO_THREAD = "can't start new thread"  # the text in CPython's _threadmodule.c


def message(error: BaseException) -> str:
    """Return the message for an error: its own text if it is one of ours, otherwise the place where it was raised."""
    if isinstance(error, DecoderError):
        return str(error)
    return _shortage(error) or internal_error(error)


def status(error: BaseException) -> int:
    """Return the exit status for an error."""
    if isinstance(error, DecoderError):
        return error.status
    return ShortageError.status if _shortage(error) else DecoderError.status


def no_memory() -> str:
    """Return the message for a lack of memory. It names the limits of this process, and what to do."""
    import resource

    kinds = {"RLIMIT_AS": resource.RLIMIT_AS, "RLIMIT_DATA": resource.RLIMIT_DATA}
    found = {name: resource.getrlimit(kind)[0] for name, kind in kinds.items()}
    set_limits = [f"{name} is {most // limits.MIB} MiB" for name, most in found.items() if most >= 0]
    enough = f"{limits.ENOUGH_MEMORY_BYTES // limits.MIB} MiB"
    if not set_limits:
        return f"there is not enough memory: the machine, or the control group (memory.max), needs {enough} free"
    return f"there is not enough memory: {', '.join(set_limits)}; raise it to {enough} (LimitAS=, LimitDATA=, ulimit)"


def _shortage(error: BaseException) -> str:
    """Return the message if the system lacks something that the program needs, otherwise ""."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return no_memory()
    if isinstance(error, RuntimeError) and str(error) == _NO_THREAD:
        return "no thread can be started: limits are RLIMIT_NPROC, pids.max of the control group, and memory"
    return ""


def internal_error(error: BaseException) -> str:
    """Describe an unexpected error.

    Returns:
        One line: its type, our module and line, the version, and where to report it.
    """
    frames = list(_frames(error))
    ours = [frame for frame in frames if frame[0].partition(".")[0] == _PACKAGE]
    place = f" at {ours[-1][0]}:{ours[-1][1]}" if ours else ""
    if frames and frames[-1] not in ours:
        place += f" (raised at {frames[-1][0]}:{frames[-1][1]})"
    where = f" at {project.URL}" if project.URL else ""
    return f"internal error: {type(error).__name__}{place}, version {__version__}; please report it{where}"


def traceback(error: BaseException) -> str:
    """List the frames of an exception and of its causes, the first cause first; then those of attempts with keys.

    Returns:
        Lines of module, line and function, each with a line feed; "" unless CTD_DECODER_DEBUG is 1.
    """
    if os.environ.get(DEBUG_VARIABLE) != "1":
        return ""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain and len(chain) < limits.ERROR_CAUSES:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    attempts = error.attempts if isinstance(error, NoKeyError) else ()
    return "".join(
        [
            *(_paragraph(each) for each in reversed(chain)),
            *(f"{attempt.annotation}[{attempt.index}]: {attempt.trace}" for attempt in attempts if attempt.trace),
        ]
    )


def _paragraph(error: BaseException) -> str:
    frames = list(_frames(error))[-limits.TRACE_FRAMES :]
    lines = [f"  {module}:{line} in {function}\n" for module, line, function in frames]
    return f"{type(error).__qualname__}, most recent call last:\n" + "".join(lines)


def _frames(error: BaseException) -> Iterator[tuple[str, int, str]]:
    trace: TracebackType | None = error.__traceback__
    while trace:
        code = trace.tb_frame.f_code
        module = getattr(trace.tb_frame.f_globals.get("__spec__"), "name", code.co_filename)
        yield module, trace.tb_lineno, code.co_name
        trace = trace.tb_next
