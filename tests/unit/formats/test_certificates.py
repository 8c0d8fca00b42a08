"""Certificates that the library loads, and then cannot read: wherever they are used, that is an error in words."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography import x509

from decoder.doctor.checks import keys as doctor
from decoder.errors import DecoderError
from decoder.formats.certificates import UNREADABLE
from decoder.grants.approval.rules import read_authorities
from decoder.grants.listing import certificate as listed
from decoder.keywrap.pkcs7.naming import subjects_of
from decoder.keywrap.publickeys import read_public_keys
from decoder.keywrap.recipient import RecipientRules
from decoder.node.unixsocket import ListenError
from decoder.provider.client import tls as client
from decoder.provider.errors import ProviderError
from decoder.provider.server.tls import read_certificates
from tests.support.image.command import image
from tests.support.keywrap.layers import encrypted, public_pem, rsa_key
from tests.support.network.odd_certificates import KINDS, odd_certificate
from tests.support.node.doctor_node import KeysNode
from tests.support.program.onelayer import run_layer


def der_of(pem: bytes) -> bytes:
    return base64.b64decode(b"".join(pem.splitlines()[1:-1]))


def examine(path: Path) -> None:
    texts = [finding.text for finding in doctor.check(KeysNode(path.parent))]
    assert any("ca.pem" in text for text in texts), texts


RULES = RecipientRules(bytes)  # no key ring of GnuPG


USES: dict[str, Callable[[Path], object]] = {
    "recipient": lambda path: read_public_keys(path.read_bytes(), RULES),
    "pkcs7 recipient": lambda path: read_public_keys(path.read_bytes(), RULES, certified=True),
    "names of recipients": lambda path: subjects_of([path.read_bytes()]),
    "authorities of approvers": lambda path: read_authorities("--ca", str(path)),
    "list of requests": lambda path: listed(der_of(path.read_bytes())),
    "doctor": examine,
    "authorities of a server": lambda path: read_certificates(str(path)),
    "expiry of a client": lambda path: client._warn_of_expiry(str(path), path.read_bytes()),
    "name of a server": lambda path: client._name_in(der_of(path.read_bytes())),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.filterwarnings("ignore")
def test_every_use_is_an_error_in_words(use: str, tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    for kind in KINDS:
        path.write_bytes(odd_certificate(kind))
        path.chmod(0o600)
        with suppress(DecoderError, ProviderError, ListenError):
            USES[use](path)


@pytest.mark.filterwarnings("ignore")
def test_they_are_odd_in_different_ways() -> None:
    """If the library changes its mind about one of them, another has to take its place."""
    kinds = set()
    for kind in KINDS:
        try:
            found = x509.load_der_x509_certificate(der_of(odd_certificate(kind)))
            found.subject.rfc4514_string()
            found.public_key()
            found.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        except UNREADABLE as error:
            kinds.add(type(error))
    assert len(kinds) >= 6, kinds


def test_the_program_prints_one_line(tmp_path: Path) -> None:
    """The same of warnings of the library: a negative serial number is one."""
    keys = tmp_path / "keys"
    keys.mkdir()
    for kind in KINDS:
        path = keys / "ca.pem"
        path.write_bytes(odd_certificate(kind))
        ended = image("layerinfo", "--dec-recipient", path, f"oci:{tmp_path / 'absent'}")
        assert (ended.status, ended.errors.count("\n")) == (7, 1), (kind, ended.errors)
        key = {"privkeys": [public_pem(rsa_key())], "privkeys-passwords": [b""], "x509s": [path.read_bytes()]}
        result = run_layer(encrypted(b"a layer"), "--decryption-keys-path", str(keys), parameters=key)
        assert result.status == 4, (kind, result.errors)
        assert not re.search(r"internal error|Warning:|\.py:", result.errors), result.errors
