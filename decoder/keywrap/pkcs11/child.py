"""The child process of `token`: one request from standard input, one line of JSON as the reply.

A module that it loads gets /dev/null for standard streams, no other descriptor, and an environment that
ends with this process.
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
        UsageError: something else than this program started it.
    """
    if _program_of(os.getppid()) != _program_of(os.getpid()):
        raise UsageError("only the program itself starts this")
    signal.alarm(int(limits.PKCS11_SECONDS) + 1)  # even if the parent is gone
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the PIN is in this memory
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
    """Return the path of a process's program, also if a newer version has taken its place; "" if it cannot be read."""
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
