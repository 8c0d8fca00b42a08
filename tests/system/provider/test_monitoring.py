"""The dashboard and the alert rules with Prometheus itself, which scrapes a server of ours."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.program.processes import ROOT
from tests.support.provider.serving import Server, ask, request_of, write_key

PROGRAMS = ROOT / ".cache/prometheus-trixie/usr/bin"
RULES = ROOT / "config/monitoring/keyprovider.rules.yml"
DASHBOARD = ROOT / "config/monitoring/keyprovider.dashboard.json"
DOCUMENT = ROOT / "docs/server.md"
WRAP = request_of("keywrap", b'{"symkey":"c2VjcmV0","digest":"sha256:0","cipheroptions":{}}')
SECONDS = 60


@contextmanager
def prometheus(directory: Path, target: str) -> Iterator[str]:
    """Run Prometheus with our rules; it scrapes one target each second."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    configuration = directory / "prometheus.json"  # JSON is YAML
    job = {"job_name": "keyprovider", "static_configs": [{"targets": [target]}]}
    settings = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    configuration.write_text(json.dumps({"global": settings, "rule_files": [str(RULES)], "scrape_configs": [job]}))
    command: list[str | Path] = [
        PROGRAMS / "prometheus",
        *(f"--config.file={configuration}", f"--web.listen-address={address}"),
        f"--storage.tsdb.path={directory / 'tsdb'}",
    ]
    with (directory / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield f"http://{address}/api/v1"
    finally:
        process.terminate()
        process.wait(SECONDS)


def get(url: str, **query: str) -> Any:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{url}?{urllib.parse.urlencode(query)}", timeout=SECONDS) as response:
        reply = json.load(response)
    assert reply["status"] == "success"
    return reply["data"]


def expressions() -> dict[str, str]:
    """List the queries of the dashboard, with what Grafana puts into them."""
    found = {}
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel["targets"]:
            text = target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".*")
            found[f"{panel['title']}: {target['legendFormat']}"] = text
    return found


def test_every_metric_that_is_named_exists_and_every_query_has_an_answer(tmp_path: Path) -> None:
    options = ("--provider", "local", "--key", write_key(tmp_path / "key"))
    listen = ("--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--processes", "2")
    with Server(tmp_path, *options, *listen) as server, grpc.insecure_channel(server.target) as channel:
        target = server.log.partition("http://")[2].partition("/")[0]
        with prometheus(tmp_path, target) as api:
            deadline = time.monotonic() + SECONDS
            names: list[str] = []
            rules: list[dict[str, Any]] = []
            scrapes = 0.0
            while scrapes < 3 or not rules or {rule["health"] for rule in rules} != {"ok"}:
                assert time.monotonic() < deadline, (tmp_path / "prometheus.log").read_text()
                time.sleep(0.5)
                ask(channel, "WrapKey", WRAP)
                try:
                    names = get(f"{api}/label/__name__/values")
                    rules = [rule for group in get(f"{api}/rules")["groups"] for rule in group["rules"]]
                    counted = get(f"{api}/query", query="count_over_time(ctd_keyprovider_processes[1m])")["result"]
                    scrapes = float(counted[0]["value"][1]) if counted else 0.0
                except (OSError, ValueError):
                    continue
            assert all(rule["state"] == "inactive" for rule in rules)
            for title, query in expressions().items():
                answer = get(f"{api}/query", query=query)["result"]
                assert answer or "ertificate" in title or "expire" in title, title  # this server has no certificate
    text = RULES.read_text() + DASHBOARD.read_text()
    used = set(re.findall(r"ctd_keyprovider_[a-z_]+", text))
    documented = set(re.findall(r"`([a-z_]+)`", DOCUMENT.read_text()))
    exported = {re.sub(r"_(bucket|sum|count|created)$", "", name) for name in names if name.startswith("ctd_")}
    assert used - set(names) - exported == {"ctd_keyprovider_certificate_expiry_timestamp_seconds"}
    assert {name.removeprefix("ctd_keyprovider_") for name in exported} <= documented


def test_prometheus_accepts_the_rules() -> None:
    done = subprocess.run([PROGRAMS / "promtool", "check", "rules", RULES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


SERIES = {
    "KeyproviderBackendDown": ["ctd_keyprovider_backend_up", "0x20"],
    "KeyproviderReloadFailed": ['ctd_keyprovider_reload_failed{files="policy"}', "1x20"],
    "KeyproviderCertificateExpires": [
        'ctd_keyprovider_certificate_expiry_timestamp_seconds{certificate="server"}',
        "3600x20",
    ],
    "KeyproviderClientCertificateExpires": [
        'ctd_decoder_agent_client_certificate_expiry_timestamp_seconds{file="/etc/containerd/ocicrypt/tls/tls.crt"}',
        "3600x20",
    ],
    "KeyproviderFailures": ['ctd_keyprovider_requests_total{outcome="failed",provider="p"}', "0+60x30"],
    "KeyproviderDenials": ['ctd_keyprovider_requests_total{outcome="denied"}', "0+60x30"],
    "KeyproviderRefusedHandshakes": ["ctd_keyprovider_refused_handshakes_total", "0+60x30"],
    "KeyproviderSaturated": ['ctd_keyprovider_requests_total{outcome="busy"}', "0+60x30"],
    "KeyproviderSlow": ['ctd_keyprovider_request_duration_seconds_bucket{le="+Inf"}', "0+60x30"],
}


@pytest.mark.parametrize("alert", SERIES)
def test_each_alert_fires(alert: str, tmp_path: Path) -> None:
    series, values = SERIES[alert]
    inputs = [{"series": series, "values": values}]
    if alert == "KeyproviderSlow":
        inputs.append({"series": series.replace("+Inf", "5.0"), "values": "0+1x30"})
        inputs.append({"series": series.replace("+Inf", "10.0"), "values": "0+60x30"})
    count = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})'
    sample = {"expr": count, "eval_time": "20m", "exp_samples": [{"labels": "{}", "value": 1}]}
    test = {"interval": "1m", "input_series": inputs, "promql_expr_test": [sample]}
    path = tmp_path / "test.json"
    path.write_text(json.dumps({"rule_files": [str(RULES)], "tests": [test]}))
    done = subprocess.run([PROGRAMS / "promtool", "test", "rules", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested() -> None:
    assert set(re.findall(r"alert: (\w+)", RULES.read_text())) == set(SERIES)
