"""The status of the agents of this user."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, cast

from decoder import limits
from decoder.agent import messages
from decoder.record import Record

if TYPE_CHECKING:
    from collections.abc import Sequence

_FOLDER = "ctd-decoder"  # as in packaging/client/place.c


class Status(Record):
    """What an agent reports about itself.

    Attributes:
        socket: the path of the agent's socket.
        pid: the agent's process number.
        seconds: how long the agent has been running.
        idle_seconds: the agent ends after this time without a layer; 0 for never.
        served: how many layers it has begun to decrypt.
        sent_away: how many layers it refused, by the property in which their client differs from the agent.
        fallen_back: how many layers it did not decrypt because the client did not wait, or sent no valid request.
        decrypting: how many layers it is decrypting now.
        waiting: how many workers wait for layers.
        prepared: whether the modules that layers needed so far are imported, and the waiting workers have them.
    """

    socket: str
    pid: int
    seconds: float
    idle_seconds: float
    served: int
    sent_away: dict[str, int]
    fallen_back: int
    decrypting: int
    waiting: int
    prepared: bool


def directories() -> list[Path]:
    """Return the directories in which this user's agents may have their sockets."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    parents = ["/run"] if os.geteuid() == 0 else []
    parents += [runtime] if os.path.isabs(runtime) else []
    return [Path(parent, _FOLDER) for parent in parents]


def all_statuses(places: Sequence[Path | str] | None = None) -> list[Status]:
    """Ask every agent of this user for its status; agents that do not answer are left out.

    Args:
        places: the directories to search for sockets; by default `directories()`.
    """
    where = dict.fromkeys(map(Path, directories() if places is None else places))
    sockets = [path for directory in where for path in sorted(directory.glob("*.sock"))]
    return [status for path in sockets if (status := ask(path))]


def ask(path: Path) -> Status | None:
    """Ask one agent for its status.

    Args:
        path: the path of its socket.

    Returns:
        The status, or None if the agent does not answer within AGENT_STATUS_SECONDS or speaks another version.
    """
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(limits.AGENT_STATUS_SECONDS)
            connection.connect(str(path))
            messages.receive(connection, limits.AGENT_STATUS_BYTES, limits.AGENT_STATUS_SECONDS)  # READY
            messages.ask_for_status(connection)
            answer = messages.receive(connection, limits.AGENT_STATUS_BYTES, limits.AGENT_STATUS_SECONDS)
        return Status(socket=str(path), **cast("dict[str, object]", answer[1]))  # type: ignore[arg-type]
    except (OSError, messages.MessageError, TypeError, IndexError):
        return None
