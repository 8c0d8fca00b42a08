"""How a failure ends: standard output stays open until the exit status has been collected.

containerd reads a layer to the end of standard output and only then looks whether its processor failed,
without waiting for it. A process that exits closes standard output before its status can be collected, so
a failure can be missed. Then the output that containerd accepts may be just what an attacker wanted, because
the registry also provides the diff ID that containerd compares it with.
"""

from __future__ import annotations

import os
from contextlib import suppress
from time import monotonic, sleep
from typing import TYPE_CHECKING

from decoder import limits

if TYPE_CHECKING:
    from typing import NoReturn


def fail(status: int) -> NoReturn:
    """End the process with a failure that containerd cannot miss.

    A child keeps only standard output open, until this process has been waited for or HOLD_SECONDS are over. If no
    child can be started (RLIMIT_NPROC, cgroups), this process stays, because its standard output would end before
    anybody could wait for it. It ends as soon as a child can be started or nobody reads standard output any more, which
    means that containerd has given up the layer. A layer that does not end is not a success either.

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
    """Check whether standard output is a pipe that somebody may still read."""
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
    for descriptor in (0, 2, 3):  # a process that waits for this one waits for the end of these
        with suppress(OSError):
            os.close(descriptor)
    deadline = monotonic() + limits.HOLD_SECONDS
    with suppress(OSError):
        while monotonic() < deadline:
            os.kill(process, 0)  # succeeds until it was waited for
            sleep(limits.HOLD_POLL_SECONDS)
    sleep(limits.HOLD_AFTER_SECONDS)
