"""The agent's file for node_exporter: what it has done, replaced as a whole; Prometheus' own program checks it."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from decoder.formats.expiry import earliest_end
from tests.support.program.agent import Agent, Place, wait_until, works
from tests.support.program.processes import ROOT
from tests.support.provider.client_parts import NAME, Certificates, configuration, decrypt, serving, tls_files

PROMTOOL = ROOT / ".cache/prometheus-trixie/usr/bin/promtool"


def read(directory: Path) -> dict[tuple[str, ...], float]:
    (path,) = directory.glob("*.prom")  # a new one has another name until it is whole
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


def test_it_says_when_the_certificates_of_clients_expire(place: Place, tmp_path: Path) -> None:
    """Of the files that keyproviders got to see; a renewed one is read again without a layer."""
    made, metrics = Certificates(tmp_path), tmp_path / "metrics"
    metrics.mkdir()
    server, client = made.issue("127.0.0.1"), made.issue("node", days=30)
    with (
        serving(certificate=server, client_authority=made.authority()) as running,
        Agent(place, metrics=str(metrics)),
    ):
        tls = tls_files(root_ca_file=made.authority(), certificate=client)
        config = configuration(tmp_path, {NAME: {"grpc": running.address, "grpc-tls": tls}})
        name = ("client_certificate_expiry_timestamp_seconds", place.socket.stem, str(client))

        def is_known() -> bool:
            return any(metrics.glob("*.prom")) and name in read(metrics)

        # A busy agent may send a client away, which then decrypts by itself.
        wait_until(lambda: decrypt(config, program=place.client)[0] == 0 and is_known())
        assert read(metrics)[name] == float(int(earliest_end(client.read_bytes()).timestamp()))
        made.issue("node", days=90).replace(client)
        renewed = float(int(earliest_end(client.read_bytes()).timestamp()))
        wait_until(lambda: read(metrics)[name] == renewed)
        client.unlink()
        wait_until(lambda: read(metrics)[name] == 0)


def test_a_directory_that_is_not_there_harms_nothing(place: Place, tmp_path: Path) -> None:
    with Agent(place, metrics=str(tmp_path / "absent")):
        assert works(place)


def test_without_a_directory_there_is_no_file(place: Place, tmp_path: Path) -> None:
    before = set(Path.cwd().iterdir())
    with Agent(place):
        assert works(place)
    assert set(Path.cwd().iterdir()) == before
    assert not list(tmp_path.iterdir())
