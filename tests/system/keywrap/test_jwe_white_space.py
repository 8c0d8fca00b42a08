"""White space, null members and unknown ones in wrapped keys: what the reference opens, ours opens."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable

import pytest
from jwcrypto.jwe import JWE
from jwcrypto.jwk import JWK

from decoder.layer.annotations import KEYS_PREFIX
from tests.support.keywrap.layers import encrypted, pem, private_options, rsa_key
from tests.support.program.processes import PROGRAM, REFERENCE, payload_bytes, run_decoder

_PROTECTED = {"alg": "RSA-OAEP", "enc": "A256GCM"}


def written(**header: object) -> JWE:
    token = JWE(private_options(), json.dumps({**_PROTECTED, **header}))
    token.add_recipient(JWK.from_pyca(rsa_key()))
    return token


def compact() -> bytes:
    return written().serialize(compact=True).encode()


def flattened(**members: object) -> bytes:
    value = json.loads(written().serialize())
    return json.dumps({**value, **members}).encode()


def folded(text: bytes) -> bytes:
    return b"\n".join(text[at : at + 64] for at in range(0, len(text), 64))


CHANGES: dict[str, Callable[[], bytes]] = {
    "newline": lambda: compact() + b"\n",
    "CRLF around": lambda: b"\r\n " + compact() + b"\r\n",
    "folded": lambda: folded(compact()),
    "blanks at dots": lambda: compact().replace(b".", b" . "),
    "no-break spaces": lambda: "\u00a0".join(compact().decode().partition(".")).encode() + "\u2028\u0085".encode(),
    "JSON with no-break spaces": lambda: "\u00a0{\u00a0".encode() + flattened()[1:],
    "JSON indented": lambda: json.dumps(json.loads(flattened()), indent=4).encode() + b"\n",
    "JSON folded": lambda: folded(flattened()),
    "JSON with an escaped newline": lambda: flattened().replace(b'"ciphertext": "', b'"ciphertext": "\\n'),
    "null members": lambda: flattened(aad=None, header=None, unprotected=None, recipients=None),
    "null in the header": lambda: written(zip=None, kid=None, cty=None).serialize(compact=True).encode(),
    "unknown members": lambda: flattened(anything=[1, {}], version=7),
}


@pytest.mark.parametrize("change", CHANGES)
def test_both_open_it(change: str) -> None:
    layer = encrypted(b"plain", {"jwe": [CHANGES[change]()]})
    keys = {"privkeys": [pem(rsa_key())], "privkeys-passwords": [b""]}
    for program in (PROGRAM, REFERENCE):
        result = run_decoder(payload_bytes(layer.descriptor, keys), layer.ciphertext, program=program)
        assert (result.status, result.plaintext) == (0, b"plain"), (program, result.errors)


@pytest.mark.parametrize("space", ["\n", "\r\n", " \t"])
def test_white_space_in_the_annotation(space: str) -> None:
    layer = encrypted(b"plain", {"jwe": [compact()]})
    text = layer.descriptor["annotations"][KEYS_PREFIX + "jwe"]
    assert base64.b64decode(text)
    layer.descriptor["annotations"][KEYS_PREFIX + "jwe"] = space.join([text[:40], text[40:], ""])
    result = run_decoder(payload_bytes(layer.descriptor, {"privkeys": [pem(rsa_key())]}), layer.ciphertext)
    assert (result.status, result.plaintext) == (0, b"plain"), result.errors
