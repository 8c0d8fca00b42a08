"""The agent's file for node_exporter: what it has done, replaced as a whole; Prometheus' own program checks it."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.support.agent import Agent, Place, wait_until, works
from tests.support.processes import ROOT

PROMTOOL = ROOT / ".cache/prometheus-trixie/usr/bin/promtool"


def read(directory: Path) -> dict[tuple[str, ...], float]:
    (path,) = directory.iterdir()
    families = text_string_to_metric_families(path.read_text())
    return {
        (sample.name.removeprefix("ctd_decoder_agent_"), *(sample.labels[name] for name in sample.labels)): sample.value
        for family in families
        for sample in family.samples
    }


def test_it_says_what_it_has_done(place: Place, tmp_path: Path) -> None:
    with Agent(place, metrics=str(tmp_path)):
        agent = place.socket.stem
        wait_until(lambda: any(tmp_path.glob("*.prom")) and read(tmp_path)["up", agent] == 1)
        for _ in range(3):
            assert works(place)
        wait_until(lambda: read(tmp_path)["served_total", agent] == 3)
        (path,) = tmp_path.iterdir()
        assert path.name == f"ctd-decoder-{agent}.prom"
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        checked = subprocess.run(
            [PROMTOOL, "check", "metrics"], input=path.read_bytes(), capture_output=True, timeout=60, check=False
        )
        assert b"error" not in checked.stderr.lower(), checked.stderr
    assert read(tmp_path)["up", agent] == 0
    assert read(tmp_path)["fallen_back_total", agent] == 0


def test_a_directory_that_is_not_there_harms_nothing(place: Place, tmp_path: Path) -> None:
    with Agent(place, metrics=str(tmp_path / "absent")):
        assert works(place)


def test_without_a_directory_there_is_no_file(place: Place, tmp_path: Path) -> None:
    before = set(Path.cwd().iterdir())
    with Agent(place):
        assert works(place)
    assert set(Path.cwd().iterdir()) == before
    assert not list(tmp_path.iterdir())
