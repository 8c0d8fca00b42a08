"""Any recipient gives a layer that its key opens, with ours and with the reference, or a clear refusal."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jwcrypto.jwk import JWK

from decoder import keywrap
from decoder.errors import KeyFileError
from decoder.keywrap.recipient import RecipientRules
from tests.support.layers import encrypted, private_options
from tests.support.processes import PROGRAM, REFERENCE, payload_bytes, run_decoder
from tests.support.x509_certificates import certificate

if TYPE_CHECKING:
    from pathlib import Path


RSA_BITS = [1024, 1536, 2047, 2048, 2049, 3072, 4096]
CURVES = [ec.SECP224R1, ec.SECP256R1, ec.SECP256K1, ec.SECP384R1, ec.SECP521R1, ec.BrainpoolP256R1]
SUPPORTED = ("secp256r1", "secp384r1", "secp521r1")


@cache
def key_of(kind: int | type[ec.EllipticCurve]) -> Any:
    return rsa.generate_private_key(65537, kind) if isinstance(kind, int) else ec.generate_private_key(kind())


def public_form(key: Any, form: str, members: dict[str, object]) -> bytes:
    public = key.public_key()
    if form == "jwk":
        return json.dumps({**json.loads(JWK.from_pyca(public).export()), **members}).encode()
    if form == "certificate":
        return certificate(public)
    encoding = Encoding.DER if form == "der" else Encoding.PEM
    text: bytes = public.public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)
    return text.replace(b"\n", b"\r\n\r\n") if form == "blank lines" else text


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from([*RSA_BITS, *CURVES]),
    form=st.sampled_from(["pem", "der", "blank lines", "certificate", "jwk"]),
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
def test_any_recipient(  # noqa: PLR0913, PLR0917 - one argument for each thing that varies
    kind: Any, form: str, members: dict[str, object], private: PrivateFormat, scheme: str, weak: bool, tmp_path: Path
) -> None:
    if form == "jwk" and kind in (ec.SECP224R1, ec.BrainpoolP256R1):
        form = "pem"  # no JWK has these curves
    key = key_of(kind)
    path = tmp_path / "recipient"
    path.write_bytes(public_form(key, form, members))
    rules = RecipientRules(bytes, allow_weak_keys=weak)
    try:
        recipients = keywrap.load(scheme).read_recipient(str(path), rules)
        wrapped = keywrap.load(scheme).wrap(private_options(), recipients)
    except KeyFileError as error:
        refused = str(error)
    else:
        refused = ""
    if refused:
        assert is_expected(key, form, members, scheme, weak), refused
        return
    layer = encrypted(b"plain", {scheme: [wrapped]})
    data = key.private_bytes(Encoding.PEM, private, NoEncryption())
    parameters = {
        "privkeys": [data],
        "privkeys-passwords": [b""],
        "x509s": [path.read_bytes()] if scheme == "pkcs7" else [],
    }
    for program in (PROGRAM, REFERENCE):
        result = run_decoder(payload_bytes(layer.descriptor, parameters), layer.ciphertext, program=program)
        if program == REFERENCE and not reads(key, data):
            continue
        assert (result.status, result.plaintext) == (0, b"plain"), (program, result.errors)


def is_expected(key: Any, form: str, members: dict[str, object], scheme: str, weak: bool) -> bool:
    """Tell whether a refusal is right."""
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


def reads(key: Any, data: bytes) -> bool:
    """Tell whether the reference reads the private key: it knows no SEC1 in PEM, and Go no RSA below 1024 bits."""
    return isinstance(key, rsa.RSAPrivateKey) or b"EC PRIVATE KEY" not in data


def test_the_reference_is_there() -> None:
    """Without it, the test above would compare nothing."""
    layer = encrypted(b"plain")
    assert run_decoder(payload_bytes(layer.descriptor, {}), layer.ciphertext, program=REFERENCE).status == 1
