"""A server with a client policy: who is refused, what is written down, and what happens to open connections."""

from __future__ import annotations

import os
import socket
import ssl
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.support.network.certificates import Issued, issue, key_of, tls_options
from tests.support.provider.policy_site import UNWRAP, WRAP, Site, outcome, wrap
from tests.support.provider.serving import (
    Server,
    ask,
    execute,
    message,
    method_of,
    request_of,
    result_of,
    wait_for,
)

PREFIX = "ctd_keyprovider_"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_clients_do_what_a_rule_lets_them_and_nothing_else(site: Site) -> None:
    node = issue("node", site.authorities["nodes"], ["spiffe://cluster/node"])
    person = issue("person", site.authorities["people"], ["spiffe://cluster/node"])
    builder = issue("builder", site.authorities["people"])
    site.policy.write_text(
        site.rule("uri:spiffe://cluster/*", unwrap="local://a")
        + site.rule("cn:builder", ca="people", wrap="local://*", unwrap="local://b")
    )
    with Server(site.directory, *site.arguments, *site.tls) as server:
        with site.connect(server, builder) as channel:
            annotations = {name: result_of(ask(channel, "WrapKey", wrap(name))) for name in ("a", "b")}
            unwrap = {name: request_of("keyunwrap", annotation) for name, annotation in annotations.items()}
            assert outcome(channel, UNWRAP, unwrap["b"]) == "OK"
            assert outcome(channel, UNWRAP, unwrap["a"]) == "PERMISSION_DENIED"
        with site.connect(server, node) as channel:
            assert outcome(channel, UNWRAP, unwrap["a"]) == "OK"
            assert outcome(channel, UNWRAP, unwrap["b"]) == "PERMISSION_DENIED"
            assert outcome(channel, WRAP, wrap("a")) == "PERMISSION_DENIED"
        with site.connect(server, person) as channel:
            assert outcome(channel, UNWRAP, unwrap["a"]) == "PERMISSION_DENIED"
        numbers = server.metrics()
    assert numbers[PREFIX + "requests_total", "unwrap", "denied", "local"] == 3
    assert numbers[PREFIX + "requests_total", "wrap", "denied", "local"] == 1
    refused = [line for line in server.audit if line["outcome"] == "failed"]
    assert {line["reason"] for line in refused} == {"denied"}
    assert [(line["client"], line["operation"], line["key"]) for line in refused] == [
        ("cn:builder", "unwrap", "local://a"),
        ("uri:spiffe://cluster/node", "unwrap", "local://b"),
        ("uri:spiffe://cluster/node", "wrap", "local://a"),
        ("uri:spiffe://cluster/node", "unwrap", ""),
    ]
    assert [line["cause"] for line in refused] == [
        "the client policy does not let this client unwrap with this key",
        "the client policy does not let this client unwrap with this key",
        "the client policy does not let this client wrap with this key",
        "no rule of the client policy names 'uri:spiffe://cluster/node'",
    ]
    assert all(line["address"].startswith("ipv4:127.0.0.1:") for line in refused)


def svid(identity: str, authority: Issued, usages: list[x509.ObjectIdentifier]) -> Issued:
    """Issue a certificate as SPIRE and cert-manager do: without a subject, its name in a critical extension."""
    key = ec.generate_private_key(ec.SECP256R1())
    signer = serialization.load_pem_private_key(authority.key, None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    now = datetime.now(UTC)
    issuer = x509.load_pem_x509_certificate(authority.certificate).subject
    builder = x509.CertificateBuilder(issuer, x509.Name([]), key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(seconds=10)).not_valid_after(now + timedelta(hours=1))
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity)])
    usage = x509.KeyUsage(
        digital_signature=True,
        key_encipherment=False,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (names, True),
        (usage, True),
        (x509.ExtendedKeyUsage(usages), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
    ]
    for extension, is_critical in extensions:
        builder = builder.add_extension(extension, critical=is_critical)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Issued(builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM), private)


@pytest.mark.parametrize("by", ["SPIRE", "cert-manager"])
def test_certificates_without_a_subject(by: str, site: Site) -> None:
    """X509-SVID §4: the SPIFFE ID is the one URI; the extension is critical without a subject (RFC 5280 §4.2.1.6)."""
    client, server_too = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
    usages = [server_too, client] if by == "SPIRE" else [client]
    authority, identity = site.authorities["nodes"], "spiffe://cluster.example/ns/{}/sa/node"
    site.policy.write_text(site.rule(f"uri:{identity.format('*')}", wrap="local://a"))
    with Server(site.directory, *site.arguments, *site.tls) as server:
        for namespace, expected in (("ctd-decoder", "OK"), ("x/sa/y", "PERMISSION_DENIED")):
            with site.connect(server, svid(identity.format(namespace), authority, usages)) as channel:
                assert outcome(channel, WRAP, wrap("a")) == expected
    assert [line["client"] for line in server.audit] == [
        f"uri:{identity.format(namespace)}" for namespace in ("ctd-decoder", "x/sa/y")
    ]


def test_a_new_policy_holds_for_open_connections_and_one_that_is_wrong_for_none(site: Site) -> None:
    node = issue("node", site.authorities["nodes"])
    site.policy.write_text(site.rule("cn:node", wrap="local://a"))
    with Server(site.directory, *site.arguments, *site.tls) as server, site.connect(server, node) as channel:
        assert outcome(channel, WRAP, wrap("a")) == "OK"
        assert outcome(channel, WRAP, wrap("b")) == "PERMISSION_DENIED"
        site.policy.write_text("[[rule]]\n")
        wait_for(lambda: "the files of policy have changed and cannot be used; the earlier ones stay: " in server.log)
        assert server.metrics()[PREFIX + "reload_failed", "policy"] == 1
        assert outcome(channel, WRAP, wrap("a")) == "OK"
        replacement = site.policy.with_suffix(".new")
        replacement.write_text(site.rule("cn:node", wrap="local://b"))
        replacement.rename(site.policy)
        wait_for(lambda: "the files of policy have changed and were read again" in server.log)
        assert server.metrics()[PREFIX + "reload_failed", "policy"] == 0
        assert outcome(channel, WRAP, wrap("a")) == "PERMISSION_DENIED"
        assert outcome(channel, WRAP, wrap("b")) == "OK"
        site.authorities["people"].write(site.directory / "nodes.pem")  # the authority that the rule names
        wait_for(lambda: server.log.count("the files of policy have changed and were read again") == 2)
        assert outcome(channel, WRAP, wrap("b")) == "PERMISSION_DENIED"


def test_a_new_authority_holds_for_open_connections(site: Site) -> None:
    """Those of authorities that stay are kept; the others are told to connect again."""
    node, person = (issue("x", site.authorities[name]) for name in ("nodes", "people"))
    site.policy.write_text(site.rule("cn:x", wrap="local://a") + site.rule("cn:x", ca="people", wrap="local://a"))
    with (
        Server(site.directory, *site.arguments, *site.tls) as server,
        site.connect(server, node) as of_node,
        site.connect(server, person) as of_person,
    ):
        for channel in (of_node, of_person):
            assert outcome(channel, WRAP, wrap("a")) == "OK"
        site.write_authorities("nodes")
        wait_for(lambda: "the files of tls have changed and were read again" in server.log)
        assert outcome(of_person, WRAP, wrap("a")) in ("UNAVAILABLE", "UNAUTHENTICATED")
        assert outcome(of_node, WRAP, wrap("a")) == "OK"
        wait_for(lambda: server.metrics()[PREFIX + "connections",] == 1)


def test_a_certificate_that_expires_ends_its_connection(site: Site) -> None:
    site.policy.write_text(site.rule("cn:node", wrap="local://a"))
    with Server(site.directory, *site.arguments, *site.tls) as server:
        node = issue("node", site.authorities["nodes"], days=4 / 86400)
        with site.connect(server, node) as channel:
            assert outcome(channel, WRAP, wrap("a")) == "OK"
            deadline = time.monotonic() + 20
            while (last := outcome(channel, WRAP, wrap("a"))) == "OK":
                assert time.monotonic() < deadline
                time.sleep(0.1)
        assert last in ("UNAVAILABLE", "UNAUTHENTICATED")


def test_a_certificate_that_the_library_cannot_read_is_refused(site: Site) -> None:
    """OpenSSL accepts it; an alternative name is an ediPartyName (RFC 5280 §4.2.1.6)."""
    node = issue("node", site.authorities["nodes"], odd_names=bytes.fromhex("3007a505a1030c0178"))
    site.policy.write_text(site.rule("cn:node", wrap="local://a"))
    with Server(site.directory, *site.arguments, *site.tls) as server:
        with site.connect(server, node) as channel:
            assert outcome(channel, WRAP, wrap("a")) == "UNAVAILABLE"
        wait_for(lambda: any("the client's certificate: " in str(line.get("cause")) for line in server.audit))
        with site.connect(server, issue("node", site.authorities["nodes"])) as channel:
            assert outcome(channel, WRAP, wrap("a")) == "OK"
        assert "Traceback" not in server.log
        assert "Exception" not in server.log


def test_a_client_that_asks_too_often_is_told_to_wait(site: Site) -> None:
    node = issue("node", site.authorities["nodes"])
    site.policy.write_text(site.rule("cn:node", wrap="local://*", rate="3/h"))
    with Server(site.directory, *site.arguments, *site.tls, "--processes", "2") as server:
        outcomes = []
        for _ in range(5):  # connections to both processes
            with site.connect(server, node) as channel:
                outcomes.append(outcome(channel, WRAP, wrap("a")))
        assert outcomes == ["OK"] * 3 + ["RESOURCE_EXHAUSTED"] * 2
        assert server.metrics()[PREFIX + "requests_total", "wrap", "limited", "local"] == 2
    assert [line.get("reason") for line in server.audit] == [None] * 3 + ["limited"] * 2


def test_refused_handshakes_are_written_down_and_counted(site: Site) -> None:
    site.policy.write_text(site.rule("cn:node", wrap="local://*"))
    prelude = "limits.PROVIDER_SERVER_HANDSHAKE_SECONDS = 1"
    with Server(site.directory, *site.arguments, *site.tls, prelude=prelude) as server:
        for stranger in (issue("stranger"), issue("node", site.authorities["nodes"], days=-1)):
            with site.connect(server, stranger) as channel:
                assert outcome(channel, WRAP, wrap("a")) == "UNAVAILABLE"
        host, _, port = server.target.rpartition(":")
        for first in (b"", b"\x16\x03\x01"):  # a probe, and somebody who does not go on
            with socket.create_connection((host, int(port)), 20) as connection:
                connection.sendall(first)
                while first and connection.recv(100):
                    pass
        expected = {
            "the client's certificate is not accepted: it is not from a trusted authority",
            "the client's certificate is not accepted: it has expired",
            "the client sent no request within 1 seconds",
        }
        wait_for(lambda: expected <= {line["cause"].partition(" (")[0] for line in server.audit})
        wait_for(lambda: server.metrics()[PREFIX + "refused_handshakes_total",] == len(server.audit))
        causes = {line["cause"].partition(" (")[0] for line in server.audit}
        assert causes - {"the client has ended the TLS handshake"} == expected
    assert {line["operation"] for line in server.audit} == {"handshake"}


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_who_was_refused_in_the_handshake_is_written_down_as_a_claim(version: ssl.TLSVersion, site: Site) -> None:
    """Nobody has verified these names: they are not in `client`, and no rule is looked up for them."""
    site.policy.write_text(site.rule("uri:spiffe://*", wrap="local://*"))
    authority = site.authorities["nodes"]
    strangers = {
        "uri:spiffe://cluster/node": issue("node", issue("another"), ["spiffe://cluster/node"]),
        "uri:spiffe://cluster/old, dns:old": issue("old", authority, ["spiffe://cluster/old", "old"], days=-1),
        r"cn:a\n{\x1b[2J\u202e": issue("a\n{\x1b[2J\u202e", issue("another")),
        "": issue("many", issue("another"), [f"spiffe://cluster/{number}" for number in range(200)]),
        "uri:spiffe://" + "x" * 487: issue("long", issue("another"), ["spiffe://" + "x" * 3000]),
    }
    with Server(site.directory, *site.arguments, *site.tls) as server:
        host, _, port = server.target.rpartition(":")
        for number, shown in enumerate(strangers.values()):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.minimum_version = context.maximum_version = version
            certificate = shown.write(site.directory / f"stranger{number}.pem")
            context.load_cert_chain(certificate, key_of(certificate))
            plain = socket.create_connection((host, int(port)), 20)
            with plain, suppress(OSError), context.wrap_socket(plain) as connection:
                connection.recv(1)
            wait_for(lambda expected=number + 1: len(server.audit) == expected)  # type: ignore[misc]
        lines = server.audit
    assert [line.get("claimed", "") for line in lines] == list(strangers)
    assert {(line["operation"], line["client"], line["reason"]) for line in lines} == {("handshake", "", "denied")}
    assert all(line["cause"].startswith("the client's certificate is not accepted: ") for line in lines)


def test_the_audit_of_a_flood_of_handshakes_is_bounded(site: Site) -> None:
    site.policy.write_text(site.rule("cn:node", wrap="local://*"))
    prelude = "limits.AUDITED_HANDSHAKES = 2"
    with Server(site.directory, *site.arguments, *site.tls, prelude=prelude) as server:
        host, _, port = server.target.rpartition(":")
        for number in range(30):
            with socket.create_connection((host, int(port)), 20) as connection:
                connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
                with suppress(ConnectionResetError):
                    connection.recv(100)
            if number == 28:
                time.sleep(1.2)
        wait_for(lambda: server.metrics()[PREFIX + "refused_handshakes_total",] == 30)
    assert len(server.audit) < 30
    assert sum(int(line.get("omitted", 0)) for line in server.audit) + len(server.audit) == 30


def test_what_a_policy_does_not_go_with(site: Site) -> None:
    site.policy.write_text(site.rule("cn:node", wrap="local://*"))
    plain = ("--listen", "127.0.0.1:0", "--client-policy", site.policy)
    tls = tls_options(site.directory)
    for options in (plain, (*plain, "--insecure"), (*plain, *tls)):
        refused = execute("serve", *site.arguments, *options)
        assert (refused.returncode, b"--client-policy needs" in refused.stderr) == (2, True), refused.stderr
    site.policy.write_text("[[rule]]\n")
    refused = execute("serve", *site.arguments, *site.tls)
    assert (refused.returncode, b"policy.toml: rule 1: " in refused.stderr) == (7, True), refused.stderr
    site.policy.unlink()
    refused = execute("serve", *site.arguments, *site.tls)
    assert (refused.returncode, b"No such file" in refused.stderr) == (7, True), refused.stderr


def test_nobody_gets_around_the_door(site: Site) -> None:
    """The gRPC server behind it has a name that local processes can see, and answers nobody who comes by that."""
    site.policy.write_text(site.rule("cn:node", wrap="local://*"))
    with Server(site.directory, *site.arguments, *site.tls) as server:
        process = server.process.pid
        inodes = set()
        for file in Path(f"/proc/{process}/fd").iterdir():
            with suppress(FileNotFoundError):  # it has just been closed
                inodes.add(os.readlink(file).removeprefix("socket:[").removesuffix("]"))
        lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
        (name,) = [line[7] for line in lines if len(line) == 8 and line[6] in inodes and line[7].startswith("@ctd-")]
        with grpc.insecure_channel("unix-abstract:" + name[1:]) as channel:
            assert outcome(channel, WRAP, wrap("a")) == "PERMISSION_DENIED"
    assert server.audit[0]["cause"] == "the connection is not one that this server has accepted"


def test_the_image_is_written_down_if_the_client_tells_it(site: Site) -> None:
    listen = ("--listen", "127.0.0.1:0")
    with Server(site.directory, *site.arguments, *listen) as server, grpc.insecure_channel(server.target) as channel:
        metadata = (("ctd-decoder-image", "registry.example/app:1"),)
        method_of(channel, WRAP)(message(wrap("a")), timeout=20, metadata=metadata)
    assert server.audit[0]["image"] == "registry.example/app:1"
