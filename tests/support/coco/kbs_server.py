"""A key broker (KBS) on the loopback interface, as strict as the real one in what it accepts.

It shares no code with the client: it has canonical JSON and checks of signatures of its own, and jwcrypto encrypts.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import ssl
import time
from base64 import b64encode, urlsafe_b64decode, urlsafe_b64encode
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from jwcrypto.jwe import JWE
from jwcrypto.jwk import JWK
from jwcrypto.jwt import JWT

from tests.support.network.loopback import Answer, Asked, Loopback, json_answer

_ERRORS = "https://github.com/confidential-containers/kbs/errors/"
_ADMIN = "failed to initialize [admin] configuration: "
_UNVERIFIED = f"{_ADMIN}Admin access denied: Cannot verify token with any of the issuers"
_COOKIE = "kbs-session-id"
_RESOURCE = re.compile(r"/kbs/v0/([\w-]+)/((?:[\w-][\w.-]*/)*[\w-][\w.-]*)(?:\?.*)?", re.ASCII)
_ISSUER_KEY = JWK.generate(kty="EC", crv="P-256")


class KbsError(Exception):
    """An error as the broker answers it; most of them have the status 401."""

    def __init__(self, variant: str, detail: str, status: int = 401) -> None:
        super().__init__(variant)
        self.answer = error_answer(variant, detail, status)


class Session(NamedTuple):
    """What belongs to a cookie; the key is that of an attested guest."""

    nonce: str
    key: dict[str, Any] | None


class KbsServer(Loopback):
    """A broker.

    Attributes:
        resources: by `repository/type/tag`.
        denied: those that the resource policy gives nobody.
        selected_hash: what it chooses in the handshake; "" to say nothing, which means SHA-384.
        admin: the public key of the administrator.
        is_open: takes keys from everybody, as its default configuration does (InsecureAllowAll).
        claims: what the administrator's token must hold besides `role`, `iat` and `exp`.
        verified: the claims of each administrator's token that was accepted.
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        super().__init__(self._answer, context)
        self.resources: dict[str, bytes] = {}
        self.denied: set[str] = set()
        self.selected_hash = ""
        self.admin: ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey | None = None
        self.is_open = False
        self.claims: dict[str, Any] = {"sub": "admin", "aud": ["KBS"]}
        self.verified: list[dict[str, Any]] = []
        self._sessions: dict[str, Session] = {}

    def requests(self) -> list[str]:
        """The methods and paths that were asked for."""
        return [f"{asked.method} {asked.path.removeprefix('/kbs/v0/')}" for asked in self.asked]

    def forget_sessions(self) -> None:
        """Do as a broker that was started again."""
        self._sessions.clear()

    def _answer(self, asked: Asked) -> Answer:
        try:
            return self._dispatch(asked)
        except KbsError as error:
            return error.answer

    def _dispatch(self, asked: Asked) -> Answer:
        if (asked.method, asked.path) == ("POST", "/kbs/v0/auth"):
            return self._auth(asked)
        if (asked.method, asked.path) == ("POST", "/kbs/v0/attest"):
            return self._attest(asked)
        match = _RESOURCE.fullmatch(asked.path)
        if not match:
            raise KbsError("InvalidRequestPath", f"Request path {asked.path} is invalid", 404)
        if match[1] != "resource":
            raise KbsError("PluginNotFound", f"Plugin {match[1]} not found", 404)
        return self._upload(asked, match[2]) if asked.method == "POST" else self._get(asked, match[2])

    def _auth(self, asked: Asked) -> Answer:
        members = _json(asked, {"version", "tee", "extra-params"})
        if members["version"] != "0.4.0":
            mismatch = f"expect =0.4.0 while the request is {members['version']}"
            failed = "Attestation error: RCAR handshake Auth failed: KBS Client Protocol Version Mismatch"
            raise KbsError("AttestationError", f"{failed}: {mismatch}")
        if members["tee"] != "sample" or "sha384" not in members["extra-params"]["supported-hash-algorithms"]:
            raise KbsError("SerdeError", "Serialize/Deserialize failed")
        identity, nonce = secrets.token_hex(16), b64encode(secrets.token_bytes(32)).decode()
        self._sessions[identity] = Session(nonce, None)
        parameters = {"selected-hash-algorithm": self.selected_hash} if self.selected_hash else ""
        cookie = f"{_COOKIE}={identity}; Expires=Wed, 21 Oct 2099 07:28:00 GMT"
        return json_answer({"nonce": nonce, "extra-params": parameters}, Set_Cookie=cookie)

    def _attest(self, asked: Asked) -> Answer:
        session = self._session(asked)
        if session is None:
            raise KbsError("AttestationError", "Attestation error: cookie not found")
        members = _json(asked, {"runtime-data", "tee-evidence"})
        runtime_data, evidence = members["runtime-data"], members["tee-evidence"]
        key = runtime_data["tee-pubkey"]
        bound = canonical({**runtime_data, "additional-evidence": evidence["additional_evidence"]})
        digest = hashlib.new(self.selected_hash or "sha384", bound).digest()
        is_sound = (
            runtime_data.keys() == {"nonce", "tee-pubkey"}
            and runtime_data["nonce"] == session.nonce
            and key.keys() == {"kty", "crv", "alg", "x", "y"}
            and (key["kty"], key["crv"], key["alg"]) == ("EC", "P-256", "ECDH-ES+A256KW")
            and evidence.keys() == {"primary_evidence", "additional_evidence"}
            and evidence["primary_evidence"] == {"svn": "1", "report_data": b64encode(digest).decode()}
        )
        if not is_sound:
            raise KbsError("AttestationError", "Attestation error: RCAR handshake Attest failed")
        self._sessions[_cookie(asked)] = Session(session.nonce, key)
        return json_answer({"token": issue_token(key)})

    def _get(self, asked: Asked, path: str) -> Answer:
        if authorization := asked.headers.get("authorization", ""):
            key = _key_in(authorization.removeprefix("Bearer "))
        elif (session := self._session(asked)) and session.key:
            key = session.key
        else:
            raise KbsError("TokenNotFound", "Attestation Token not found")
        if path in self.denied:
            raise KbsError("PolicyDeny", "Access denied by policy")
        if path not in self.resources:
            raise KbsError("PluginInternalError", "Plugin internal error")
        return json_answer(encrypt(self.resources[path], JWK(**key)))

    def _upload(self, asked: Asked, path: str) -> Answer:
        if asked.headers.get("content-type") != "application/octet-stream":
            raise KbsError("InvalidRequestPath", "another content", 404)
        if not self.is_open:
            token = asked.headers.get("authorization", "").removeprefix("Bearer ")
            self.verified.append(self._claims(token, asked.path))
        self.resources[path] = asked.body
        return Answer(200)

    def _claims(self, token: str, path: str) -> dict[str, Any]:
        """Check an administrator's token, and return what it holds."""
        if not token:
            raise KbsError("AdminAuthInitialization", f"{_ADMIN}Failed to parse HTTP Auth Bearer header")
        try:
            signed, _, signature = token.rpartition(".")
            header, claims = (json.loads(decoded(part)) for part in signed.split("."))
            self._verify(header["alg"], signed.encode(), decoded(signature))
        except (ValueError, InvalidSignature):
            raise KbsError("AdminAuthInitialization", _UNVERIFIED) from None
        now = time.time()
        if (role := claims.get("role")) != "admin":
            denied = f"{_ADMIN}Admin access denied: Role {role} not allowed for path {path}"
            raise KbsError("AdminAuthInitialization", denied)
        if any(claims.get(name) != value for name, value in self.claims.items()):
            raise KbsError("AdminAuthInitialization", _UNVERIFIED)
        if not claims["iat"] - 5 <= now < claims["exp"] <= now + 3600:
            raise KbsError("AdminAuthInitialization", _UNVERIFIED)
        return dict(claims)

    def _verify(self, algorithm: str, signed: bytes, signature: bytes) -> None:
        if algorithm == "EdDSA" and isinstance(self.admin, ed25519.Ed25519PublicKey):
            self.admin.verify(signature, signed)
        elif algorithm == "ES256" and isinstance(self.admin, ec.EllipticCurvePublicKey) and len(signature) == 64:
            r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
            self.admin.verify(encode_dss_signature(r, s), signed, ec.ECDSA(hashes.SHA256()))
        else:
            raise InvalidSignature

    def _session(self, asked: Asked) -> Session | None:
        return self._sessions.get(_cookie(asked))


def error_answer(variant: str, detail: str, status: int = 401) -> Answer:
    return json_answer({"type": _ERRORS + variant, "detail": detail}, status)


def issue_token(public_key: dict[str, Any], seconds: float = 300) -> str:
    """Sign an attestation token that names the key of a guest."""
    claims = {"exp": int(time.time() + seconds), "customized_claims": {"runtime_data": {"tee-pubkey": public_key}}}
    token = JWT(header={"alg": "ES256", "typ": "JWT"}, claims=claims)
    token.make_signed_token(_ISSUER_KEY)
    return str(token.serialize())


def encrypt(resource: bytes, key: JWK, **header: Any) -> dict[str, str]:
    """Encrypt to a guest; members of the header may be others than a broker writes."""
    algorithm = "RSA-OAEP-256" if key["kty"] == "RSA" else "ECDH-ES+A256KW"
    protected = {"alg": algorithm, "enc": "A256GCM", **header}
    token = JWE(resource, json.dumps(protected), algs=[protected["alg"], protected["enc"]])
    token.add_recipient(key)
    names = ("protected", "encrypted_key", "iv", "ciphertext", "tag")
    return dict(zip(names, token.serialize(compact=True).split("."), strict=True))


def canonical(value: Any) -> bytes:
    """RFC 8785, as far as there are no numbers."""
    if isinstance(value, dict):
        names = sorted(value, key=lambda name: name.encode("utf-16-be"))
        return b"{" + b",".join(canonical(name) + b":" + canonical(value[name]) for name in names) + b"}"
    assert isinstance(value, str)
    named = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}
    text = "".join(named.get(sign, sign if sign >= " " else f"\\u{ord(sign):04x}") for sign in value)
    return f'"{text}"'.encode()


def encoded(data: bytes) -> str:
    """Base64url without padding."""
    return urlsafe_b64encode(data).decode().rstrip("=")


def decoded(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _key_in(token: str) -> dict[str, Any]:
    try:
        claims = json.loads(JWT(jwt=token, key=_ISSUER_KEY, algs=["ES256"]).claims)
    except Exception:  # noqa: BLE001 - whatever is wrong with it
        raise KbsError("TokenVerifierError", "Token Verifier error") from None
    return dict(claims["customized_claims"]["runtime_data"]["tee-pubkey"])


def _json(asked: Asked, names: set[str]) -> dict[str, Any]:
    members = json.loads(asked.body)
    if asked.headers.get("content-type") != "application/json" or members.keys() != names:
        raise KbsError("SerdeError", "Serialize/Deserialize failed")
    return dict(members)


def _cookie(asked: Asked) -> str:
    name, _, value = asked.headers.get("cookie", "").partition("=")
    return value if name == _COOKIE else ""
