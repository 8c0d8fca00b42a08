"""A sample layer, decrypted before a client connects, so that no client waits for one-time initialization."""

from __future__ import annotations

import io
import json
import os
from typing import TYPE_CHECKING, cast

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from decoder import decrypt, limits
from decoder.agent.messages import Request
from decoder.formats import wire
from decoder.keys.privatekey import PrivateKey
from decoder.layer import stream
from decoder.layer.annotations import ENCRYPTED, OCI_TAR, PrivateOptions, build_annotations, build_private_options
from decoder.layer.payload import Descriptor, Payload, build_payload

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import rsa

_PLAINTEXT = bytes(2 * limits.TAIL_BYTES)
# RSA, 1024 bits (PKCS#1 in base64). It is not secret: only the sample layer is encrypted to it. Generating a key
# instead would take 50 ms.
_KEY = (
    "MIICXgIBAAKBgQDMvJ4bHMSSx6skkmzTrKKMK6huQ1q4Caf3ky5bXijHuiVQ+obN3DLYhzG9fVy0KWj8X29Nrecpw0anE1nQ9e9T"
    "E4yTuZQKanIwdNSGDOOwqXOYpfpWhDgtLkR9tbJsiqK5MFmp8EkqguJE2WHsNTznD79EQXimcDj/TGpPlsmnDQIDAQABAoGBAIWk"
    "HWQ/PAU/tnQx7D2js5rhqJkI+D+nde/CMAFODjqJRHB+h936fWofnZU+LnQfj7slJIdFG96D7CuFExy2XFfoRq/HlRwJe1HATrkj"
    "8yuaiPpxyY8zoyq2uKD5sHoB2oM3Wi2HjiBKTHQ+hdsrlhZaEOeZ5zcuLgBFzlD8M0d1AkEA5yn3o617KlWysz5jlLwwSxCShw73"
    "pTY+o2A1WVSsN6gU6D1BQqNZk2l5Zx+iOSs54YOZGhs3pIlCAYcJ6XIwnwJBAOK7yV3hOVGyZSnGeoqbnETd06ObqRewJ65HzvZn"
    "aWIP7ul5SPs6wkoZSfWZvRU8u8Z2+XPpGTyN4kOsWZuH7NMCQQCqk6VQ+mqwSpya96az0kowmgIF9112ZBjEpfG4AWszhqwm00yc"
    "x70JsgMLvaQPW35SkrEfOoZMu5whVGxT/xcxAkEAzIo/5HMz9GGNJZyqG7S5yt6a+HOKnZYKlgytxlgQF6jsDK+fiRS/BX2+3NNu"
    "YmRBuY7HByv32krdHdOzmr2KhQJAUdCbB0I3LWyU+sjWTvDMgi/kUlm/p051ER+HjM2m0UQyWBcViBg+/FdRBW/HswweHxcWryqx"
    "4fwbHi/gp9e0DA=="
)
_SETTINGS = decrypt.Settings(
    keys_directory="",
    keyprovider_config="",
    buffer_bytes=limits.BUFFER_BYTES,
    open_spool=NotImplemented,  # not called: plaintext is released as it comes
    look_up=NotImplemented,  # not called: there is a payload
)


class Rehearsal:
    """A sample layer, and the payload with the key that opens it."""

    def __init__(self) -> None:
        der = wire.decode_base64(_KEY)
        key = cast("rsa.RSAPrivateKey", PrivateKey("", "der", der, b"").load())
        symmetric_key, nonce = os.urandom(limits.SYMMETRIC_KEY_BYTES), os.urandom(limits.NONCE_BYTES)
        ciphertext = io.BytesIO()
        hmac = stream.encrypt(io.BytesIO(_PLAINTEXT), ciphertext, symmetric_key, nonce)
        options = build_private_options(PrivateOptions(symmetric_key, nonce, "sha256:" + 64 * "0"))
        annotations = build_annotations(hmac, {"jwe": [_wrap(options, key.public_key())]})
        descriptor = Descriptor(OCI_TAR + ENCRYPTED, annotations)
        self._payload = build_payload(Payload({"privkeys": [der]}, descriptor))
        self._ciphertext = ciphertext.getvalue()

    def play(self) -> None:
        """Decrypt the layer as if containerd had sent it."""
        decrypt.decrypt_layer(self._payload, io.BytesIO(self._ciphertext), io.BytesIO(), _SETTINGS)

    def request(self) -> Request:
        """Build the request that a client would send for the layer. The caller closes its descriptors."""
        null = os.open(os.devnull, os.O_WRONLY)
        streams = {0: _file(self._ciphertext), 1: null, 2: os.dup(2), 3: _file(self._payload)}
        return Request([], {"PATH": os.defpath}, streams, os.open("/", os.O_PATH | os.O_DIRECTORY))


def _file(content: bytes) -> int:
    file = os.memfd_create("rehearsal")
    os.write(file, content)
    os.lseek(file, 0, os.SEEK_SET)
    return file


def _wrap(options: bytes, key: rsa.RSAPublicKey) -> bytes:
    """Build a flattened JWE (RFC 7516 §7.2.2) without jwcrypto, which `jwe.wrap` would load."""
    content_key, iv = AESGCM.generate_key(256), os.urandom(12)
    protected = _base64url(b'{"alg":"RSA-OAEP-256","enc":"A256GCM"}')
    sealed = AESGCM(content_key).encrypt(iv, options, protected.encode())
    encrypted_key = key.encrypt(content_key, padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None))
    members = {"encrypted_key": encrypted_key, "iv": iv, "ciphertext": sealed[:-16], "tag": sealed[-16:]}
    return json.dumps({"protected": protected, **{name: _base64url(data) for name, data in members.items()}}).encode()


def _base64url(data: bytes) -> str:
    return wire.encode_base64(data).replace("+", "-").replace("/", "_").rstrip("=")
