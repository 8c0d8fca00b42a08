"""JWEs of this project through the reference program."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from jwcrypto.jwk import JWK

from decoder.keywrap import jwe
from tests.support.keywrap import layers
from tests.support.keywrap.jwe_cases import public_jwk
from tests.support.keywrap.layers import ec_key, public_pem, rsa_key
from tests.support.program.processes import REFERENCE, payload_bytes, run_decoder


@pytest.mark.parametrize("kid", [None, "image", "else"])
@pytest.mark.parametrize("key", [rsa_key(), ec_key()], ids=["RSA", "EC"])
def test_the_reference_opens_what_has_key_ids(key: Any, kid: str | None) -> None:
    """One recipient or several, whatever ID the private key has, if any."""
    secret = {**json.loads(JWK.from_pyca(key).export()), "kid": kid or ""}
    pkcs8 = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    own = public_jwk(key, kid="image")
    for recipients in ([own], [public_pem(key)], [public_pem(ec_key(ec.SECP521R1)), public_pem(rsa_key(3072)), own]):
        encrypted = layers.encrypted(b"something", {"jwe": [jwe.wrap(layers.private_options(), recipients)]})
        for private in (pkcs8, json.dumps(secret).encode()):
            payload = payload_bytes(encrypted.descriptor, {"privkeys": [private], "privkeys-passwords": [b""]})
            result = run_decoder(payload, encrypted.ciphertext, program=REFERENCE)
            assert (result.status, result.plaintext) == (0, b"something"), result.errors
