"""JWE unwrapping against jwcrypto as an independent writer, and what is refused before key work."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwcrypto.jwe import JWE
from jwcrypto.jwk import JWK

from decoder import keywrap, limits
from decoder.errors import KeyFileError, NoKeyError, WrappedKeyError
from decoder.formats import wire
from decoder.keys.keyring import DecryptConfig, Keyring
from decoder.keys.privatekey import PrivateKey, fingerprint
from decoder.keywrap import jwe
from tests.support.keywrap.jwe_cases import public_jwk
from tests.support.keywrap.layers import ec_key, pem, public_pem, rsa_key

KEY_ALGORITHMS = ["RSA-OAEP", "RSA-OAEP-256", "ECDH-ES+A128KW", "ECDH-ES+A192KW", "ECDH-ES+A256KW"]
CONTENTS = ["A128GCM", "A192GCM", "A256GCM", "A128CBC-HS256", "A192CBC-HS384", "A256CBC-HS512"]
CURVES = [ec.SECP256R1, ec.SECP384R1, ec.SECP521R1]
OPTIONS = b'{"symkey":"","cipheroptions":{}}'


def keys_of(*keys: Any) -> Keyring:
    found = Keyring()
    for number, key in enumerate(keys):
        found.add(f"key{number}", pem(key))
    return found


def unwrap(wrapped: bytes, *keys: Any) -> tuple[bytes | None, list[str]]:
    reasons: list[str] = []
    return jwe.unwrap(wrapped, DecryptConfig(keys_of(*keys)), lambda _key, reason: reasons.append(reason)), reasons


def written_by_jwcrypto(key: Any, algorithm: str, content: str, form: str, **header: Any) -> bytes:
    joined = {"alg": algorithm, "enc": content, **header}
    token = JWE(OPTIONS, protected=json.dumps(joined), algs=[algorithm, content])
    token.add_recipient(JWK.from_pyca(key.public_key()))
    text = token.serialize(compact=form == "compact")
    if form == "general":
        flattened = json.loads(text)
        own = {name: flattened.pop(name) for name in ("header", "encrypted_key") if name in flattened}
        text = json.dumps({**flattened, "recipients": [own]})
    return str(text).encode()


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("algorithm", KEY_ALGORITHMS)
@pytest.mark.parametrize("form", ["compact", "flattened", "general"])
def test_opens_every_algorithm(algorithm: str, content: str, form: str) -> None:
    key = rsa_key() if algorithm.startswith("RSA") else ec_key()
    assert unwrap(written_by_jwcrypto(key, algorithm, content, form), key) == (OPTIONS, [])


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("content", ["A256GCM", "A256CBC-HS512"])
def test_opens_every_curve_with_party_information(curve: type[ec.EllipticCurve], content: str) -> None:
    wrapped = written_by_jwcrypto(ec_key(curve), "ECDH-ES+A256KW", content, "flattened", apu="QWxpY2U", apv="Qm9i")
    assert unwrap(wrapped, ec_key(curve)) == (OPTIONS, [])


@pytest.mark.parametrize("bits", [2048, 3072, 4096])
def test_opens_every_rsa_size(bits: int) -> None:
    assert unwrap(jwe.wrap(OPTIONS, [public_pem(rsa_key(bits))]), rsa_key(bits)) == (OPTIONS, [])


def test_authenticates_aad() -> None:
    token = JWE(OPTIONS, protected='{"alg":"RSA-OAEP","enc":"A256GCM"}', aad=b"with this")
    token.add_recipient(JWK.from_pyca(rsa_key().public_key()))
    wrapped = json.loads(token.serialize())
    assert unwrap(json.dumps(wrapped).encode(), rsa_key())[0] == OPTIONS
    wrapped["aad"] = wrapped["aad"][:-2] + "AA"
    assert unwrap(json.dumps(wrapped).encode(), rsa_key())[0] is None


def test_several_recipients_each_open() -> None:
    recipients: list[Any] = [rsa_key(2048), rsa_key(3072), ec_key(ec.SECP256R1), ec_key(ec.SECP521R1)]
    wrapped = jwe.wrap(OPTIONS, [public_pem(key) for key in recipients])
    for key in recipients:
        assert unwrap(wrapped, key) == (OPTIONS, [])
    assert unwrap(wrapped, ec_key(ec.SECP384R1)) == (None, ["no recipient has a key of this type and size"])


def test_wrap_honours_the_algorithm_of_a_jwk() -> None:
    for key, algorithm in ((rsa_key(), "RSA-OAEP-256"), (ec_key(), "ECDH-ES+A128KW"), (ec_key(), "ECDH-ES")):
        public = {**json.loads(JWK.from_pyca(key.public_key()).export()), "alg": algorithm}
        wrapped = jwe.wrap(OPTIONS, [json.dumps(public).encode()])
        written = json.loads(wrapped)["header"]["alg"]
        assert written == ("ECDH-ES+A256KW" if algorithm == "ECDH-ES" else algorithm)
        assert unwrap(wrapped, key)[0] == OPTIONS


def key_ids(wrapped: bytes) -> list[str]:
    value = json.loads(wrapped)
    return [each["header"]["kid"] for each in value.get("recipients", [value])]


def test_wrap_names_each_key() -> None:
    """A JWK by its own ID, everything else by the fingerprint that messages have."""
    names = [fingerprint(key) for key in (rsa_key(), ec_key())]
    der = ec_key().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    recipients = [public_pem(rsa_key()), der, public_jwk(rsa_key(), kid='Zoë "1"'), public_jwk(ec_key())]
    assert key_ids(jwe.wrap(OPTIONS, recipients)) == [*names, 'Zoë "1"', names[1]]
    for kid in ("", 7, None, "k" * (limits.JWE_KEY_ID_CHARACTERS + 1)):
        assert key_ids(jwe.wrap(OPTIONS, [public_jwk(rsa_key(), kid=kid)])) == [names[0]]


def test_the_key_with_the_id_is_tried_first() -> None:
    keys = keys_of(rsa_key(3072))
    keys.add("jwk", json.dumps({**json.loads(JWK.from_pyca(rsa_key()).export()), "kid": "image"}).encode())
    reasons: list[str] = []
    wrapped = jwe.wrap(OPTIONS, [public_pem(rsa_key(4096)), public_jwk(rsa_key(), kid="image")])
    assert jwe.unwrap(wrapped, DecryptConfig(keys), lambda _key, reason: reasons.append(reason)) == OPTIONS
    assert reasons == []


def test_a_key_that_is_named_by_its_id_or_its_fingerprint() -> None:
    keys = keys_of(rsa_key(3072))
    keys.add("broken", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    keys.add("jwk", json.dumps({**json.loads(JWK.from_pyca(rsa_key()).export()), "kid": "image"}).encode())

    def is_named(public: bytes) -> bool:
        return jwe.names_key(jwe.wrap(OPTIONS, [public]), DecryptConfig(keys))

    assert is_named(public_jwk(ec_key(), kid="image"))
    assert is_named(public_pem(rsa_key()))
    assert not is_named(public_pem(ec_key()))


def test_keeps_some_recipients() -> None:
    wrapped = jwe.wrap(OPTIONS, [public_pem(rsa_key()), public_pem(ec_key()), public_pem(rsa_key(3072))])
    left = jwe.keep(wrapped, [1, 2])
    assert key_ids(left) == [fingerprint(ec_key()), fingerprint(rsa_key(3072))]
    assert unwrap(left, ec_key()) == (OPTIONS, [])
    assert unwrap(left, rsa_key())[0] is None
    with pytest.raises(WrappedKeyError, match=r"^this JWE has only one recipient$"):
        jwe.keep(jwe.wrap(OPTIONS, [public_pem(rsa_key())]), [0])


def test_wrap_reads_what_the_library_wrote(monkeypatch: pytest.MonkeyPatch) -> None:
    recipients = [public_pem(rsa_key()), public_pem(ec_key())]
    other = jwe.wrap(OPTIONS, recipients[::-1])
    monkeypatch.setattr(JWE, "serialize", lambda _token: other.decode())
    with pytest.raises(KeyFileError, match=r"^a recipient could not open what was wrapped to it$"):
        jwe.wrap(OPTIONS, recipients)


def test_wrap_bounds_the_recipients() -> None:
    most = [public_pem(ec_key())] * limits.JWE_RECIPIENTS
    assert unwrap(jwe.wrap(OPTIONS, most), ec_key()) == (OPTIONS, [])
    for recipients in ([], [*most, most[0]]):
        with pytest.raises(KeyFileError, match=f"for 1 to 64 recipients, not {len(recipients)}"):
            jwe.wrap(OPTIONS, recipients)


@pytest.mark.parametrize(
    "recipient", [b"", b"no key", b'{"kty":"oct","k":"AAAA"}', b"{", b"-----BEGIN PUBLIC KEY-----"]
)
def test_wrap_refuses_what_is_no_public_key(recipient: bytes) -> None:
    with pytest.raises(KeyFileError):
        jwe.wrap(OPTIONS, [recipient])


def test_each_recipient_of_wrap_is_one_key() -> None:
    with pytest.raises(KeyFileError, match=r"^it holds several keys$"):
        jwe.wrap(OPTIONS, [public_pem(rsa_key()) + public_pem(ec_key())])


def test_another_key_is_told_apart_from_a_damaged_jwe_by_nothing() -> None:
    """Neither the RSA failure nor the AEAD failure may show (RFC 7516 §11.5)."""
    wrapped = json.loads(jwe.wrap(OPTIONS, [public_pem(rsa_key())]))
    other = rsa_key(2049 - 1)
    texts = []
    for name in ("encrypted_key", "ciphertext", "tag", "iv"):
        raw = bytearray(wire.decode_base64url(wrapped[name]))
        raw[5] ^= 1
        changed = {**wrapped, name: wire.encode_base64(bytes(raw)).replace("+", "-").replace("/", "_").rstrip("=")}
        opened, reasons = unwrap(json.dumps(changed).encode(), other)
        assert opened is None
        texts += reasons
    assert texts == ["it does not open this wrapped key"] * 4


class Untouchable(PrivateKey):
    """A key that fails the test as soon as it is used."""

    def __init__(self) -> None:
        super().__init__("untouchable", "pem", b"", b"")

    def load(self) -> Any:
        raise AssertionError("a key was used before the algorithms were checked")


HEADER = {"alg": "RSA-OAEP", "enc": "A256GCM"}


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({**HEADER, "zip": "DEF"}, "compression"),
        ({**HEADER, "crit": ["exp"], "exp": 1}, "critical"),
        ({**HEADER, "alg": "PBES2-HS256+A128KW", "p2c": 10**9, "p2s": "AAAA"}, "PBES2-HS256"),
        ({**HEADER, "alg": "RSA1_5"}, "RSA1_5"),
        ({**HEADER, "alg": "dir"}, "dir"),
        ({**HEADER, "alg": "ECDH-ES"}, "ECDH-ES"),
        ({**HEADER, "alg": "A256KW"}, "A256KW"),
        ({**HEADER, "alg": "none"}, "none"),
        ({**HEADER, "alg": ["RSA-OAEP"]}, "does not name"),
        ({**HEADER, "alg": None}, "does not name"),
        ({**HEADER, "enc": "A256CTR"}, "A256CTR"),
        ({**HEADER, "enc": {}}, "does not name"),
        ({"alg": "RSA-OAEP"}, "does not name"),
        ({}, "does not name"),
    ],
)
@pytest.mark.parametrize("place", ["protected", "header", "unprotected", "compact"])
def test_refuses_algorithms_before_key_work(header: dict[str, Any], reason: str, place: str) -> None:
    protected = wire.encode_base64(json.dumps(header).encode()).replace("+", "-").replace("/", "_").rstrip("=")
    if place == "compact":
        wrapped = f"{protected}.AAAA.AAAA.AAAA.AAAA".encode()
    else:
        members: dict[str, Any] = {"encrypted_key": "AAAA", "iv": "AAAA", "ciphertext": "AAAA", "tag": "AAAA"}
        members[place] = protected if place == "protected" else header
        wrapped = json.dumps(members).encode()
    keys = Keyring()
    keys.private.append(Untouchable())
    with pytest.raises(WrappedKeyError, match=reason):
        jwe.unwrap(wrapped, DecryptConfig(keys), lambda _key, _reason: None)


@pytest.mark.parametrize(
    "wrapped",
    [
        b"",
        b"x",
        b"a.b.c.d",
        b"a.b.c.d.e.f",
        b"{",
        b"[]",
        b"null",
        b'{"protected":1}',
        b'{"protected":"!"}',
        b'{"protected":"AAAA"}',
        b'{"protected":"bnVsbA"}',
        b'{"recipients":{}}',
        b'{"recipients":[1]}',
        b'{"recipients":[]}',
        b'{"recipients":[{"header":[]}]}',
        b'{"unprotected":"x"}',
        b'{"recipients":[' + b"{}," * limits.JWE_RECIPIENTS + b"{}]}",
        b"[" * 100_000,
        b'{"protected":' + b"9" * 5000 + b"}",
        b"\xff" * 100,
        b" " * (limits.JWE_BYTES + 1),
    ],
)
def test_refuses_what_is_no_jwe(wrapped: bytes) -> None:
    with pytest.raises(WrappedKeyError):
        unwrap(wrapped, rsa_key())


@pytest.mark.parametrize(
    "epk",
    [
        None,
        1,
        {},
        {"crv": "P-256"},
        {"crv": "P-256", "x": 1, "y": 2},
        {"crv": "P-256", "x": "AAAA", "y": "AAAA"},
        {"crv": "P-384", "x": "AAAA", "y": "AAAA"},
        {"crv": "P-256", "x": "_" * 10_000, "y": "AAAA"},
    ],
)
def test_invalid_ephemeral_keys_do_not_open(epk: object) -> None:
    wrapped = json.loads(jwe.wrap(OPTIONS, [public_pem(ec_key())]))
    wrapped["header"]["epk"] = epk
    opened, reasons = unwrap(json.dumps(wrapped).encode(), ec_key())
    assert opened is None
    assert len(reasons) == 1


@pytest.mark.parametrize("content", ["A256GCM", "A128CBC-HS256"])
@pytest.mark.parametrize("key", [rsa_key(1024), ec_key()], ids=["RSA", "EC"])
def test_mutations_never_open_or_crash(key: Any, content: str) -> None:
    """Whatever one byte becomes: refused, not opened, or (only where it means the same) opened."""
    algorithm = "RSA-OAEP" if key is rsa_key(1024) else "ECDH-ES+A256KW"
    wrapped = written_by_jwcrypto(key, algorithm, content, "flattened")
    chance = random.Random(7)
    for _ in range(2500 if content == "A256GCM" else 300):
        changed = bytearray(wrapped)
        changed[chance.randrange(len(changed))] = chance.choice(b'\0"{}[]:,aA0-_.\xff')
        if chance.random() < 0.2:
            del changed[chance.randrange(len(changed)) :]
        try:
            opened, _ = unwrap(bytes(changed), key)
        except WrappedKeyError:
            continue
        assert opened in (None, OPTIONS)


def test_gives_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many wrapped keys there are, each of which may wait for a key service or a token."""
    from decoder.layer import annotations as layer

    annotations = layer.build_annotations(bytes(32), {"jwe": [jwe.wrap(b"x", [public_pem(rsa_key())])] * 2})
    monkeypatch.setattr(limits, "UNWRAP_SECONDS", -1.0)
    monkeypatch.setattr(limits, "UNWRAP_EXTRA_SECONDS", -1.0)
    with pytest.raises(NoKeyError) as caught:
        keywrap.unwrap_any(annotations, DecryptConfig(keys_of(rsa_key())))
    assert str(caught.value).count("given up") == 2


def test_goes_on_within_an_annotation() -> None:
    """One item that is not base64, one that is no JWE and one for somebody else do not hide the fourth."""
    from decoder.layer import annotations as layer
    from tests.support.keywrap.layers import private_options

    fits = jwe.wrap(private_options(), [public_pem(rsa_key())])
    annotations = layer.build_annotations(bytes(32), {"jwe": [b"no JWE", jwe.wrap(b"x", [public_pem(ec_key())]), fits]})
    annotations["org.opencontainers.image.enc.keys.jwe"] = "!," + annotations["org.opencontainers.image.enc.keys.jwe"]
    assert keywrap.unwrap_any(annotations, DecryptConfig(keys_of(rsa_key()))).nonce
