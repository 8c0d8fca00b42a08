"""`ctd-decoder grants` as owners run it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from decoder import limits
from decoder.grants import artifacts, keys, statements
from decoder.grants.cli import main
from decoder.grants.statements import Request
from decoder.provider.errors import ProviderError
from tests.support.image.command import Ended, decoded
from tests.support.image.grants import ID, KEK, NAME, Parties, new_key, write_private
from tests.support.keywrap.layers import pem, public_pem
from tests.support.network.x509_certificates import client_certificate, new_authority
from tests.support.program.processes import ROOT, run_program

if TYPE_CHECKING:
    from decoder.grants.keys import FileKey

REQUESTS = artifacts.requests_of(NAME)
OTHER_ID = "f" * 32
HOSTILE = "w1\x1b[2J\nstate granted\u202e" + "x" * 300


@pytest.fixture
def options(parties: Parties, tmp_path: Path) -> list[str]:
    """The owner's key, and the publisher's."""
    (tmp_path / "publisher.pub").write_bytes(public_pem(parties.publisher._private))
    owner = write_private(tmp_path / "owner.key", parties.owner)
    return ["--key", str(owner), "--publisher", str(tmp_path / "publisher.pub")]


def grants(*arguments: str | Path) -> Ended:
    return decoded(run_program(["grants", *map(str, arguments)], 60))


def done(*arguments: str | Path) -> str:
    ended = grants(*arguments)
    assert ended.status == 0, ended.errors
    return ended.output


def build(parties: Parties, key: FileKey, **changes: Any) -> bytes:
    request = Request(parties.repository, ID, key.public, "w1", "", (), int(time.time()) - 7200)
    return statements.build_request(request._replace(**changes), key)


def ask(parties: Parties, key: FileKey | None = None, **changes: Any) -> str:
    """Leave a request, and return the fingerprint of the node."""
    key = key or parties.node
    found = keys.fingerprint(key.public)
    parties.put(artifacts.request_tag(changes.get("id", ID), found), build(parties, key, **changes), REQUESTS)
    return f"{keys.FINGERPRINT}{found}"


def has_access(parties: Parties, key: FileKey | None = None, identifier: str = ID) -> bool:
    try:
        return parties.client(key).fetch(parties.place._replace(id=identifier), 5).kek == KEK
    except ProviderError:
        return False


def test_list(parties: Parties, options: list[str]) -> None:
    assert done("list", parties.repository) == f"there are no requests in {parties.repository}-requests\n"
    certificate = client_certificate(parties.node.public, "worker-1", new_authority("node ca"))
    node = ask(parties, certificates=(certificate,), image="registry.example/app:1")
    output = done("list", parties.repository)
    assert output.splitlines()[0] == node
    for line in (
        f"id           {ID}",
        "name         'w1'",
        "certificate  'CN=worker-1' by 'CN=node ca', until ",
        "image        'registry.example/app:1'",
        "age          2 hours",
        "state        waits",
    ):
        assert line in output
    (member,) = json.loads(done("list", "--json", parties.repository))["requests"]
    assert (member["fingerprint"], member["id"], member["name"], member["state"]) == (node, ID, "w1", "waits")
    done("approve", *options, parties.repository, node)
    assert "granted until 2" in done("list", *options[:2], parties.repository)


def test_text_of_others_is_quoted(parties: Parties) -> None:
    ask(parties, name=HOSTILE, image=HOSTILE, certificates=(b"junk",))
    output = done("list", parties.repository)
    assert all(line.isprintable() for line in output.splitlines())
    assert "\x1b" not in output
    assert "state granted" not in [line.strip() for line in output.splitlines()]
    assert "certificate  malformed" in output


@pytest.mark.parametrize("name", ["fingerprint", "id", "both"])
def test_approve_what_is_named(parties: Parties, options: list[str], name: str) -> None:
    other = new_key()
    nodes = {parties.node: ask(parties), other: ask(parties, other, id=OTHER_ID)}
    parties.put_sealed(parties.sealed(id=OTHER_ID), tag=OTHER_ID)
    words = {"fingerprint": [nodes[parties.node]], "id": [ID], "both": [ID, nodes[parties.node].upper()[11:]]}[name]
    output = done("approve", *options, parties.repository, *words)
    assert output.startswith(f"{ID} {nodes[parties.node]} granted until 2")
    assert has_access(parties)
    assert not has_access(parties, other, OTHER_ID)


def test_approve_all_with_a_certificate(parties: Parties, options: list[str], tmp_path: Path) -> None:
    authority = new_authority()
    (tmp_path / "ca.pem").write_bytes(authority.certificate.public_bytes(Encoding.PEM))
    good, bad, bare = new_key(), new_key(), new_key()
    ask(parties, good, certificates=(client_certificate(good.public, "worker-7", authority),))
    ask(parties, bad, certificates=(client_certificate(bad.public, "worker-8", new_authority()),))
    ask(parties, bare, name="worker-9")
    chosen: list[str | Path] = ["--all", "--ca", tmp_path / "ca.pem", "--name", "worker-*", "--name", "x"]
    output = done("approve", *options, *chosen, parties.repository)
    assert (output.count("granted until"), output.count("left alone")) == (1, 2)
    assert [has_access(parties, key) for key in (good, bad, bare)] == [True, False, False]
    assert len(json.loads(done("approve", "--json", *options, *chosen, parties.repository))["granted"]) == 1
    for missing in (["--all"], ["--all", "--ca", "x"], ["--ca", "x", "--name", "x"]):
        assert grants("approve", *options, *missing, parties.repository).status == 2


def test_approve_a_request_that_was_pasted(parties: Parties, options: list[str]) -> None:
    text = build(parties, parties.node).decode()
    assert "granted until" in done("approve", *options, parties.repository, "--request", f"{text[:99]}\n {text[99:]}")
    assert has_access(parties)
    for changed, status in ((text[:-5], 5), ("x", 5), (build(parties, parties.node, repository="a.b/c").decode(), 5)):
        assert grants("approve", *options, parties.repository, "--request", changed).status == status


def test_approve_an_inventory(parties: Parties, options: list[str], tmp_path: Path) -> None:
    """Before any node has asked."""
    nodes = tmp_path / "nodes"
    nodes.mkdir()
    first, second = new_key(), new_key()
    (nodes / "first.pub").write_bytes(public_pem(first._private))
    der = client_certificate(second.public, "second", new_authority())
    (nodes / "second.pem").write_bytes(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM))
    parties.put_sealed(parties.sealed(id=OTHER_ID), tag=OTHER_ID)
    output = done("approve", *options, "--nodes", nodes, parties.repository)
    assert output.count("granted until") == 4
    assert all(has_access(parties, key, each) for key in (first, second) for each in (ID, OTHER_ID))
    assert done("approve", *options, "--nodes", nodes, parties.repository, ID).count("granted until") == 2
    assert grants("approve", *options, "--nodes", nodes, parties.repository, "0" * 64).status == 2
    (nodes / "x").write_text("x")
    assert grants("approve", *options, "--nodes", nodes, parties.repository).status == 2


def test_inventories_that_cannot_be_used(parties: Parties, options: list[str], tmp_path: Path) -> None:
    for name, files in (("empty", [".hidden"]), ("many", list(map(str, range(4097))))):
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).touch()
    for name, problem in (
        ("missing", "No such file or directory"),
        ("publisher.pub", "Not a directory"),
        ("empty", "it is empty"),
        ("many", "it has more than 4096 files"),
    ):
        ended = grants("approve", *options, "--nodes", tmp_path / name, parties.repository)
        assert (ended.status, ended.output) == (2, "")
        assert f"--nodes '{tmp_path / name}': {problem}" in ended.errors


def test_how_long_a_grant_holds(parties: Parties, options: list[str]) -> None:
    node = ask(parties)

    def until(*more: str) -> int | None:
        (granted,) = json.loads(done("approve", *options, "--json", *more, parties.repository, node))["granted"]
        expires: int | None = granted["expires"]
        return expires

    month = until()
    assert month is not None
    assert abs(month - time.time() - 30 * 86400) < 100
    week = until("--days", "7")
    assert week is not None
    assert abs(week - time.time() - 7 * 86400) < 100
    assert until("--no-expiry") is None
    assert has_access(parties)
    for days in ("0", "-1", "9999", "x"):
        assert grants("approve", *options, "--days", days, parties.repository, node).status == 2


def test_a_failure_does_not_stop_the_others(parties: Parties, options: list[str]) -> None:
    ask(parties)
    ask(parties, id=OTHER_ID)  # which has no sealed key
    ended = grants("approve", *options, parties.repository, ID, OTHER_ID)
    assert (ended.status, ended.output.count("granted until"), ended.output.count("failed: ")) == (5, 1, 1)
    assert "has no sealed key" in ended.errors
    assert has_access(parties)


def test_publishers_are_pinned(parties: Parties, options: list[str]) -> None:
    node = ask(parties)
    ended = grants("approve", *options[:2], parties.repository, node)
    assert (ended.status, "and that key is not trusted for this" in ended.errors) == (5, True)
    parties.put_sealed(signer=parties.owner)
    done("approve", *options[:2], parties.repository, node)  # whoever owns it has encrypted it


def test_deny_in_json(parties: Parties, options: list[str]) -> None:
    node = ask(parties)
    found = json.loads(done("deny", "--json", *options[:2], parties.repository, node))
    assert found == {"schemaVersion": 1, "denied": [{"id": ID, "fingerprint": node}], "remarks": []}


def test_the_age_of_a_request_from_the_future(parties: Parties) -> None:
    ask(parties, made=int(time.time()) + 7200)
    assert "age          from the future\n" in done("list", parties.repository)


def test_deny(parties: Parties, options: list[str]) -> None:
    node = ask(parties)
    assert done("deny", *options[:2], parties.repository, node).startswith(f"{ID} {node} denied\n")
    assert parties.registry.tags(REQUESTS) == []
    with pytest.raises(ProviderError, match="the owner has denied access"):
        parties.client().fetch(parties.place, 5)
    assert parties.registry.tags(REQUESTS) == []
    done("approve", *options, parties.repository, "--request", build(parties, parties.node).decode())
    assert has_access(parties)


@pytest.mark.parametrize("deletes", [True, False])
def test_revoke(parties: Parties, options: list[str], deletes: bool) -> None:
    node = ask(parties)
    done("approve", *options, parties.repository, node)
    old = parties.registry.manifests[f"{NAME}:{parties.grant_tag}"]
    parties.registry.deletes = deletes
    output = done("revoke", *options[:2], parties.repository, node)
    assert f"{ID} {node} revoked\n" in output
    assert "a node that has the key already keeps it" in output
    assert ("does not delete the grant" in output) != deletes
    assert (old in parties.registry.manifests.values()) != deletes
    assert not has_access(parties)
    assert "revoked" in done("log", *options[:2], parties.repository)


def test_log(parties: Parties, options: list[str]) -> None:
    assert done("log", *options[:2], parties.repository) == "nothing was decided with this key\n"
    other = new_key()
    nodes = [ask(parties), ask(parties, other)]
    done("approve", *options, parties.repository, nodes[0])
    done("deny", *options[:2], parties.repository, nodes[1])
    parties.put(artifacts.grant_tag(ID, "0" * 64), b"junk")
    output = done("log", *options[:2], parties.repository)
    assert f"{ID}  {nodes[0]}  granted until 2" in output
    assert f"{ID}  {nodes[1]}  denied" in output
    assert "1 more are not of this owner" in output
    found = json.loads(done("log", "--json", *options[:2], parties.repository))
    assert (sorted(each["decision"] for each in found["decisions"]), found["others"]) == (["denied", "granted"], 1)


@pytest.mark.parametrize("verb", ["approve", "deny", "revoke"])
def test_nothing_to_decide(parties: Parties, options: list[str], verb: str) -> None:
    more = options if verb == "approve" else options[:2]
    assert grants(verb, *more, parties.repository, ID).status == 4
    for words, text in (([], "name "), (["x"], "is neither the ID"), (["0" * 33], "is neither the ID")):
        ended = grants(verb, *more, parties.repository, *words)
        assert (ended.status, text in ended.errors) == (2, True)


def test_problems_are_shown(parties: Parties) -> None:
    parties.put(artifacts.request_tag(ID, "0" * 64), b"junk", REQUESTS)
    output = done("list", parties.repository)
    assert "1 artifacts are not requests: request-" in output


def test_more_requests_than_one_command_reads(
    parties: Parties, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(limits, "GRANTS_LISTED", 2)
    for number in range(5):
        parties.put(artifacts.request_tag(ID, f"{number:064x}"), b"junk", REQUESTS)
    assert main(["list", parties.repository]) == 0
    output = capfd.readouterr().out
    assert "2 artifacts are not requests: request-" in output
    assert output.endswith("3 more requests were not read: name an ID or a fingerprint\n")


def test_encrypted_keys(parties: Parties, options: list[str], tmp_path: Path) -> None:
    node = ask(parties)
    password = BestAvailableEncryption(b"secret")
    text = parties.owner._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, password)
    (tmp_path / "owner.key").write_bytes(text)
    ended = grants("approve", *options, parties.repository, node)
    assert ended.status == 2
    assert "no password was given: name the file that holds it: --password-file\n" in ended.errors
    (tmp_path / "password").write_text("secret\n")
    done("approve", *options, "--password-file", tmp_path / "password", parties.repository, node)
    assert has_access(parties)


def test_fingerprint(parties: Parties, tmp_path: Path) -> None:
    write_private(tmp_path / "node.key", parties.node)
    (tmp_path / "node.pub").write_bytes(public_pem(parties.node._private))
    for name in ("node.key", "node.pub"):
        assert done("fingerprint", tmp_path / name) == f"{keys.FINGERPRINT}{parties.node_print}\n"
    assert grants("fingerprint", tmp_path / "missing").status == 2


def test_private_keys_that_cannot_be_used(parties: Parties, tmp_path: Path) -> None:
    vectors = ROOT / "tests/vectors/keys"
    two = tmp_path / "two.key"
    two.write_bytes((vectors / "rsa4096.pem").read_bytes() + (vectors / "ec-prime256v1.pem").read_bytes())
    odd = tmp_path / "odd.key"
    odd.write_bytes(pem(ec.generate_private_key(ec.SECP256K1())))
    (tmp_path / "password").write_bytes(b"x" * 4097)
    cases: list[tuple[list[str | Path], str]] = [
        (["--key", two], f"--key '{two}': it holds 2 RSA or EC private keys; exactly one is needed"),
        (["--key", vectors / "pgp-rsa.asc"], "it holds 0 RSA or EC private keys; exactly one is needed"),
        (["--key", odd], f"--key '{odd}': its curve secp256k1 is not supported (P-256, P-384, P-521 are)"),
        (["--key", two, "--password-file", tmp_path / "password"], "password': the password is longer than 4096 bytes"),
    ]
    for arguments, problem in cases:
        ended = grants("log", *arguments, parties.repository)
        assert (ended.status, problem in ended.errors) == (2, True), ended.errors


def test_registries_that_cannot_be_reached(options: list[str]) -> None:
    assert grants("list", "127.0.0.1:1/app").status == 7
    assert grants("list", "registry.example/app:tag").status == 2
    assert grants("approve", *options, "--creds", "x", "127.0.0.1:1/app", ID).status == 2
