"""The settings of the agent: the environment takes precedence over the file, and malformed values get the defaults."""

from __future__ import annotations

from pathlib import Path

import pytest

from decoder.agent.settings import Settings, read_settings


@pytest.mark.parametrize(
    ("environment", "file", "idle"),
    [
        ({}, None, Settings().idle_seconds),
        ({}, "# nothing\n", Settings().idle_seconds),
        ({}, "CTD_DECODER_AGENT=on\nCTD_DECODER_AGENT_IDLE=7\n", 7.0),
        ({}, 'CTD_DECODER_AGENT_IDLE="7"', 7.0),
        ({"CTD_DECODER_AGENT_IDLE": "0.5"}, "CTD_DECODER_AGENT_IDLE=7", 0.5),
        ({"CTD_DECODER_AGENT_IDLE": "0"}, None, 0.0),
        ({"CTD_DECODER_AGENT_IDLE": "-1"}, None, Settings().idle_seconds),
        ({"CTD_DECODER_AGENT_IDLE": "nan"}, None, Settings().idle_seconds),
        ({"CTD_DECODER_AGENT_IDLE": "inf"}, None, Settings().idle_seconds),
        ({"CTD_DECODER_AGENT_IDLE": "soon"}, None, Settings().idle_seconds),
    ],
)
def test_idle_seconds(environment: dict[str, str], file: str | None, idle: float, tmp_path: Path) -> None:
    path = tmp_path / "agent.env"
    if file is not None:
        path.write_text(file)
    assert read_settings(environment, str(path)).idle_seconds == idle


@pytest.mark.parametrize(("value", "seconds"), [("0", 0.0), ("3600", 3600.0), ("3601", 60.0), ("x", 60.0)])
def test_keys_are_kept_for_an_hour_at_most(value: str, seconds: float, tmp_path: Path) -> None:
    environment = {"CTD_DECODER_AGENT_KEEP_KEYS": value}
    assert read_settings(environment, str(tmp_path / "absent")).kek_seconds == seconds


@pytest.mark.parametrize(
    ("value", "directory"), [("/var/lib/metrics", "/var/lib/metrics"), ("metrics", ""), ("", ""), (None, "")]
)
def test_the_directory_of_metrics_is_absolute(value: str | None, directory: str, tmp_path: Path) -> None:
    environment = {} if value is None else {"CTD_DECODER_AGENT_METRICS": value}
    assert read_settings(environment, str(tmp_path / "absent")).metrics == directory
