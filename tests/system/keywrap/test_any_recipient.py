"""Any recipient gives an image that its key opens, with ours and with the reference, or a clear refusal.

The reference is imgcrypt's decoder. Where that knows no such key, gpg or openssl opens what was wrapped.
"""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jwcrypto.jwk import JWK

from decoder.formats import wire
from decoder.layer.annotations import parse_private_options
from tests.support.image.any_recipient import Trial
from tests.support.keys.pgp_home import GnupgHome
from tests.support.keys.pkcs11_tokens import TokenStore, softhsm
from tests.support.keywrap.layers import encrypted
from tests.support.keywrap.pkcs11_parts import write_config
from tests.support.network.x509_certificates import certificate
from tests.support.program.processes import REFERENCE, payload_bytes, run_decoder

if TYPE_CHECKING:
    from collections.abc import Iterator

RSA_BITS = [1024, 1536, 2047, 2048, 2049, 3072, 4096]
CURVES = [ec.SECP224R1, ec.SECP256R1, ec.SECP256K1, ec.SECP384R1, ec.SECP521R1, ec.BrainpoolP256R1]
SUPPORTED = ("secp256r1", "secp384r1", "secp521r1")
NO_JWK = (ec.SECP224R1, ec.BrainpoolP256R1)
FORMS = ["pem", "der", "blank lines", "certificate", "jwk"]
WEAK = "--allow-weak-keys"


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    return Trial(tmp_path_factory.mktemp("trial"))


def examples(count: int) -> settings:
    return settings(max_examples=count, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@cache
def key_of(kind: int | type[ec.EllipticCurve]) -> Any:
    return rsa.generate_private_key(65537, kind) if isinstance(kind, int) else ec.generate_private_key(kind())


def public_form(public: Any, form: str, members: dict[str, object]) -> bytes:
    if form == "jwk":
        return json.dumps({**json.loads(JWK.from_pyca(public).export()), **members}).encode()
    if form == "certificate":
        return certificate(public)
    encoding = Encoding.DER if form == "der" else Encoding.PEM
    text: bytes = public.public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)
    return text.replace(b"\n", b"\r\n\r\n") if form == "blank lines" else text


# jwe and pkcs7


@examples(40)
@given(
    kind=st.sampled_from([*RSA_BITS, *CURVES]),
    form=st.sampled_from(FORMS),
    members=st.fixed_dictionaries(
        {},
        optional={
            "alg": st.sampled_from(["RSA-OAEP", "RSA-OAEP-256", "ECDH-ES", "ECDH-ES+A192KW", "RS256", "RSA1_5"]),
            "use": st.sampled_from(["enc", "sig"]),
            "key_ops": st.sampled_from([["encrypt"], ["wrapKey"], ["sign"], ["deriveBits"]]),
            "kid": st.text(max_size=20),
        },
    ),
    private=st.sampled_from([PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL]),
    scheme=st.sampled_from(["jwe", "pkcs7"]),
    weak=st.booleans(),
)
def test_any_key_or_certificate(  # noqa: PLR0913, PLR0917 - one argument for each thing that varies
    kind: Any, form: str, members: dict[str, object], private: PrivateFormat, scheme: str, weak: bool, trial: Trial
) -> None:
    if form == "jwk" and kind in NO_JWK:
        form = "pem"
    key = key_of(kind)
    path = trial.directory / "recipient"
    path.write_bytes(public_form(key.public_key(), form, members))
    written = trial.encrypt(f"{scheme}:{path}", *[WEAK] * weak)
    if isinstance(written, str):
        assert must_refuse(key, form, members, scheme, weak), written
        return
    assert not must_refuse(key, form, members, scheme, weak)
    data = key.private_bytes(Encoding.PEM, private, NoEncryption())
    parameters = {
        "privkeys": [data],
        "privkeys-passwords": [b""],
        "x509s": [path.read_bytes()] if scheme == "pkcs7" else [],
    }
    # The reference knows no SEC1 in PEM.
    written.assert_opens(parameters, with_reference=b"EC PRIVATE KEY" not in data)


def must_refuse(key: Any, form: str, members: dict[str, object], scheme: str, weak: bool) -> bool:
    is_rsa = isinstance(key, rsa.RSAPrivateKey)
    if scheme == "pkcs7" and not (is_rsa and form == "certificate"):
        return True
    if is_rsa and key.key_size < (1024 if weak else 2048):
        return True
    if not is_rsa and key.curve.name not in SUPPORTED:
        return True
    forbidden = members.get("use") == "sig" or members.get("key_ops") == ["sign"]
    family = "RSA-OAEP" if is_rsa else "ECDH-ES"
    return form == "jwk" and (forbidden or not str(members.get("alg", family)).startswith(family))


def test_the_reference_is_there() -> None:
    """Without it, the test above would compare nothing."""
    layer = encrypted(b"plain")
    assert run_decoder(payload_bytes(layer.descriptor, {}), layer.ciphertext, program=REFERENCE).status == 1


# pgp

GOOD = ["rsa2048", "rsa3072", "cv25519", "nistp256", "nistp384", "nistp521"]
# What the refusal of each says; "none" is a certificate that only signs.
BAD = {
    "rsa1024": "RSA",
    "elg1024": "Elgamal",
    "brainpoolP256r1": "ECDH brainpoolP256r1",
    "secp256k1": "ECDH secp256k1",
    "none": "EdDSA",
    "expired": "it expired on 2020-12-31",
    "revoked": "it has been revoked",
}
LONG_AGO = "--faked-system-time=20200101T000000!"


class People:
    """A GnuPG home with one key of each kind, made when it is asked for."""

    def __init__(self, home: GnupgHome) -> None:
        self.home = home
        self._fingerprints: dict[str, str] = {}

    def fingerprint(self, kind: str) -> str:
        if kind not in self._fingerprints:
            self._fingerprints[kind] = self._make(kind)
        return self._fingerprints[kind]

    def _make(self, kind: str) -> str:
        subkey = "cv25519" if kind in ("expired", "revoked") else kind
        options = ["--passphrase=", *[LONG_AGO] * (kind == "expired")]
        until = "1y" if kind == "expired" else "never"
        primary = "rsa2048" if kind.startswith(("rsa", "elg")) else "ed25519"
        self.home.run(*options, "--quick-gen-key", f"{kind}@example.com", primary, "cert,sign", until)
        (fingerprint,) = self.home.fingerprints(f"{kind}@example.com")
        if subkey != "none":
            self.home.run(*options, "--quick-add-key", fingerprint, subkey, "encr", until)
        if kind == "revoked":
            self.home.revoke(fingerprint)
        return fingerprint


@pytest.fixture(scope="module")
def people() -> Iterator[People]:
    home = GnupgHome()
    yield People(home)
    home.close()


@examples(24)
@given(
    kind=st.sampled_from([*GOOD, *BAD]),
    name=st.sampled_from(["email", "plain email", "fingerprint", "key ID"]),
    keyring=st.sampled_from(["home", "binary", "armoured"]),
    weak=st.booleans(),
)
def test_any_openpgp_certificate(kind: str, name: str, keyring: str, weak: bool, people: People, trial: Trial) -> None:
    fingerprint = people.fingerprint(kind)
    email = f"{kind}@example.com"
    names = {"email": f"pgp:{email}", "plain email": email, "key ID": f"pgp:{fingerprint[-16:]}"}
    options = ["--gpg-homedir", str(people.home.path)]
    if keyring != "home":
        path = trial.directory / "keyring"
        path.write_bytes(people.home.run(*["--armor"] * (keyring == "armoured"), "--export"))
        options = ["--gpg-keyring", str(path)]
    written = trial.encrypt(names.get(name, f"pgp:{fingerprint}"), *options, *[WEAK] * weak)
    if isinstance(written, str):
        assert BAD.get(kind, "nothing") in written
        return
    assert kind in GOOD or (kind == "rsa1024" and weak)
    secret = people.home.secret(fingerprint)
    written.assert_opens(
        {"gpg-privatekeys": [secret], "gpg-privatekeys-passwords": [b""]}, with_reference=kind.startswith("rsa")
    )
    parse_private_options(people.home.run("--decrypt", stdin=written.wrapped("pgp")))


# pkcs11

HASH_BYTES = {"sha1": 20, "sha256": 32}
OPTIONS_BYTES = 193


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    store = TokenStore(tmp_path_factory.mktemp("softhsm"))
    store.add_token("layers")
    for number, bits in enumerate((1024, 2048, 3072), 1):
        store.add_key("layers", str(bits), f"0{number}", bits)
    return store


@examples(24)
@given(
    kind=st.sampled_from([1024, 2048, 3072, ec.SECP256R1, ec.SECP256K1]),
    form=st.sampled_from([*FORMS, "key file"]),
    chosen=st.sampled_from(["", "sha1", "SHA256", "md5"]),
    weak=st.booleans(),
)
def test_any_key_on_a_token(kind: Any, form: str, chosen: str, weak: bool, store: TokenStore, trial: Trial) -> None:
    if not isinstance(kind, int) and form == "key file":
        form = "pem"
    config = write_config(trial.directory / "node.conf", softhsm())
    path = trial.directory / "recipient"
    key_file = store.yaml(f"token=layers;object={kind}")
    path.write_bytes(key_file if form == "key file" else public_form(public_on_token(store, kind), form, {}))
    written = trial.encrypt(f"pkcs11:{path}", *[WEAK] * weak, OCICRYPT_CONFIG=str(config), OCICRYPT_OAEP_HASHALG=chosen)
    # SoftHSM has no OAEP with SHA-256, so a key on it gets SHA-1 by default.
    default = "sha1" if form == "key file" else "sha256"
    used = chosen.lower() if chosen.lower() in HASH_BYTES else default
    refused = not isinstance(kind, int) or kind < (1024 if weak else 2048) or room(kind, used) < OPTIONS_BYTES
    assert isinstance(written, str) == refused, written
    if isinstance(written, str):
        return
    parameters = {"pkcs11-yamls": [key_file], "pkcs11-config": [f"allowed-module-paths: [{softhsm()}]\n".encode()]}
    written.assert_opens(parameters, with_reference=used == "sha1")
    (entry,) = json.loads(written.wrapped("pkcs11"))["recipients"]
    assert entry["hash"] == used
    parse_private_options(store.decrypt(str(kind), wire.decode_base64(entry["blob"]), used))


def public_on_token(store: TokenStore, kind: Any) -> Any:
    if not isinstance(kind, int):
        return key_of(kind).public_key()
    return load_pem_private_key((store.directory / f"{kind}.pem").read_bytes(), None).public_key()


def room(bits: int, hash_name: str) -> int:
    """Count the bytes that OAEP holds (RFC 8017 §7.1.1)."""
    return bits // 8 - 2 * HASH_BYTES[hash_name] - 2
