"""`ctd-decoder agent`: show the agents of this user, and stop them."""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress
from time import monotonic, sleep
from typing import TYPE_CHECKING

from decoder import limits
from decoder.commandline import Parser, show
from decoder.errors import DecoderError, UsageError

if TYPE_CHECKING:
    from decoder.agent.status import Status

_DESCRIPTION = """\
The agent keeps processes ready for the next layers, so that small layers take less time. The first encrypted layer of
an image starts it, and it ends after 5 idle minutes. To switch it off, use --no-agent, or set CTD_DECODER_AGENT=off in
the environment or in /etc/ctd-decoder/agent.env. CTD_DECODER_AGENT_IDLE=SECONDS sets how long it stays.
"""


class AgentError(DecoderError):
    """An agent did not stop in time."""

    status = 7


def main(arguments: list[str]) -> int:
    """Run `ctd-decoder agent`.

    Args:
        arguments: the words after `agent`.

    Returns:
        The exit status, 0.

    Raises:
        UsageError: the command line cannot be understood.
        AgentError: an agent did not stop within AGENT_STOP_SECONDS.
    """
    parsed = _parser().parse(arguments)
    if parsed is None:
        return 0
    if parsed.json and parsed.verb != "status":
        raise UsageError("--json is for ctd-decoder agent status")
    from decoder.agent.status import all_statuses

    statuses = all_statuses()
    if parsed.verb == "stop":
        _stop(statuses)
    elif parsed.json:
        show(json.dumps([status._asdict() for status in statuses], indent=1) + "\n")
    else:
        show("\n".join(map(_describe, statuses)) or "no agent is running\n")
    return 0


def _parser() -> Parser:
    parser = Parser(prog="ctd-decoder agent", description=_DESCRIPTION)
    verbs = "status: print what each agent of this user has done; stop: end them once their current layers are done"
    parser.add_argument("verb", choices=("status", "stop"), metavar="status|stop", help=verbs)
    parser.add_argument("--json", action="store_true", help="with status: print a list of objects for programs")
    return parser


def _describe(status: Status) -> str:
    reasons = ", ".join(f"{count} for {reason}" for reason, count in sorted(status.sent_away.items()))
    ends = f"ends after {status.idle_seconds:g} s without a layer" if status.idle_seconds else "does not end when idle"
    return (
        f"agent {status.pid}, {status.socket}\n"
        f"  running for      {status.seconds:.0f} s; {ends}\n"
        f"  layers served    {status.served}\n"
        f"  sent away        {sum(status.sent_away.values())}{f' ({reasons})' if reasons else ''}\n"
        f"  fallen back      {status.fallen_back}\n"
        f"  decrypting now   {status.decrypting}\n"
        f"  workers ready    {status.waiting}\n"
    )


def _stop(statuses: list[Status]) -> None:
    deadline = monotonic() + limits.AGENT_STOP_SECONDS
    for status in statuses:
        with suppress(ProcessLookupError):
            os.kill(status.pid, signal.SIGTERM)
    for status in statuses:
        while os.path.exists(status.socket):  # removed on SIGTERM; the agent itself ends when its layers are done
            if monotonic() > deadline:
                raise AgentError(
                    f"agent {status.pid} did not react to SIGTERM within {limits.AGENT_STOP_SECONDS:.0f} seconds; "
                    f"if it hangs, end it with kill -9 {status.pid}"
                )
            sleep(limits.AGENT_STOP_POLL_SECONDS)
    show(f"stopped {len(statuses)} agent{'' if len(statuses) == 1 else 's'}\n")
