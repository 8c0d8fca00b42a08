"""What is signed: by which keys and algorithms, and that no kind passes for another."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from jwcrypto.jwk import JWK
from jwcrypto.jws import JWS

from decoder import limits
from decoder.formats import wire
from decoder.grants import keys, statements
from decoder.grants.errors import StatementError
from decoder.grants.keys import FileKey
from decoder.grants.statements import DENIED, Grant, Request, SealedKey, Tombstone
from tests.support.image.grants import ID, KEK, LAYER, believed, new_key, of_private
from tests.support.keywrap.layers import rsa_key

REPOSITORY = "registry.example/team/app"
KEY = new_key()
NODE = keys.fingerprint(KEY.public)
TYPE = "application/vnd.ctd-decoder.grants.{}.v1+jws"

Build = Callable[[FileKey], bytes]
Parse = Callable[[bytes], Any]


def sealed_key(key: FileKey) -> bytes:
    return statements.build_sealed_key(SealedKey(REPOSITORY, ID, KEK, (NODE,), (LAYER,), 1), key)


def request(key: FileKey) -> bytes:
    return statements.build_request(Request(REPOSITORY, ID, key.public, "w1", "", (b"x",), 1), key)


def grant(key: FileKey) -> bytes:
    return statements.build_grant(Grant(REPOSITORY, ID, NODE, KEK, (LAYER,), NODE, 1, 2), key)


def tombstone(key: FileKey) -> bytes:
    return statements.build_tombstone(Tombstone(REPOSITORY, ID, NODE, DENIED, 1), key)


BUILD: dict[str, Build] = {"sealed-key": sealed_key, "request": request, "grant": grant, "tombstone": tombstone}


def parsers(key: FileKey) -> dict[str, Parse]:
    signers = believed(key)
    return {
        "sealed-key": lambda data: statements.parse_sealed_key(data, signers),
        "request": statements.parse_request,
        "grant": lambda data: statements.parse_grant(data, signers),
        "tombstone": lambda data: statements.parse_tombstone(data, signers),
    }


def refused(parse: Parse, data: bytes, text: str = "") -> None:
    with pytest.raises(StatementError, match=text or None):
        parse(data)


def parts(data: bytes) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    head, claims, signature = data.decode().split(".")
    return (
        json.loads(wire.decode_base64url(head)),
        json.loads(wire.decode_base64url(claims)),
        wire.decode_base64url(signature),
    )


def signed(header: dict[str, Any], claims: object, key: FileKey) -> bytes:
    """Sign anything."""
    text = ".".join(wire.encode_base64url(json.dumps(each).encode()) for each in (header, claims))
    return f"{text}.{wire.encode_base64url(key.sign(text.encode()))}".encode()


@pytest.mark.parametrize("kind", BUILD)
@pytest.mark.parametrize(
    ("make", "algorithm"),
    [
        (lambda: new_key(ec.SECP256R1), "ES256"),
        (lambda: new_key(ec.SECP384R1), "ES384"),
        (lambda: new_key(ec.SECP521R1), "ES512"),
        (lambda: of_private(rsa_key(2048)), "PS256"),
    ],
    ids=["p256", "p384", "p521", "rsa"],
)
def test_what_is_written_is_read(kind: str, make: Callable[[], FileKey], algorithm: str) -> None:
    key = make()
    data = BUILD[kind](key)
    header, claims, _ = parts(data)
    assert (header["alg"], header["typ"]) == (algorithm, TYPE.format(kind))
    assert header["kid"] == keys.fingerprint(key.public)
    other = JWS()  # another reader of the standard
    other.deserialize(data.decode())
    other.verify(JWK.from_pyca(key.public), algorithm)
    assert json.loads(other.payload) == claims
    found = parsers(key)[kind](data)
    assert (found.repository, found.id, found.made) == (REPOSITORY, ID, 1)


@pytest.mark.parametrize("kind", BUILD)
@pytest.mark.parametrize("other", BUILD)
def test_no_kind_passes_for_another(kind: str, other: str) -> None:
    if kind != other:
        refused(parsers(KEY)[other], BUILD[kind](KEY))


@pytest.mark.parametrize("kind", BUILD)
def test_who_signs_counts(kind: str) -> None:
    data = BUILD[kind](KEY)
    if kind != "request":  # which carries its key
        refused(parsers(new_key())[kind], data, "that key is not trusted")
    header, claims, _ = parts(data)
    refused(parsers(KEY)[kind], signed(header, claims, new_key()), "signature")


@pytest.mark.parametrize("kind", BUILD)
def test_no_bit_can_be_changed(kind: str) -> None:
    data = BUILD[kind](KEY)
    parse = parsers(KEY)[kind]
    for at in range(0, len(data), 7):
        changed = data[:at] + (b"A" if data[at : at + 1] != b"A" else b"B") + data[at + 1 :]
        if changed.rpartition(b".")[0] != data.rpartition(b".")[0]:
            refused(parse, changed)
        refused(parse, data[:at])


@pytest.mark.parametrize("kind", BUILD)
def test_other_algorithms_are_refused(kind: str) -> None:
    header, claims, _ = parts(BUILD[kind](KEY))
    parse = parsers(KEY)[kind]
    for algorithm in ("none", "HS256", "ES384", "RS256", "PS256", 7, None):
        refused(parse, signed({**header, "alg": algorithm}, claims, KEY))
    unsigned = signed({**header, "alg": "none"}, claims, KEY).rpartition(b".")[0] + b"."
    refused(parse, unsigned, "compact form")
    public = JWK(kty="oct", k=wire.encode_base64url(JWK.from_pyca(KEY.public).export_to_pem()))
    confused = JWS(json.dumps(claims))
    confused.add_signature(public, "HS256", json.dumps({**header, "alg": "HS256"}))
    refused(parse, confused.serialize(compact=True).encode(), "HS256")


@pytest.mark.parametrize("kind", BUILD)
def test_headers_and_claims_that_are_not_known_are_refused(kind: str) -> None:
    header, claims, _ = parts(BUILD[kind](KEY))
    parse = parsers(KEY)[kind]
    parse(signed(header, claims, KEY))
    for changes in ({"crit": ["exp"]}, {"b64": False}, {"jku": "https://x"}, {"typ": "JWT"}):
        refused(parse, signed({**header, **changes}, claims, KEY))
    refused(parse, signed(header, {**claims, "more": 1}, KEY), "its claims are not exactly")
    for name in claims:
        left = {each: value for each, value in claims.items() if each != name}
        refused(parse, signed(header, left, KEY), "its claims are not exactly")
        values: list[object] = [None, 7.5, [], "\0", "x" * 600, {"a": 1}, -1]
        for value in values:
            if (name, value) not in (("certificates", None), ("certificates", []), ("name", "\0"), ("image", "\0")):
                refused(parse, signed(header, {**claims, name: value}, KEY))
    refused(parse, signed(header, [claims], KEY))


@pytest.mark.parametrize("kind", BUILD)
def test_other_forms_are_refused(kind: str) -> None:
    data = BUILD[kind](KEY)
    head, claims, signature = data.decode().split(".")
    parse = parsers(KEY)[kind]
    flattened = json.dumps({"protected": head, "payload": claims, "signature": signature}).encode()
    for other in (flattened, b"", b"..", data + b"\n", b" " + data, data + b".", data + b"=", b"\xff" + data):
        refused(parse, other)
    refused(parse, data + b"A" * limits.GRANTS_STATEMENT_BYTES, "longer than")


def test_tokens_may_sign_with_the_older_padding() -> None:
    private = rsa_key(2048)
    header, claims, _ = parts(tombstone(of_private(private)))
    text = ".".join(wire.encode_base64url(json.dumps(each).encode()) for each in ({**header, "alg": "RS256"}, claims))
    signature = private.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())
    data = f"{text}.{wire.encode_base64url(signature)}".encode()
    assert statements.parse_tombstone(data, believed(of_private(private))).reason == DENIED


def test_requests_prove_that_the_node_has_the_key() -> None:
    header, claims, _ = parts(request(KEY))
    others = JWK.from_pyca(new_key().public).export_public(as_dict=True)
    refused(statements.parse_request, signed({**header, "jwk": others}, claims, KEY))
    whole = {**header, "jwk": others, "kid": keys.fingerprint(new_key().public)}
    refused(statements.parse_request, signed(whole, claims, KEY))
    private = JWK.from_pyca(KEY._private).export_private(as_dict=True)
    found = statements.parse_request(signed({**header, "jwk": private}, claims, KEY))
    assert keys.fingerprint(found.key) == NODE  # only the public half is looked at


def test_requests_are_bounded() -> None:
    header, claims, _ = parts(request(KEY))
    many = [wire.encode_base64(b"x")] * (limits.GRANTS_CERTIFICATES + 1)
    refused(statements.parse_request, signed(header, {**claims, "certificates": many}, KEY), "more than 4")
    long = [wire.encode_base64(b"x" * limits.GRANTS_REQUEST_BYTES)]
    refused(statements.parse_request, signed(header, {**claims, "certificates": long}, KEY), "longer than")


def test_a_request_has_room_for_what_a_node_may_send() -> None:
    certificates = (b"x" * limits.GRANTS_CERTIFICATE_BYTES,) * limits.GRANTS_CERTIFICATES
    text = "x" * limits.GRANTS_TEXT_CHARACTERS
    key = of_private(rsa_key(4096))
    data = statements.build_request(Request(REPOSITORY, ID, key.public, text, text, certificates, 1), key)
    assert statements.parse_request(data).certificates == certificates


def test_a_sealed_key_has_room_for_as_many_layers_as_are_allowed() -> None:
    layers = tuple(f"sha512:{number:0128x}" for number in range(limits.GRANTS_LAYERS))
    sealed = SealedKey(REPOSITORY, ID, KEK, (NODE,) * limits.GRANTS_OWNERS, layers, 1)
    data = statements.build_sealed_key(sealed, KEY)
    assert statements.parse_sealed_key(data, believed(KEY)).layers == layers
    owners = [new_key() for _ in range(limits.GRANTS_OWNERS)]
    encrypted = keys.encrypt(data, [owner.public for owner in owners])
    assert len(encrypted) <= limits.GRANTS_ARTIFACT_BYTES
    assert owners[-1].open(encrypted) == data


@pytest.mark.parametrize("digest", ["x", "sha256:", "md5:" + "0" * 32, "sha256:" + "G" * 64, "sha256:" + "0" * 63])
@pytest.mark.parametrize("kind", ["sealed-key", "grant"])
def test_layers_have_digests(kind: str, digest: str) -> None:
    header, claims, _ = parts(BUILD[kind](KEY))
    refused(parsers(KEY)[kind], signed(header, {**claims, "layers": [LAYER, digest]}, KEY), "its layers are malformed")


def test_a_key_to_open_with() -> None:
    refused(KEY.open, keys.encrypt(b"x", [new_key().public]), "it is not encrypted to this key")
    refused(KEY.open, b"junk", "")
