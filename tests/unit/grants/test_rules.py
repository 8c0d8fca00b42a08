"""Certificates that rules accept, and that they do not."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from decoder.grants.approval.rules import Rule, accepting
from decoder.grants.errors import StatementError
from decoder.grants.statements import Request
from tests.support.image.grants import ID

CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
REPOSITORY = "registry.example/team/app"
NOW = datetime.now(UTC).replace(microsecond=0)
CA_KEY = ec.generate_private_key(ec.SECP256R1())
NODE_KEY = ec.generate_private_key(ec.SECP256R1())


def issue(  # noqa: PLR0913 - each is what a test changes
    name: str = "worker-1.example",
    *,
    key: Any = NODE_KEY,
    issuer: tuple[str, Any] = ("ca", CA_KEY),
    days: tuple[int, int] = (-1, 10),
    usage: Any = CLIENT,
    has_names: bool = True,
    is_ca: bool = False,
    signs: bool | None = True,
) -> x509.Certificate:
    """Issue a certificate."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer[0])]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + timedelta(days=days[0]))
        .not_valid_after(NOW + timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(is_ca, None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer[1].public_key()), critical=False)
    )
    if is_ca and signs is not None:
        flags = dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False)
        flags |= {"digital_signature": False, "encipher_only": False, "decipher_only": False}
        builder = builder.add_extension(x509.KeyUsage(**flags, key_cert_sign=signs, crl_sign=True), critical=True)
    elif usage and not is_ca:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    if has_names and not is_ca:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    return builder.sign(issuer[1], hashes.SHA256())


CA = issue("ca", key=CA_KEY, days=(-100, 100), is_ca=True)


def request(*certificates: x509.Certificate, name: str = "", repository: str = REPOSITORY) -> Request:
    ders = tuple(each.public_bytes(Encoding.DER) for each in certificates)
    return Request(repository, ID, NODE_KEY.public_key(), name, "", ders, int(time.time()))


def rule(*names: str, repositories: tuple[str, ...] = ("registry.example/team/*",), days: int = 5) -> Rule:
    return Rule(repositories, (CA,), names or ("worker-*.example",), days)


def refused(found: Request, text: str, *rules: Rule) -> None:
    with pytest.raises(StatementError, match=text):
        accepting(rules or [rule()], found)


def test_a_certificate_of_the_ca() -> None:
    accepted = accepting([rule()], request(issue()))
    assert accepted.name == "worker-1.example"
    assert abs(accepted.expires - time.time() - 5 * 86400) < 100


def test_a_common_name_counts_if_there_is_no_other() -> None:
    """As kubelets have it."""
    found = request(issue("system:node:w1", has_names=False))
    assert accepting([rule("system:node:*")], found).name == "system:node:w1"
    refused(request(issue("worker-1.example")), "matches other", rule("other"))


def test_no_grant_outlives_the_certificate() -> None:
    accepted = accepting([rule(days=3000)], request(issue(days=(-1, 2))))
    assert accepted.expires == int((NOW + timedelta(days=2)).timestamp())


def test_an_intermediate_ca() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    middle = issue("middle", key=key, is_ca=True)
    leaf = issue(issuer=("middle", key))
    assert accepting([rule()], request(leaf, middle)).name == "worker-1.example"
    refused(request(leaf), "not accepted")


@pytest.mark.parametrize(
    ("certificate", "text"),
    [
        (issue(days=(-10, -1)), "not accepted"),
        (issue(days=(1, 10)), "not accepted"),
        (issue(usage=SERVER), "not accepted"),
        (issue(usage=None), "not accepted"),
        (issue(issuer=("ca", ec.generate_private_key(ec.SECP256R1()))), "not accepted"),
        (issue("ca", key=NODE_KEY, issuer=("ca", NODE_KEY)), "not accepted"),
        (issue(is_ca=True), "not accepted"),
        (issue("other.example"), "no name in the certificate, 'other.example', matches"),
        (issue(key=ec.generate_private_key(ec.SECP256R1())), "of another key"),
    ],
    ids=["expired", "not-yet", "server", "no-usage", "wrong-ca", "self-signed", "a-ca", "name", "key"],
)
def test_certificates_that_are_not_accepted(certificate: x509.Certificate, text: str) -> None:
    refused(request(certificate, name="worker-1.example"), text)


def test_a_ca_without_key_usage() -> None:
    """As `openssl req -x509` makes it: RFC 5280 §4.2.1.3 allows every usage then."""
    key = ec.generate_private_key(ec.SECP256R1())
    own = issue("own", key=key, issuer=("own", key), is_ca=True, signs=None)
    found = request(issue(issuer=("own", key)))
    assert accepting([Rule(("*",), (own,), ("worker-*",), 5)], found).name == "worker-1.example"
    other = issue("own", key=key, issuer=("own", key), is_ca=True, signs=False)
    refused(found, "keyUsage without keyCertSign", Rule(("*",), (other,), ("worker-*",), 5))


def test_requests_without_a_certificate() -> None:
    """What a request calls itself is a claim."""
    refused(request(name="worker-1.example"), "no certificate")
    strange = issue().public_bytes(Encoding.DER).replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x6f", 1)
    refused(request()._replace(certificates=(strange,)), "not accepted: '111 is not a valid X509 version'")
    malformed = request()._replace(certificates=(b"junk",))
    refused(malformed, "not accepted")


def test_rules_are_for_repositories() -> None:
    refused(request(issue(), repository="registry.example/other/app"), "no rule is about this repository")
    rules = [rule("x", repositories=("*",)), rule()]
    assert accepting(rules, request(issue())).name == "worker-1.example"
    refused(request(), "no certificate$", *rules)
