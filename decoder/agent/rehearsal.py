"""A layer of our own, decrypted before any client comes: what a first time sets up, no client waits for."""

from __future__ import annotations

import io
import json
import os
from typing import cast

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from decoder import decrypt, limits
from decoder.agent.messages import Request
from decoder.formats import wire
from decoder.layer import annotations as layer
from decoder.layer import stream
from decoder.layer.payload import Descriptor, Payload, build_payload

_PLAINTEXT = bytes(2 * limits.TAIL_BYTES)
_KEY_BITS = 1024  # the least that the library makes; nothing depends on this key
_SETTINGS = decrypt.Settings(
    keys_directory="",
    keyprovider_config="",
    buffer_bytes=limits.BUFFER_BYTES,
    open_spool=None,
    look_up=NotImplemented,  # there is a payload
)


class Rehearsal:
    """A layer for a key that is made for it, and the payload that opens it."""

    def __init__(self) -> None:
        key = rsa.generate_private_key(65537, _KEY_BITS)
        symmetric_key, nonce = os.urandom(limits.SYMMETRIC_KEY_BYTES), os.urandom(limits.NONCE_BYTES)
        ciphertext = io.BytesIO()
        source, sink = cast("stream.Source", io.BytesIO(_PLAINTEXT)), cast("stream.Sink", ciphertext)
        hmac = stream.encrypt(source, sink, symmetric_key, nonce)
        options = layer.build_private_options(layer.PrivateOptions(symmetric_key, nonce, "sha256:" + 64 * "0"))
        annotations = layer.build_annotations(hmac, {"jwe": [_wrap(options, key.public_key())]})
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        descriptor = Descriptor(layer.OCI_TAR + layer.ENCRYPTED, annotations)
        self._payload = build_payload(Payload({"privkeys": [pem]}, descriptor))
        self._ciphertext = ciphertext.getvalue()

    def play(self) -> None:
        """Decrypt it as if containerd had sent it."""
        source, sink = cast("stream.Source", io.BytesIO(self._ciphertext)), cast("stream.Sink", io.BytesIO())
        decrypt.decrypt_layer(self._payload, source, sink, _SETTINGS)

    def request(self) -> Request:
        """Make a request for it, such as a client sends; its descriptors are open."""
        null = os.open(os.devnull, os.O_WRONLY)
        streams = {0: _file(self._ciphertext), 1: null, 2: os.dup(2), 3: _file(self._payload)}
        return Request([], {"PATH": os.defpath}, streams, os.open("/", os.O_PATH | os.O_DIRECTORY))


def _file(content: bytes) -> int:
    file = os.memfd_create("rehearsal")
    os.write(file, content)
    os.lseek(file, 0, os.SEEK_SET)
    return file


def _wrap(options: bytes, key: rsa.RSAPublicKey) -> bytes:
    """Write a flattened JWE (RFC 7516 §7.2.2) without the library that `jwe.wrap` loads."""
    content_key, iv = AESGCM.generate_key(256), os.urandom(12)
    protected = _base64url(b'{"alg":"RSA-OAEP-256","enc":"A256GCM"}')
    sealed = AESGCM(content_key).encrypt(iv, options, protected.encode())
    encrypted_key = key.encrypt(content_key, padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None))
    members = {"encrypted_key": encrypted_key, "iv": iv, "ciphertext": sealed[:-16], "tag": sealed[-16:]}
    return json.dumps({"protected": protected, **{name: _base64url(data) for name, data in members.items()}}).encode()


def _base64url(data: bytes) -> str:
    return wire.encode_base64(data).replace("+", "-").replace("/", "_").rstrip("=")
