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

if TYPE_CHECKING:
    from decoder.keywrap.pkcs11.request import Reply, Request


def main() -> None:
    """Answer the request on standard input, and end the process."""
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


def _answer(request: Request) -> Reply:
    try:
        from decoder.keywrap.pkcs11.calls import answer
    except ImportError:
        return {"missing": True}
    return answer(request)
