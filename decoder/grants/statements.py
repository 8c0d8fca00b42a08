"""Signed statements: sealed keys, requests, grants and tombstones, built and parsed (docs/grants.md §Format).

Each statement is a JWS in compact form (RFC 7515 §7.1). Its `typ` is the kind of statement, and its `kid` the
fingerprint of the signing key. A reader names the keys whose signatures it accepts, and then calls `check`, which
compares repository, key and node. Sealed keys and grants contain a key, so they are encrypted to their readers. The
signed content names the readers, so that a reader cannot pass it on to another one unnoticed.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from jwcrypto.common import JWException
from jwcrypto.jwk import JWK
from jwcrypto.jws import JWS

from decoder import limits
from decoder.errors import ImageError, KeyFileError, quoted
from decoder.formats import wire
from decoder.grants import keys
from decoder.grants.errors import StatementError
from decoder.keys.formats import jwk
from decoder.layer.digest import split_digest
from decoder.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from decoder.grants.keys import Keys, OwnKey
    from decoder.keywrap.publickeys import PublicKeyObject

SEALED_KEY, REQUEST, GRANT, TOMBSTONE = "sealed-key", "request", "grant", "tombstone"
DENIED, REVOKED = "denied", "revoked"

ID = re.compile(r"[0-9a-f]{32}")  # 128 random bits
PRINT = re.compile(r"[0-9a-f]{64}")
_TYPE = "application/vnd.ctd-decoder.grants.{}.v1+jws"


class SealedKey(Record):
    """The key of an image, for its owners.

    Attributes:
        repository: the repository of its grants, `HOST/NAME`.
        id: the ID of the key, 32 hexadecimal digits.
        kek: the key-encryption key, 32 bytes.
        owners: the fingerprints of the owners' keys, which can open it.
        layers: the digests of the plain layers.
        made: when it was created, in seconds since 1970.
        signer: the fingerprint of the publisher's key.
    """

    repository: str
    id: str
    kek: bytes
    owners: tuple[str, ...]
    layers: tuple[str, ...]
    made: int
    signer: str = ""


class Request(Record):
    """A node's request for a key. Only `key` is proven, by the signature; everything else is a claim of the node.

    Attributes:
        repository: the repository of the grants, `HOST/NAME`.
        id: the ID of the requested key.
        key: the node's public key.
        name: the name that the node gives itself.
        image: the image that the node wants to run, or "" if it is unknown.
        certificates: the certificate of `key` and its issuers, DER; the leaf first.
        made: when it was created, in seconds since 1970.
    """

    repository: str
    id: str
    key: PublicKeyObject
    name: str
    image: str
    certificates: tuple[bytes, ...]
    made: int

    @property
    def node(self) -> str:
        """The fingerprint of the node's key."""
        return keys.fingerprint(self.key)


class Grant(Record):
    """The key of an image, for one node.

    Attributes:
        repository: the repository of the grants, `HOST/NAME`.
        id: the ID of the image's key.
        node: the fingerprint of the node's key.
        kek: the key-encryption key, 32 bytes.
        layers: the digests of the plain layers; the key may open only these.
        publisher: the fingerprint of the key that signed the sealed key.
        made: when it was created, in seconds since 1970.
        expires: when it ends, in seconds since 1970; 0 for never.
        signer: the fingerprint of the owner's key.
    """

    repository: str
    id: str
    node: str
    kek: bytes
    layers: tuple[str, ...]
    publisher: str
    made: int
    expires: int
    signer: str = ""


class Tombstone(Record):
    """A tombstone: it takes the place of a node's grant if the owner denies or revokes access.

    Attributes:
        repository: the repository of the grants, `HOST/NAME`.
        id: the ID of the image's key.
        node: the fingerprint of the node's key.
        reason: DENIED or REVOKED.
        made: when it was created, in seconds since 1970.
        signer: the fingerprint of the owner's key.
    """

    repository: str
    id: str
    node: str
    reason: str
    made: int
    signer: str = ""


def build_sealed_key(sealed: SealedKey, publisher: OwnKey) -> bytes:
    """Build and sign a sealed key; the caller encrypts it to its owners."""
    claims = {
        **_about(sealed.repository, sealed.id, sealed.made),
        "kek": wire.encode_base64url(sealed.kek),
        "owners": list(sealed.owners),
        "layers": list(sealed.layers),
    }
    return _sign(SEALED_KEY, claims, publisher)


def parse_sealed_key(data: bytes, publishers: Keys) -> SealedKey:
    """Verify and parse a sealed key, after it was decrypted.

    Args:
        data: the JWS, at most GRANTS_STATEMENT_BYTES.
        publishers: the keys whose signature is accepted.

    Raises:
        StatementError: it is malformed, or no publisher signed it.
    """
    claims, signer = _verified(SEALED_KEY, data, publishers)
    with_names(claims, "repository", "id", "iat", "kek", "owners", "layers")
    return SealedKey(
        *_subject(claims), _kek(claims), _texts(claims, "owners", PRINT), _layers(claims), _time(claims, "iat"), signer
    )


def build_grant(grant: Grant, owner: OwnKey) -> bytes:
    """Build and sign a grant; the caller encrypts it to its node and owner."""
    claims = {
        **_about(grant.repository, grant.id, grant.made),
        "node": grant.node,
        "kek": wire.encode_base64url(grant.kek),
        "layers": list(grant.layers),
        "publisher": grant.publisher,
        "exp": grant.expires,
    }
    return _sign(GRANT, claims, owner)


def parse_grant(data: bytes, owners: Keys) -> Grant:
    """Verify and parse a grant, after it was decrypted.

    Args:
        data: the JWS, at most GRANTS_STATEMENT_BYTES.
        owners: the keys whose signature is accepted.

    Raises:
        StatementError: it is malformed, or no owner signed it.
    """
    claims, signer = _verified(GRANT, data, owners)
    with_names(claims, "repository", "id", "iat", "node", "kek", "layers", "publisher", "exp")
    node, publisher = (_text(claims, name, PRINT) for name in ("node", "publisher"))
    times = _time(claims, "iat"), _time(claims, "exp")
    return Grant(*_subject(claims), node, _kek(claims), _layers(claims), publisher, *times, signer)


def build_tombstone(tombstone: Tombstone, owner: OwnKey) -> bytes:
    """Build and sign a tombstone."""
    about = _about(tombstone.repository, tombstone.id, tombstone.made)
    return _sign(TOMBSTONE, {**about, "node": tombstone.node, "reason": tombstone.reason}, owner)


def parse_tombstone(data: bytes, owners: Keys) -> Tombstone:
    """Verify and parse a tombstone.

    Args:
        data: the JWS, at most GRANTS_STATEMENT_BYTES.
        owners: the keys whose signature is accepted.

    Raises:
        StatementError: it is malformed, or no owner signed it.
    """
    claims, signer = _verified(TOMBSTONE, data, owners)
    with_names(claims, "repository", "id", "iat", "node", "reason")
    reason = _text(claims, "reason", re.compile(f"{DENIED}|{REVOKED}"))
    return Tombstone(*_subject(claims), _text(claims, "node", PRINT), reason, _time(claims, "iat"), signer)


def build_request(request: Request, node: OwnKey) -> bytes:
    """Build a request with the node's public key, and sign it with the private key as proof of possession."""
    claims = {**_about(request.repository, request.id, request.made), "name": request.name, "image": request.image}
    claims["certificates"] = [wire.encode_base64(each) for each in request.certificates]
    public = json.loads(JWK.from_pyca(node.public).export_public())
    return _sign(REQUEST, claims, node, {name: value for name, value in public.items() if name != "kid"})


def parse_request(data: bytes) -> Request:
    """Parse a request, and verify that its author has the private key for the public key in it.

    Args:
        data: the JWS, at most GRANTS_REQUEST_BYTES.

    Raises:
        StatementError: it is malformed, or not signed by its own key.
    """
    if len(data) > limits.GRANTS_REQUEST_BYTES:
        raise StatementError(f"the request is longer than {limits.GRANTS_REQUEST_BYTES} bytes")
    header, _ = _header(data)
    try:
        key = jwk.parse_public(wire.object_value(header.get("jwk")))
        claims, _ = _verified(REQUEST, data, {keys.fingerprint(key): key})
        with_names(claims, "repository", "id", "iat", "name", "image", "certificates")
        encoded = wire.list_value(claims["certificates"])
        if len(encoded) > limits.GRANTS_CERTIFICATES:
            raise StatementError(f"the request has more than {limits.GRANTS_CERTIFICATES} certificates")
        certificates = tuple(wire.decode_base64(wire.text_value(each)) for each in encoded)
    except (ValueError, KeyFileError) as error:
        raise StatementError(f"the request is malformed: {error}") from error
    name, image = (_text(claims, each, re.compile(r".*", re.DOTALL)) for each in ("name", "image"))
    return Request(*_subject(claims), key, name, image, certificates, _time(claims, "iat"))


def check(statement: SealedKey | Request | Grant | Tombstone, repository: str, identifier: str, node: str = "") -> None:
    """Check that a statement is the expected one, because a registry can serve any statement in any place.

    Args:
        statement: the statement.
        repository: the expected repository of the grants, `HOST/NAME`.
        identifier: the expected ID of the key.
        node: the expected fingerprint of the node, or "" to accept any.

    Raises:
        StatementError: it is about another repository, key or node.
    """
    what = type(statement).__name__.lower()
    if statement.repository != repository:
        raise StatementError(f"the {what} is about the repository {quoted(statement.repository)}, not {repository}")
    if statement.id != identifier:
        raise StatementError(f"the {what} is about the key {statement.id}, not {identifier}")
    if node and not isinstance(statement, SealedKey) and statement.node != node:
        raise StatementError(f"the {what} is for the node {keys.FINGERPRINT}{statement.node}, not {node}")


def _sign(kind: str, claims: Mapping[str, object], key: OwnKey, public: Mapping[str, object] | None = None) -> bytes:
    header = {"alg": key.algorithm, "typ": _TYPE.format(kind), "kid": keys.fingerprint(key.public)}
    members = (header | {"jwk": public} if public else header, claims)
    signed = ".".join(wire.encode_base64url(json.dumps(each, separators=(",", ":")).encode()) for each in members)
    return f"{signed}.{wire.encode_base64url(key.sign(signed.encode()))}".encode()


def _header(data: bytes) -> tuple[dict[str, object], JWS]:
    """Parse a compact JWS, without verifying it; return its header and the token."""
    if len(data) > limits.GRANTS_STATEMENT_BYTES:
        raise StatementError(f"it is longer than {limits.GRANTS_STATEMENT_BYTES} bytes")
    if not re.fullmatch(rb"[\w-]+\.[\w-]+\.[\w-]+", data, re.ASCII):
        raise StatementError("it is not a JWS in compact form")
    token = JWS()
    try:
        token.deserialize(data.decode())
        return dict(token.jose_header), token
    except (JWException, ValueError, TypeError, RecursionError) as error:
        raise StatementError("it is not a JWS") from error


def _verified(kind: str, data: bytes, signers: Keys) -> tuple[dict[str, object], str]:
    """Return the claims of a JWS, and the fingerprint of the key that signed it.

    Raises:
        StatementError: it is of another kind, or none of these keys signed it.
    """
    header, token = _header(data)
    names = {"alg", "typ", "kid", "jwk"} if kind == REQUEST else {"alg", "typ", "kid"}
    if set(header) != names or header["typ"] != _TYPE.format(kind):
        raise StatementError(f"it is not a {kind}")
    signer = header["kid"]
    if not isinstance(signer, str) or signer not in signers:
        hint = (
            ": name the publisher's public key (--publisher, or `publishers` in a policy)" if kind == SEALED_KEY else ""
        )
        raise StatementError(f"the {kind} is signed by {quoted(signer)}, and that key is not trusted for this{hint}")
    try:
        accepted = keys.algorithms(signers[signer])
        if header["alg"] not in accepted:
            raise StatementError(f"the {kind} is signed with {quoted(header['alg'])}, not {' or '.join(accepted)}")
        token.allowed_algs = list(accepted)
        token.verify(JWK.from_pyca(signers[signer]), str(header["alg"]))
        return wire.parse_object(token.payload), signer
    except (JWException, ValueError, KeyFileError) as error:
        raise StatementError(f"the signature of the {kind} is wrong") from error


def _about(repository: str, identifier: str, made: int) -> dict[str, object]:
    return {"repository": repository, "id": identifier, "iat": made}


def _subject(claims: dict[str, object]) -> tuple[str, str]:
    return _text(claims, "repository", re.compile(r"[\x21-\x7e]+")), _text(claims, "id", ID)


def with_names(claims: Mapping[str, object], *names: str) -> None:
    """Check that exactly these claims are present, because an unknown claim of a later version may restrict the others.

    Raises:
        StatementError: another claim is present, or one is missing.
    """
    if set(claims) != set(names):
        raise StatementError(f"its claims are not exactly {', '.join(names)}")


def _text(claims: Mapping[str, object], name: str, pattern: re.Pattern[str]) -> str:
    value = claims[name]
    if not isinstance(value, str) or len(value) > limits.GRANTS_TEXT_CHARACTERS or not pattern.fullmatch(value):
        raise StatementError(f"its {name} is malformed")
    return value


def _texts(claims: Mapping[str, object], name: str, pattern: re.Pattern[str]) -> tuple[str, ...]:
    value = claims[name]
    if not isinstance(value, list) or not 0 < len(value) <= limits.GRANTS_LAYERS:
        raise StatementError(f"its {name} are malformed")
    return tuple(_text({name: each}, name, pattern) for each in value)


def _layers(claims: Mapping[str, object]) -> tuple[str, ...]:
    layers = _texts(claims, "layers", re.compile(r".+"))
    return tuple(map(_plain_digest, layers))


def _plain_digest(text: str) -> str:
    try:
        split_digest(text)
    except ImageError as error:
        raise StatementError("its layers are malformed") from error
    return text


def _kek(claims: Mapping[str, object]) -> bytes:
    kek = _decoded(wire.decode_base64url, claims["kek"])
    if len(kek) != limits.SYMMETRIC_KEY_BYTES:
        raise StatementError("its kek has a wrong length")
    return kek


def _decoded(decode: Callable[[str], bytes], value: object) -> bytes:
    try:
        return decode(wire.text_value(value))
    except ValueError as error:
        raise StatementError("its kek is malformed") from error


def _time(claims: Mapping[str, object], name: str) -> int:
    value = claims[name]
    if type(value) is not int or not 0 <= value < 2**40:
        raise StatementError(f"its {name} is malformed")
    return value
