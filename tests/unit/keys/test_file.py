"""Every form in which people keep private keys, made by the tools that people use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jwcrypto.jwk import JWK

from decoder.errors import KeyFileError
from decoder.keys.directory import add_directory
from decoder.keys.file import recognise
from decoder.keys.keyring import Keyring
from decoder.keys.privatekey import fingerprint
from tests.support.keywrap.layers import ec_key, encrypted, pem, public_pem, rsa_key
from tests.support.program.processes import payload_bytes, run_decoder

PASSWORD = b"correct horse"


def test_jwk_set_and_key_ids() -> None:
    rsa, ec = (JWK.from_pyca(key) for key in (rsa_key(), ec_key()))
    both = json.dumps({"keys": [{**json.loads(key.export()), "kid": kid} for key, kid in ((rsa, "r"), (ec, "e"))]})
    keys = recognise("set", both.encode()).private
    assert [(key.name, key.kid) for key in keys] == [("set#1", "r"), ("set#2", "e")]
    assert [fingerprint(key.load()) for key in keys] == [fingerprint(rsa_key()), fingerprint(ec_key())]
    single = recognise("one", json.dumps({**json.loads(rsa.export()), "kid": ["odd"]}).encode()).private
    assert fingerprint(single[0].load()) == fingerprint(rsa_key())


@pytest.mark.parametrize(
    "jwk",
    [
        JWK.from_pyca(rsa_key().public_key()).export(),
        JWK.generate(kty="oct", size=256).export(),
        JWK.generate(kty="OKP", crv="X25519").export(),
        "{}",
        '{"kty":"RSA"}',
        '{"kty":"RSA","n":1,"e":2,"d":3}',
        '{"kty":"EC","crv":"P-256","x":"AA","y":"AA","d":"AA"}',
        '{"kty":["RSA"]}',
    ],
    ids=["public", "symmetric", "X25519", "empty", "RSA", "RSA-numbers", "EC-off-curve", "kty-list"],
)
def test_unusable_jwks_say_so(jwk: str) -> None:
    with pytest.raises(KeyFileError, match="JWK"):
        recognise("jwk", jwk.encode()).private[0].load()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"\x30",
        b"\x30\x80",
        b"\x30\x84\xff\xff\xff\xff\x02",
        b"\x30\xff" + b"\xff" * 200,
        b"\x30\x03\x30\x01",
        b"{",
        b"{}x",
        b'{"keys":[]}',
        b"-----BEGIN ",
        b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n",
        b"\x99\x01",
        b"text",
        b"\xff" * 100,
        public_pem(rsa_key()),
    ],
)
def test_what_is_no_key_is_refused(data: bytes) -> None:
    with pytest.raises(KeyFileError):
        recognise("x", data)


@pytest.mark.parametrize("length", [b"\x05", b"\xc0\x05", b"\xff\0\0\0\x05"])
def test_a_secret_key_behind_an_openpgp_public_key(length: bytes) -> None:
    """In packets of the current format, with lengths of one, two and five octets (RFC 9580 §4.2.1)."""
    size = 5 + (192 if length[:1] == b"\xc0" else 0)
    public = b"\xc6" + length + bytes(size)
    assert len(recognise("k", public + public + b"\xc5\x05").pgp) == 1
    for data in (public, public + public, public[:-1] + b"\xc5\x05", b"\xc6\xe0\0\xc5\x05"):  # \xe0: partial
        with pytest.raises(KeyFileError, match="an OpenPGP public key"):
            recognise("k", data)


def test_a_password_without_a_key_is_no_key(tmp_path: Path) -> None:
    (tmp_path / "key.pem.pass").write_bytes(PASSWORD)
    keys = Keyring()
    add_directory(keys, str(tmp_path))
    assert keys.notes.warnings == ["'key.pem.pass' was skipped: it holds no key of a known form"]


def test_warnings_do_not_keep_a_layer_from_being_decrypted(tmp_path: Path) -> None:
    layer = encrypted(b"plain")
    (tmp_path / "README").write_text("keys go here")
    (tmp_path / "key.pem").write_bytes(pem(rsa_key()))
    result = run_decoder(payload_bytes(layer.descriptor, {}), layer.ciphertext, "--decryption-keys-path", str(tmp_path))
    assert (result.status, result.plaintext) == (0, b"plain")
    assert result.errors == "ctd-decoder: warning: 'README' was skipped: it holds no key of a known form\n"
