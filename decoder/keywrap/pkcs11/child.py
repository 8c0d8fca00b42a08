"""The child process of `token`: it reads one request from standard input, and writes one line of JSON as the reply.

The module that it loads gets /dev/null as standard streams, no other open descriptor, and an environment that lasts
only as long as this process.
"""

from __future__ import annotations

import json
import os
import resource
import signal
from typing import TYPE_CHECKING

from decoder import limits
from decoder.errors import UsageError

if TYPE_CHECKING:
    from typing import NoReturn

    from decoder.keywrap.pkcs11.request import Reply, Request


def main() -> NoReturn:
    """Answer the request on standard input, and end the process.

    Raises:
        UsageError: another program started it.
    """
    if _program_of(os.getppid()) != _program_of(os.getpid()):
        raise UsageError("--pkcs11-child is internal: only ctd-decoder itself may pass it")
    signal.alarm(int(limits.PKCS11_SECONDS) + 1)  # ends this process even if the parent is gone
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold the PIN
    with open(0, "rb", closefd=False) as source:
        request: Request = json.load(source)
    answer_to = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.environ.update(request["environment"])
    os.write(answer_to, json.dumps(_answer(request)).encode() + b"\n")
    os._exit(0)


def _program_of(process: int) -> str:
    """Return the path of a process's program, even if an update has replaced the file; "" if it cannot be read."""
    try:
        return os.readlink(f"/proc/{process}/exe").removesuffix(" (deleted)")
    except OSError:
        return ""


def _answer(request: Request) -> Reply:
    try:
        from decoder.keywrap.pkcs11.calls import answer
    except ImportError:
        return {"missing": True}
    return answer(request)
