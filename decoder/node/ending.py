"""The end of a failed decoder: standard output stays open until the exit status has been collected.

containerd reads a layer to the end of standard output. Only then does it check whether its processor failed, and it
does not wait for that. A process that exits closes standard output before its status can be collected, so containerd
can miss a failure. It would then accept output that an attacker chose, because the registry also provides the diff ID
that containerd compares the output with.
"""

from __future__ import annotations

import os
from time import monotonic, sleep
from typing import TYPE_CHECKING

from decoder import limits

if TYPE_CHECKING:
    from typing import NoReturn


def fail(status: int) -> NoReturn:
    """End the process with a failure that containerd cannot miss.

    A child keeps standard output open until somebody has waited for this process, or HOLD_SECONDS are over. If no
    child can be started (RLIMIT_NPROC, cgroups), this process goes on, because standard output would end with it. It
    ends as soon as a child can be started, or when nobody reads standard output any more because containerd has given
    up the layer. Until then the layer does not end, so containerd cannot accept it. The caller ignores the signals
    that would end this process or the child, because standard output would end with it.

    Args:
        status: the exit status, not 0.
    """
    myself = os.getpid()
    while True:
        try:
            child = os.fork()
        except OSError:
            if not _is_read():
                break
            sleep(limits.HOLD_POLL_SECONDS)
            continue
        if child == 0:
            hold_standard_output(myself)
            os._exit(0)
        break
    os._exit(status)


def _is_read() -> bool:
    """Check whether standard output is a pipe with a reader."""
    import select
    import stat

    try:
        if not stat.S_ISFIFO(os.fstat(1).st_mode):
            return False
    except OSError:
        return False
    waiting = select.poll()
    waiting.register(1, 0)
    return not waiting.poll(0)  # POLLERR: it has no reader (poll(2))


def hold_standard_output(process: int) -> None:
    """Keep standard output open until a process has been waited for, or HOLD_SECONDS are over.

    Args:
        process: its number; it may have ended already.
    """
    for descriptor in (0, 2, 3):  # somebody may be waiting for the end of these
        try:  # noqa: SIM105 - without an import, for which there may be no memory
            os.close(descriptor)
        except OSError:
            pass
    deadline = monotonic() + limits.HOLD_SECONDS
    try:
        while monotonic() < deadline:
            os.kill(process, 0)  # succeeds until somebody has waited for the process
            sleep(limits.HOLD_POLL_SECONDS)
    except OSError:
        pass
    sleep(limits.HOLD_AFTER_SECONDS)
