"""Write certificates, and CMS that no available tool writes, without the project's own code."""

from __future__ import annotations

import datetime
import os
import subprocess
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.serialization import Encoding

RSA_ENCRYPTION = "1.2.840.113549.1.1.1"
RSAES_OAEP = "1.2.840.113549.1.1.7"
MGF1 = "1.2.840.113549.1.1.8"
ENVELOPED_DATA = "1.2.840.113549.1.7.3"
AUTH_ENVELOPED_DATA = "1.2.840.113549.1.9.16.1.23"
AES_256_CBC = "2.16.840.1.101.3.4.1.42"
AES_256_GCM = "2.16.840.1.101.3.4.1.46"
NONCE = bytes(range(12))
IV = bytes(range(16))
NULL = b"\x05\x00"


class Parts(NamedTuple):
    """What `enveloped` joins; a test changes one of them."""

    content_type: str = ENVELOPED_DATA
    originator: bytes = b""
    recipients: tuple[bytes, ...] = ()
    algorithm: bytes = b""
    content: bytes = b""
    attributes: bytes = b""
    mac: bytes = b""


def certificate(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, name: str = "somebody", serial: int = 7) -> bytes:
    """Issue a self-signed certificate, in DER, with a subject key identifier."""
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    start = datetime.datetime(2020, 1, 1)
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), serial, start, start.replace(year=2090))
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return builder.add_extension(identifier, critical=False).sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def openssl_cms(directory: Path, content: bytes, *arguments: str, **files: bytes) -> bytes:
    """Run `openssl cms` over a content; `files` are written beside it, as NAME.der, for the arguments to name."""
    for name, data in {"content": content, **files}.items():
        (directory / f"{name}.der").write_bytes(data)
    command = ["openssl", "cms", "-binary", "-in", "content.der", "-out", "out", *arguments]
    subprocess.run(command, cwd=directory, check=True, timeout=60)
    return (directory / "out").read_bytes()


def der(tag: int, *contents: bytes) -> bytes:
    """Write one element with a definite length of three bytes, which BER permits even where one would do."""
    value = b"".join(contents)
    return bytes([tag, 0x83]) + len(value).to_bytes(3) + value


def oid(dotted: str) -> bytes:
    """Write an object identifier."""
    first, second, *arcs = map(int, dotted.split("."))
    encoded = b""
    for arc in (40 * first + second, *arcs):
        septets = [arc & 0x7F]
        while arc := arc >> 7:
            septets.insert(0, arc & 0x7F | 0x80)
        encoded += bytes(septets)
    return bytes([0x06, len(encoded)]) + encoded


def algorithm(dotted: str, parameters: bytes = b"") -> bytes:
    """Write an AlgorithmIdentifier."""
    return der(0x30, oid(dotted), parameters)


def rfc5084(nonce: bytes = NONCE, length: bytes = b"\x02\x01\x10") -> bytes:
    """Write GCM parameters as the standard has them."""
    return der(0x30, der(0x04, nonce), length)


def oaep(digest: str = "", mask: bytes = b"", source: bytes = b"") -> bytes:
    """Write the algorithm identifier of RSAES-OAEP; empty parts are left out."""
    parts = [der(0xA0, algorithm(digest)) if digest else b"", der(0xA1, mask) if mask else b""]
    return algorithm(RSAES_OAEP, der(0x30, *parts, der(0xA2, source) if source else b""))


def key_transport(
    key: rsa.RSAPrivateKey,
    content_key: bytes,
    identifier: bytes | None = None,
    key_algorithm: bytes = algorithm(RSA_ENCRYPTION, NULL),
) -> bytes:
    """Write a KeyTransRecipientInfo, PKCS#1 v1.5; without an identifier, for `key_identifier`."""
    encrypted = key.public_key().encrypt(content_key, padding.PKCS1v15())
    return der(0x30, b"\x02\x01\x02", identifier or der(0x80, key_identifier(key)), key_algorithm, der(0x04, encrypted))


def key_identifier(key: rsa.RSAPrivateKey) -> bytes:
    """Give the subject key identifier that `certificate` puts into the key's certificate."""
    return x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest


def enveloped(parts: Parts) -> bytes:
    """Write EnvelopedData or AuthEnvelopedData."""
    content = der(0x30, oid("1.2.840.113549.1.7.1"), parts.algorithm, parts.content)
    data = (b"\x02\x01\x00", parts.originator, der(0x31, *parts.recipients), content, parts.attributes, parts.mac)
    return der(0x30, oid(parts.content_type), der(0xA0, der(0x30, *data)))


def gcm_parts(key: rsa.RSAPrivateKey, options: bytes, attributes: bytes = b"", tag_bytes: int = 16) -> Parts:
    """Encrypt to AuthEnvelopedData, AES-256-GCM; `attributes` are contents of a SET, and authenticated."""
    content_key = os.urandom(32)
    encryptor = Cipher(algorithms.AES(content_key), modes.GCM(NONCE)).encryptor()
    if attributes:
        encryptor.authenticate_additional_data(der(0x31, attributes))
    ciphertext = encryptor.update(options) + encryptor.finalize()
    return Parts(
        AUTH_ENVELOPED_DATA,
        b"",
        (key_transport(key, content_key),),
        algorithm(AES_256_GCM, rfc5084(length=der(0x02, bytes([tag_bytes])))),
        der(0x80, ciphertext),
        der(0xA1, attributes) if attributes else b"",
        der(0x04, encryptor.tag[:tag_bytes]),
    )


def cbc_parts(key: rsa.RSAPrivateKey, padded: bytes, content_key: bytes = bytes(range(32))) -> Parts:
    """Encrypt whole blocks to EnvelopedData, AES-256-CBC; the recipient gets the content key as it is."""
    encryptor = Cipher(algorithms.AES(content_key.ljust(32, b"\0")), modes.CBC(IV)).encryptor()
    ciphertext = encryptor.update(padded) + encryptor.finalize()
    recipients = (key_transport(key, content_key),)
    return Parts(ENVELOPED_DATA, b"", recipients, algorithm(AES_256_CBC, der(0x04, IV)), der(0x80, ciphertext))


def indefinite(encoded: bytes) -> bytes:
    """Give every constructed element of DER an indefinite length."""
    rewritten = b""
    while encoded:
        length, start = encoded[1], 2
        if length & 0x80:
            start += length & 0x7F
            length = int.from_bytes(encoded[2:start])
        value, element = encoded[start : start + length], encoded[: start + length]
        rewritten += encoded[:1] + b"\x80" + indefinite(value) + b"\0\0" if encoded[0] & 0x20 else element
        encoded = encoded[start + length :]
    return rewritten
