"""The agent's settings, from the environment of the client that starts it or from /etc/ctd-decoder/agent.env."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from decoder import limits
from decoder.record import Record

if TYPE_CHECKING:
    from collections.abc import Mapping

FILE = "/etc/ctd-decoder/agent.env"
SWITCH_VARIABLE = "CTD_DECODER_AGENT"
IDLE_VARIABLE = "CTD_DECODER_AGENT_IDLE"
KEK_VARIABLE = "CTD_DECODER_AGENT_KEEP_KEYS"
METRICS_VARIABLE = "CTD_DECODER_AGENT_METRICS"
_OFF = "off"


class Settings(Record):
    """The agent's settings.

    Attributes:
        idle_seconds: the agent ends after this time without a layer; 0 for never.
        spare: how many workers wait for layers.
        most: the maximum number of layers at a time; further clients decrypt without the agent.
        kek_seconds: how long an opened key-encryption key of an image is used again; 0 for not at all.
        rest_seconds: after this time without a layer the agent frees memory.
        metrics: the absolute path of the directory for a file of metrics; "" for none.
    """

    idle_seconds: float = limits.AGENT_IDLE_SECONDS
    spare: int = limits.AGENT_SPARE_WORKERS
    most: int = limits.AGENT_WORKERS
    kek_seconds: float = limits.KEK_SECONDS
    rest_seconds: float = limits.AGENT_REST_SECONDS
    metrics: str = ""


def read_settings(environment: Mapping[str, str], file: str = FILE) -> Settings:
    """Read the settings. An invalid number of seconds is ignored, and so is a directory that is not absolute.

    Args:
        environment: the environment of the client that starts the agent; it takes precedence over the file.
        file: a file of NAME=VALUE lines, which need not exist. packaging/client/client.c reads it too.
    """
    given = {**_from_file(file), **environment}
    metrics = given.get(METRICS_VARIABLE, "")
    return Settings(
        idle_seconds=_seconds(given.get(IDLE_VARIABLE, ""), limits.AGENT_IDLE_SECONDS, float("inf")),
        kek_seconds=_seconds(given.get(KEK_VARIABLE, ""), limits.KEK_SECONDS, limits.AGENT_OPENED_SECONDS),
        metrics=metrics if os.path.isabs(metrics) else "",
    )


def switched_off_by(environment: Mapping[str, str], file: str = FILE) -> str:
    """Return what switches the agent off: `environment`, `file` or "". packaging/client/switch.c decides alike.

    Args:
        environment: the environment of the decoder; it takes precedence over the file.
        file: see `read_settings`.
    """
    if setting := environment.get(SWITCH_VARIABLE):
        return "environment" if setting.strip("\"'") == _OFF else ""
    return "file" if _from_file(file).get(SWITCH_VARIABLE) == _OFF else ""


def _seconds(text: str, default: float, most: float) -> float:
    try:
        seconds = float(text)
    except ValueError:
        return default
    return seconds if 0 <= seconds <= most and seconds != float("inf") else default


def _from_file(path: str) -> dict[str, str]:
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            lines = os.read(file, limits.AGENT_SETTINGS_BYTES).decode(errors="replace").splitlines()
        finally:
            os.close(file)
    except OSError:
        return {}
    return {name.strip(): value.strip().strip("\"'") for name, _, value in (line.partition("=") for line in lines)}
