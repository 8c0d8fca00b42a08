"""The client policy of a server: what its rules mean, and what is not a rule."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from pathlib import Path
from time import sleep

import pytest
from cryptography import x509

from decoder.provider.errors import ClientRefusedError
from decoder.provider.patterns import matches
from decoder.provider.server.clients import clientpolicy
from decoder.provider.server.clients.clientpolicy import PolicyError, Rate
from decoder.provider.server.clients.peer import Peer, of_tls
from decoder.provider.server.clients.rates import Rates
from tests.support.network.certificates import Issued, issue, key_of


@pytest.mark.parametrize(
    ("name", "pattern", "separator", "expected"),
    [
        ("openbao://transit/prod", "openbao://transit/*", "/", True),
        ("openbao://transit/prod/x", "openbao://transit/*", "/", False),
        ("openbao://other/prod", "openbao://*/prod", "/", True),
        ("openbao://a/b/prod", "openbao://*/prod", "/", False),
        ("local://a", "local://[ab]", "/", False),
        ("local://[ab]", "local://[ab]", "/", True),
        ("local://a?", "local://a?", "/", True),
        ("local://ab", "local://a?", "/", False),
        ("local://abc", "local://a*c", "/", True),
        ("local://a\nc", "local://a*c", "/", True),
        ("xlocal://a", "local://a", "/", False),
        ("local://ax", "local://a", "/", False),
        ("a.nodes.example", "*.nodes.example", ".", True),
        ("a.b.nodes.example", "*.nodes.example", ".", False),
        ("anything at / all", "*", "", True),
    ],
)
def test_patterns(name: str, pattern: str, separator: str, expected: bool) -> None:
    assert matches(name, pattern, separator) is expected


class Parties:
    """Two authorities, one of them with an intermediate, and their certificates."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.issued: dict[str, Issued] = {}
        for name, issuer, is_authority in (
            ("root", "", False),
            ("other", "", False),
            ("middle", "root", True),
            ("renewed", "", False),
        ):
            self.issued[name] = issue(name, self.issued.get(issuer), is_authority=is_authority)
            self.issued[name].write(directory / f"{name}.pem")

    def peer(self, issuer: str, *names: str, common_name: str = "node") -> Peer:
        leaf = issue(common_name, self.issued[issuer], list(names) or None)
        chain = [leaf.certificate, self.issued[issuer].certificate]
        if issuer == "middle":
            chain.append(self.issued["root"].certificate)
        parsed = tuple(map(x509.load_pem_x509_certificate, chain))
        found = tuple(f"dns:{name}" if "://" not in name else f"uri:{name}" for name in names)
        return Peer("ipv4:192.0.2.1:1", found or (f"cn:{common_name}",), parsed)


@pytest.fixture(scope="module")
def parties(tmp_path_factory: pytest.TempPathFactory) -> Parties:
    return Parties(tmp_path_factory.mktemp("parties"))


def policy(directory: Path, text: str) -> clientpolicy.ClientPolicy:
    path = directory / "policy.toml"
    path.write_text(text)
    return clientpolicy.load(str(path))[0]


def is_about(parties: Parties, client: str, ca: str, peer: Peer) -> bool:
    rules = policy(
        parties.directory, f'[[rule]]\nclient = "{client}"\nca = "{parties.directory}/{ca}.pem"\nunwrap = "local://*"\n'
    )
    try:
        return bool(rules.about(peer))
    except ClientRefusedError:
        return False


def test_a_rule_is_about_a_name_of_one_kind_from_one_authority(parties: Parties) -> None:
    spiffe = parties.peer("root", "spiffe://cluster/ns/node", "node.example")
    assert is_about(parties, "uri:spiffe://cluster/ns/*", "root", spiffe)
    assert not is_about(parties, "uri:spiffe://cluster/*", "root", spiffe)
    assert not is_about(parties, "dns:spiffe://cluster/ns/node", "root", spiffe)
    assert not is_about(parties, "uri:node.example", "root", spiffe)
    assert not is_about(parties, "uri:spiffe://cluster/ns/*", "other", spiffe)
    assert not is_about(parties, "uri:spiffe://cluster/ns/*", "other", parties.peer("root", "spiffe://cluster/ns/node"))
    assert is_about(parties, "dns:NODE.*", "root", spiffe)


def test_a_common_name_counts_only_without_alternative_names(parties: Parties) -> None:
    assert is_about(parties, "cn:node", "root", parties.peer("root"))
    assert not is_about(parties, "cn:node", "root", parties.peer("root", "node.example"))


def test_an_intermediate_authority_and_its_root_are_both_issuers(parties: Parties) -> None:
    peer = parties.peer("middle", "node.example")
    assert is_about(parties, "dns:node.example", "middle", peer)
    assert is_about(parties, "dns:node.example", "root", peer)
    assert not is_about(parties, "dns:node.example", "other", peer)
    assert not is_about(parties, "dns:node.example", "middle", parties.peer("root", "node.example"))


def test_an_authority_of_the_same_name_with_another_key_is_another_one(parties: Parties, tmp_path: Path) -> None:
    peer = parties.peer("root", "node.example")
    impostor = issue("root").write(tmp_path / "root.pem")
    rules = policy(tmp_path, f'[[rule]]\nclient = "dns:node.example"\nca = "{impostor}"\nunwrap = "local://*"\n')
    with pytest.raises(ClientRefusedError):
        rules.about(peer)


def test_the_names_of_a_certificate_are_bounded(parties: Parties, tmp_path: Path) -> None:
    authority = parties.directory / "root.pem"
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.verify_mode = ssl.CERT_REQUIRED
    theirs.load_verify_locations(authority)
    theirs.load_cert_chain(authority, key_of(authority))
    for count in (64, 65):
        names = [f"n{number}.example" for number in range(count)]
        leaf = issue("node", parties.issued["root"], names).write(tmp_path / "leaf.pem")
        ours = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        ours.check_hostname, ours.verify_mode = False, ssl.CERT_NONE
        ours.load_cert_chain(leaf, key_of(leaf))
        left, right = socket.socketpair()
        client = ours.wrap_socket(left, do_handshake_on_connect=False)
        thread = threading.Thread(target=client.do_handshake)
        thread.start()
        with theirs.wrap_socket(right, server_side=True) as server:
            if count == 64:
                assert of_tls(Peer("unix:"), server).names == tuple(f"dns:{name}" for name in names)
            else:
                with pytest.raises(ValueError, match="its certificate has more than 64 names"):
                    of_tls(Peer("unix:"), server)
            thread.join()
        client.close()


def test_keys_and_operations(tmp_path: Path) -> None:
    rules = policy(
        tmp_path,
        """
[[rule]]
client = "uid:7"
unwrap = ["local://a", "local://b*"]
[[rule]]
client = ["uid:7", "gid:8"]
wrap = "local://w"
rate = "60/m"
burst = 5
""",
    )
    mine = rules.about(Peer("unix:", ("uid:7", "gid:9")))
    assert clientpolicy.choose(mine, "unwrap", ["local://a", "local://bb"]).number == 1
    assert clientpolicy.choose(mine, "unwrap-kek", ["local://a"]).number == 1
    assert clientpolicy.choose(mine, "wrap", ["local://w"]).rate == Rate(1.0, 5)
    assert clientpolicy.choose(mine, "wrap-kek", ["local://w"]).number == 2
    for operation, keys in (
        ("wrap", ["local://a"]),
        ("unwrap", ["local://w"]),
        ("unwrap", ["local://a", "local://w"]),
        ("unwrap", []),
    ):
        with pytest.raises(ClientRefusedError):
            clientpolicy.choose(mine, operation, keys)  # type: ignore[arg-type]
    assert [rule.number for rule in rules.about(Peer("unix:", ("uid:1", "gid:8")))] == [2]
    for nobody in (Peer("unix:", ("uid:70", "gid:7")), Peer("ipv4:192.0.2.1:1"), Peer("ipv4:192.0.2.1:1", ("uri:7",))):
        with pytest.raises(ClientRefusedError):
            rules.about(nobody)


RULE = '[[rule]]\nclient = "uid:0"\nunwrap = "local://*"\n'


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "something other than [[rule]] tables"),
        ("rule = 1", "something other than [[rule]] tables"),
        ("rule = [1]", "something other than [[rule]] tables"),
        (RULE + "[other]\n", "something other than [[rule]] tables"),
        ("{", "it is not TOML"),
        ("rule = " + "[" * 5000, "it is not TOML"),
        ("\xff", "it is not TOML"),
        (RULE + "x = 1", "rule 1 has 'x'"),
        (RULE + RULE.replace("uid:0", "user:0"), "rule 2: client 'user:0' begins with none of"),
        (RULE.replace("uid:0", "uid:root"), "is not the number"),
        (RULE.replace("uid:0", "uid:"), "begins with none of"),
        (RULE.replace('"uid:0"', '["uid:0", "cn:x"]'), "not both"),
        (RULE.replace('"uid:0"', "[]"), "not both"),
        (RULE.replace('"uid:0"', "1"), "client is a string"),
        (RULE.replace("uid:0", "cn:x"), "ca is the file"),
        (RULE + 'ca = "/ca.pem"', "ca is the file"),
        (RULE.replace("uid:0", "cn:x") + 'ca = "/none.pem"', "No such file"),
        (RULE.replace("uid:0", "cn:x") + f'ca = "{os.devnull}"', "other than certificates"),
        (RULE.replace("unwrap", "wrap").replace("local://*", ""), "wrap is a string"),
        ('[[rule]]\nclient = "uid:0"\n', "allows nothing"),
        (RULE + 'rate = "0/m"', "rate is NUMBER/s"),
        (RULE + 'rate = "1/d"', "rate is NUMBER/s"),
        (RULE + "burst = 1", "rate is NUMBER/s"),
        (RULE + 'rate = "1/m"\nburst = 0', "burst is a number"),
        (RULE + 'rate = "1/m"\nburst = true', "burst is a number"),
        (RULE * 1025, "it has more than 1024 rules"),
        (RULE + "#" * 2**20, "it is longer than 1048576 bytes"),
    ],
    ids=lambda value: value[:40],
)
def test_what_is_not_a_policy(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(PolicyError) as caught:
        clientpolicy.load(str(path))
    assert problem in str(caught.value)
    assert str(caught.value).startswith(f"--client-policy {path}: ")


def test_rates_are_counted_for_each_client_by_all_processes() -> None:
    rates, rate = Rates(), Rate(0.001, 4)
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            os._exit(sum(rates.allows("a", rate) for _ in range(4)))
        children.append(child)
    assert sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children) == 4
    assert not rates.allows("a", rate)
    assert [rates.allows("b", rate) for _ in range(5)] == [True] * 4 + [False]


def test_a_client_that_waits_may_ask_again() -> None:
    rates, rate = Rates(), Rate(20, 1)
    assert rates.allows("a", rate)
    assert not rates.allows("a", rate)
    sleep(0.06)
    assert rates.allows("a", rate)


def test_a_thousand_clients_do_not_share_entries_and_old_ones_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    rates, rate = Rates(), Rate(0.001, 1)
    assert all(rates.allows(f"client {number}", rate) for number in range(1000))
    assert not any(rates.allows(f"client {number}", rate) for number in range(1000))
    monkeypatch.setattr("decoder.limits.CLIENT_RATES", 4)
    few = Rates()
    for number in range(4):
        few.allows(str(number), Rate(100, 1))
    sleep(0.02)
    assert few.allows("late", Rate(100, 1))


def test_no_client_passes_because_many_others_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("decoder.limits.CLIENT_RATES", 4)
    rates, rate = Rates(), Rate(0.001, 1)
    for number in range(100):
        rates.allows(str(number), rate)
    assert not any(rates.allows(f"late {number}", rate) for number in range(100))
