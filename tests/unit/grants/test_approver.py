"""Approval by rules: what is approved, what waits, how often, and what replicas do to each other."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from decoder import limits
from decoder.errors import ImageError, UsageError
from decoder.grants import artifacts, keys, statements
from decoder.grants.approval.approver import APPROVED, BURIED, FAILED, LIMITED, RENEWED, WAITING, read_state
from decoder.grants.approval.policy import read_policy
from decoder.grants.cli.serving import Metrics, Rules
from decoder.grants.owner import after_days
from decoder.grants.statements import DENIED, REVOKED, Grant, Request
from tests.support.image.grants import ID, KEK, LAYER, NAME, Parties, Run, new_key, write_private
from tests.support.image.images import digest_of
from tests.support.keywrap.layers import public_pem
from tests.support.network.x509_certificates import client_certificate, new_authority
from tests.support.program.processes import PROGRAM, ROOT, run_program
from tests.support.provider.serving import wait_for

if TYPE_CHECKING:
    from decoder.grants.keys import FileKey

REQUESTS = artifacts.requests_of(NAME)
AUTHORITY = new_authority()

Write = Callable[..., Path]


@pytest.fixture
def write(parties: Parties, tmp_path: Path) -> Write:
    """Return what writes a policy, with some members changed."""
    key = write_private(tmp_path / "owner.key", parties.owner)
    (tmp_path / "publisher.pub").write_bytes(public_pem(parties.publisher._private))
    (tmp_path / "ca.pem").write_bytes(AUTHORITY.certificate.public_bytes(Encoding.PEM))

    def write(**changes: Any) -> Path:
        rule = {"repositories": ["*/team/*"], "ca": str(tmp_path / "ca.pem"), "names": ["worker-*"], "days": 9}
        members = {
            "key": str(key),
            "publishers": [str(tmp_path / "publisher.pub")],
            "repositories": [parties.repository],
            "rules": [rule],
            "state": str(tmp_path / "state.json"),
            "interval": 1,
        }
        path = tmp_path / "policy.json"
        path.write_text(
            json.dumps({name: value for name, value in {**members, **changes}.items() if value is not None})
        )
        return path

    return write


def ask(parties: Parties, name: str = "worker-1", key: FileKey | None = None, **changes: Any) -> FileKey:
    """Leave a request with a certificate."""
    key = key or new_key()
    certificate = client_certificate(key.public, name, AUTHORITY)
    request = Request(parties.repository, ID, key.public, name, "", (certificate,), int(time.time()))
    data = statements.build_request(request._replace(**changes), key)
    parties.put(artifacts.request_tag(ID, keys.fingerprint(key.public)), data, REQUESTS)
    return key


def grant_of(parties: Parties, key: FileKey) -> Grant:
    return parties.client(key).fetch(parties.place, 5)


def test_a_rule_approves(parties: Parties, write: Write) -> None:
    node = ask(parties)
    run = Run(write(), parties)
    assert run.round()
    assert run.decisions == {APPROVED: 1}
    grant = grant_of(parties, node)
    assert grant.kek == KEK
    assert abs(grant.expires - after_days(1)) < 3600  # the certificate, made before this test, ends then
    (line,) = run.lines
    assert (line["operation"], line["outcome"], line["name"]) == ("approve", "ok", "worker-1")
    assert line["node"] == keys.fingerprint(node.public)
    before = len(parties.registry.asked)
    run.round()
    assert len(parties.registry.asked) - before < 8  # what was decided is not read again
    assert len(run.lines) == 1


def test_everything_else_waits(parties: Parties, write: Write) -> None:
    stranger = ask(parties, "other-1")
    claimed = ask(parties, certificates=())  # its name is worker-1, as it says itself
    early = ask(parties, made=after_days(1))
    denied = ask(parties)
    text = f"{keys.FINGERPRINT}{keys.fingerprint(denied.public)}"
    run = Run(write(deny=[text]), parties)
    run.round()
    assert run.decisions == {WAITING: 4}
    assert run.approver.waiting == 4
    for node in (stranger, claimed, early, denied):
        with pytest.raises(Exception, match="there is no grant"):
            grant_of(parties, node)
    outcomes = " ".join(line["outcome"] for line in run.lines)
    for text in ("no name in the certificate, 'other-1'", "no certificate", "from the future", "the policy denies it"):
        assert text in outcomes


def test_a_sealed_key_of_another_publisher_waits(parties: Parties, write: Write) -> None:
    parties.put_sealed(signer=new_key())
    ask(parties)
    run = Run(write(), parties)
    run.round()
    assert run.decisions == {WAITING: 1}


def test_so_many_in_an_hour(parties: Parties, write: Write) -> None:
    nodes = [ask(parties, f"worker-{number}") for number in range(3)]
    policy = write(**{"per-hour": 2})
    run = Run(policy, parties)
    run.round()
    assert run.decisions == {APPROVED: 2, LIMITED: 1}
    again = Run(policy, parties)  # another process remembers
    again.round()
    assert again.decisions == {RENEWED: 2, LIMITED: 1}
    state = json.loads(Path(read_policy(str(policy)).state).read_text())
    state["approvals"] = [made - 3600 for made in state["approvals"]]
    Path(read_policy(str(policy)).state).write_text(json.dumps(state))
    later = Run(policy, parties)
    later.round()
    assert later.decisions == {RENEWED: 2, APPROVED: 1}
    assert all(grant_of(parties, node) for node in nodes)


def test_without_its_state_it_approves_nothing(parties: Parties, write: Write, tmp_path: Path) -> None:
    ask(parties)
    for path in (tmp_path / "missing" / "state", tmp_path):
        run = Run(write(state=str(path)), parties)
        assert not run.round()
        assert run.decisions == {FAILED: 1}
    (tmp_path / "state.json").write_text("{")
    assert not Run(write(), parties).round()


def test_grants_are_renewed_before_they_end(parties: Parties, write: Write) -> None:
    node = ask(parties)
    tag = artifacts.grant_tag(ID, keys.fingerprint(node.public))

    def put(made: int, expires: int) -> None:
        grant = Grant(parties.repository, ID, keys.fingerprint(node.public), KEK, (LAYER,), "0" * 64, made, expires)
        signed = statements.build_grant(grant, parties.owner)
        parties.put(tag, keys.encrypt(signed, [node.public, parties.owner.public]))

    now = int(time.time())
    put(now - 1000, now + 2000)
    run = Run(write(), parties)
    run.round()
    assert grant_of(parties, node).expires == now + 2000
    put(now - 2100, now + 900)
    run = Run(write(**{"per-hour": 1}), parties)
    run.round()
    assert run.decisions == {RENEWED: 1}
    assert grant_of(parties, node).expires > now + 2000
    assert read_state(read_policy(str(run.policy)).state).approvals == []  # nobody new has got access


@pytest.mark.parametrize("reason", [DENIED, REVOKED])
def test_what_a_person_has_refused_stays_refused(parties: Parties, write: Write, reason: str) -> None:
    """Also when the registry hides the tombstone later."""
    node = ask(parties)
    with parties.acting() as owner:
        owner.bury(ID, keys.fingerprint(node.public), reason)
    policy = write()
    run = Run(policy, parties)
    run.round()
    assert run.decisions == {BURIED: 1}
    del parties.registry.manifests[f"{NAME}:{artifacts.grant_tag(ID, keys.fingerprint(node.public))}"]
    again = Run(policy, parties)
    again.round()
    assert again.decisions == {BURIED: 1}


def test_other_owners_can_refuse_too(parties: Parties, write: Write, tmp_path: Path) -> None:
    """A person whose key is another one than the approver's."""
    person, stranger, node = new_key(), new_key(), ask(parties)
    (tmp_path / "person.pub").write_bytes(public_pem(person._private))
    tag = artifacts.grant_tag(ID, keys.fingerprint(node.public))
    tombstone = statements.Tombstone(parties.repository, ID, keys.fingerprint(node.public), REVOKED, 1)
    parties.put(tag, statements.build_tombstone(tombstone, person))
    run = Run(write(owners=[str(tmp_path / "person.pub")]), parties)
    run.round()
    assert run.decisions == {BURIED: 1}
    other = ask(parties, "worker-2")
    tombstone = tombstone._replace(node=keys.fingerprint(other.public))
    parties.put(artifacts.grant_tag(ID, tombstone.node), statements.build_tombstone(tombstone, stranger))
    run = Run(run.policy, parties)
    run.round()
    assert run.decisions == {BURIED: 1, APPROVED: 1}


def test_one_request_does_not_stop_the_others(parties: Parties, write: Write) -> None:
    """Whoever may push a request can push one without an end, or without content."""
    node = ask(parties)
    for number in range(2):
        parties.put(artifacts.request_tag(ID, f"{number:064x}"), b"x" * (limits.GRANTS_ARTIFACT_BYTES + 1), REQUESTS)
    parties.put(artifacts.request_tag(ID, f"{2:064x}"), b"gone", REQUESTS)
    del parties.registry.blobs[digest_of(b"gone")]
    run = Run(write(), parties)
    assert run.round()
    assert run.decisions == {APPROVED: 1}
    assert grant_of(parties, node).kek == KEK


def test_a_dry_run_writes_nothing(parties: Parties, write: Write, tmp_path: Path) -> None:
    ask(parties)
    ask(parties, "worker-2")
    before = dict(parties.registry.manifests)
    run = Run(write(**{"per-hour": 1}), parties, dry_run=True)
    run.round()
    assert run.decisions == {APPROVED: 1, LIMITED: 1}
    assert run.approver.waiting == 1
    run.round()
    assert run.approver.waiting == 1  # although it is not looked at again so soon
    assert run.lines[0]["operation"] == "would approve"
    assert parties.registry.manifests == before
    assert not (tmp_path / "state.json").exists()


def test_a_registry_that_fails_does_not_stop_other_repositories(parties: Parties, write: Write) -> None:
    node = ask(parties)
    run = Run(write(repositories=["127.0.0.1:1/team/other", parties.repository]), parties)
    assert not run.round()
    assert run.decisions == {FAILED: 1, APPROVED: 1}
    assert grant_of(parties, node)


def test_replicas_do_not_conflict(parties: Parties, write: Write, tmp_path: Path) -> None:
    nodes = [ask(parties, f"worker-{number}") for number in range(4)]
    runs = []
    for number in range(2):
        policy = tmp_path / f"policy-{number}.json"
        policy.write_text(write(state=str(tmp_path / f"state-{number}")).read_text())
        runs.append(Run(policy, parties))
    threads = [threading.Thread(target=run.round) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for run in runs:
        assert set(run.decisions) <= {APPROVED, RENEWED}
        assert sum(run.decisions.values()) == 4
    assert [grant_of(parties, node).kek for node in nodes] == [KEK] * 4


def rule_with(authorities: str) -> dict[str, Any]:
    return {"repositories": ["*"], "names": ["*"], "ca": authorities}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"per-hours": 3}, "no member 'per-hours'"),
        ({"publishers": None}, "it needs key, publishers"),
        ({"rules": []}, "it needs key, publishers"),
        ({"rules": [{"repositories": ["*"], "names": ["*"]}]}, "a rule needs repositories, ca and names"),
        ({"rules": [{"name": "x"}]}, "a rule has no member 'name'"),
        ({"per-hour": 0}, "per-hour is not a number"),
        ({"per-hour": True}, "per-hour is not a number"),
        ({"deny": ["x"]}, "deny: 'x' is not a fingerprint"),
        ({"repositories": ["a b"]}, "is not a reference"),
        ({"repositories": "x"}, "repositories: JSON string instead of an array"),
        ({"publishers": ["/missing"]}, "publishers '/missing'"),
        ({"rules": [rule_with("/missing")]}, "ca '/missing' has no certificates of CAs in PEM form: No such file"),
        ({"rules": [rule_with(os.devnull)]}, f"ca '{os.devnull}' has no certificates of CAs in PEM form: "),
    ],
)
def test_policies_that_cannot_be_used(write: Write, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        read_policy(str(write(**changes)))


def test_the_policy_of_the_documents(parties: Parties, write: Write, tmp_path: Path) -> None:
    """Its files are where the manifests for Kubernetes mount them."""
    page = (ROOT / "docs/grants.md").read_text()
    (text,) = [block for block in re.findall(r"^```json\n(.*?)^```$", page, re.M | re.S) if '"rules"' in block]
    assert read_policy(str(write())).interval == 1
    for name, file in (("publisher.pub", "publisher.pub"), ("owner.pub", "publisher.pub"), ("node-ca.pem", "ca.pem")):
        text = text.replace(f"/etc/grants/{name}", str(tmp_path / file))
    (tmp_path / "policy.json").write_text(text)
    policy = read_policy(str(tmp_path / "policy.json"))
    assert policy.repositories[1] == ("registry.example/team/web", "registry.example/asked")
    assert (policy.key, policy.state) == ("/secrets/owner/owner.key", "/var/lib/grants/state.json")
    assert (policy.per_hour, policy.rules[0].days, len(policy.denied)) == (60, 30, 1)


def test_the_process(parties: Parties, write: Write, tmp_path: Path) -> None:
    """It approves what comes, reads its policy again, tells Prometheus, and stops."""
    policy = write()
    log = tmp_path / "log"
    command = [PROGRAM, "grants", "approver", "--policy", str(policy), "--metrics", "127.0.0.1:0"]
    with log.open("wb") as file, subprocess.Popen(command, stderr=file, stdout=file) as process:
        try:
            wait_for(lambda: "metrics at" in log.read_text())
            url = log.read_text().split("metrics at ")[1].split()[0]
            node = ask(parties)
            wait_for(lambda: '"outcome": "ok"' in log.read_text())
            assert grant_of(parties, node).kek == KEK
            text = urllib.request.urlopen(url, timeout=10).read().decode()
            assert 'ctd_grants_decisions_total{decision="approved"} 1.0' in text
            assert "ctd_grants_failed_rounds_total 0.0" in text
            policy.write_text("{")
            wait_for(lambda: "the earlier one stays" in log.read_text())
            process.terminate()
            assert process.wait(120) == 0
        finally:
            process.kill()
    assert log.read_text().endswith("ctd-decoder: stopped\n")


def test_policy_and_key_are_read_again(
    write: Write, tmp_path: Path, parties: Parties, capfd: pytest.CaptureFixture[str]
) -> None:
    rules = Rules(str(write()))
    first = rules.key
    write(interval=7)
    rules.refresh()
    assert (rules.policy.interval, rules.key is first) == (7, True)
    other = new_key()
    write_private(tmp_path / "owner.key", other)
    rules.refresh()
    assert keys.fingerprint(rules.key.public) == keys.fingerprint(other.public)
    (tmp_path / "owner.key").write_bytes(b"x")
    rules.refresh()
    (tmp_path / "policy.json").write_text("{")
    rules.refresh()
    assert (rules.policy.interval, keys.fingerprint(rules.key.public)) == (7, keys.fingerprint(other.public))
    assert capfd.readouterr().err.count("the earlier one stays") == 2


def test_once(parties: Parties, write: Write) -> None:
    node = ask(parties)
    command = ["grants", "approver", "--once", "--policy", str(write())]
    done = run_program(command, 60)
    assert done.returncode == 0, done.stderr
    assert grant_of(parties, node).kek == KEK
    command[-1] = str(write(repositories=["127.0.0.1:1/x"]))
    assert run_program(command, 60).returncode == 7


# int() raises ValueError for thousands of digits
@pytest.mark.parametrize(
    "address",
    [
        "9090",
        "127.0.0.1:",
        "127.0.0.1:x",
        "127.0.0.1:\N{ARABIC-INDIC DIGIT ONE}",
        "127.0.0.1:65536",
        "127.0.0.1:" + "1" * 5000,
    ],
)
def test_an_address_for_metrics_that_is_none(address: str) -> None:
    with pytest.raises(UsageError, match=f"--metrics '{address[:10]}.* is not HOST:PORT"):
        Metrics(cast("Any", None)).serve(address)


def test_a_failed_round_is_counted(parties: Parties, write: Write) -> None:
    run = Run(write(repositories=["127.0.0.1:1/x"]), parties)
    metrics = Metrics(run.approver)
    metrics.ended(went_well=run.round())
    found = {metric.name: metric.samples[0].value for metric in metrics.collect() if metric.samples}
    assert (found["ctd_grants_failed_rounds"], found["ctd_grants_last_good_round_timestamp_seconds"]) == (1, 0)


def test_a_port_of_metrics_that_is_taken(write: Write) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        used = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = run_program(["grants", "approver", "--policy", str(write()), "--metrics", used], 60)
    assert (ended.returncode, f"cannot listen on --metrics '{used}': Address already" in ended.stderr.decode()) == (
        7,
        True,
    )


def test_prometheus_client_is_not_installed(parties: Parties, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ImageError, match="the Python module prometheus_client is not installed: "):
        Metrics(Run(write(), parties).approver).serve("127.0.0.1:0")
