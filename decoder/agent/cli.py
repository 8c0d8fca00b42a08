"""`ctd-decoder agent`: run the resident agent."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from decoder import limits
from decoder.agent import listening
from decoder.commandline import Parser
from decoder.errors import DecoderError, UsageError
from decoder.extras import missing

if TYPE_CHECKING:
    from decoder.agent.zygote import Settings

_DESCRIPTION = """\
Keep processes ready that decrypt layers for the ctd-decoder of the packages, which asks them if the agent's socket is
there. Ends after the layers that are being worked on when it gets SIGTERM, when the program is replaced, or when idle.
"""


class AgentError(DecoderError):
    """The agent cannot run."""

    status = 7


def main(arguments: list[str]) -> int:
    """Run `ctd-decoder agent`.

    Args:
        arguments: those after `agent`.

    Returns:
        The exit status, 0.

    Raises:
        UsageError: the command line cannot be understood, or there is no socket.
        ListenError: it cannot listen where it was told to.
        AgentError: a library that it needs is not installed.
    """
    parsed = _parser().parse(arguments)
    if parsed is None:
        return 0
    try:
        from decoder.agent.zygote import Settings, serve
    except ImportError as error:
        raise AgentError(missing("agent", error)) from error
    settings = Settings(parsed.idle, parsed.workers, parsed.keep_opened)
    _check(settings)
    with listening.listening(parsed.listen) if parsed.listen else listening.inherited() as listener:
        _fill_descriptors()
        serve(listener, settings)
    return 0


def _parser() -> Parser:
    parser = Parser(prog="ctd-decoder agent", description=_DESCRIPTION, allow_abbrev=False)
    parser.add_argument("--listen", default="", metavar="PATH", help="make this socket (default: systemd passes one)")
    parser.add_argument("--idle", type=float, default=0.0, metavar="SECONDS", help="end when idle for so long")
    parser.add_argument(
        "--workers",
        type=int,
        default=limits.AGENT_WORKERS,
        metavar="N",
        help=f"at most N layers at a time (default {limits.AGENT_WORKERS}); others are decrypted without the agent",
    )
    parser.add_argument(
        "--keep-opened",
        type=float,
        default=limits.KEK_SECONDS,
        metavar="SECONDS",
        help="keep the opened key-encryption keys of images for so long (default: %(default).0f; 0: not at all)",
    )
    return parser


def _check(settings: Settings) -> None:
    if not 0 <= settings.idle_seconds < float("inf"):
        raise UsageError("--idle is a number of seconds")
    if settings.workers < 1:
        raise UsageError("--workers is at least 1")
    if not 0 <= settings.opened_seconds <= limits.AGENT_OPENED_SECONDS:
        raise UsageError(f"--keep-opened is a number of seconds up to {limits.AGENT_OPENED_SECONDS:.0f}")


def _fill_descriptors() -> None:
    """Occupy what is closed of descriptors 0 to 3, which no other file of ours may get."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < 4:
        pass
    os.close(descriptor)
