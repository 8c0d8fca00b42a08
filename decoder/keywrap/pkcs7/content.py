"""The encrypted content of CMS (RFC 5652 §6.3, RFC 5084): AES-GCM, AES-CBC, 3DES-CBC and DES-CBC."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES

from decoder.errors import WrappedKeyError
from decoder.formats import ber
from decoder.layer.annotations import parse_private_options
from decoder.record import Record

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers import BlockCipherAlgorithm

    from decoder.keywrap.pkcs7 import cms

_AES = bytes.fromhex("608648016503040100")[:-1]  # 2.16.840.1.101.3.4.1
_CBC_KEY_BYTES = {_AES + b"\x02": 16, _AES + b"\x16": 24, _AES + b"\x2a": 32}
GCM_KEY_BYTES = {_AES + b"\x06": 16, _AES + b"\x1a": 24, _AES + b"\x2e": 32}
AES_128_GCM = _AES + b"\x06"
_DES_CBC = bytes.fromhex("2b0e030207")  # 1.3.14.3.2.7
_DES_EDE3_CBC = bytes.fromhex("2a864886f70d0307")  # 1.2.840.113549.3.7

GCM_NONCE_BYTES = 12
GCM_TAG_BYTES = 16
_GCM_LEAST_TAG_BYTES = 12  # RFC 5084 §3.2, and the default there

# The reference's own shape: SEQUENCE, but primitive, of a SEQUENCE of [4] nonce and INTEGER 16.
_REFERENCE_NONCE = ber.CONTEXT | 4


class Content(Record):
    """Encrypted content whose algorithm is accepted."""

    algorithm: Callable[[bytes], BlockCipherAlgorithm]
    key_bytes: int
    mode: modes.CBC | modes.GCM
    ciphertext: bytes
    additional_data: bytes


def acceptable_content(envelope: cms.Envelope) -> Content:
    """Read the content, if its algorithm is accepted; no key has been used yet.

    Raises:
        ValueError: it is malformed, or its algorithm is not accepted.
    """
    oid = envelope.algorithm.oid
    if oid in GCM_KEY_BYTES:
        return _gcm(envelope, GCM_KEY_BYTES[oid])
    if envelope.mac is None and oid in _CBC_KEY_BYTES:
        return _cbc(envelope, AES, _CBC_KEY_BYTES[oid], 16)
    if envelope.mac is None and oid in (_DES_EDE3_CBC, _DES_CBC):
        from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES

        if oid == _DES_CBC:  # which is 3DES with one key three times
            return _cbc(envelope, lambda key: TripleDES(key * 3), 8, 8)
        return _cbc(envelope, TripleDES, 24, 8)
    raise ValueError(f"the content encryption {ber.dotted(oid)} is not accepted")


def _cbc(
    envelope: cms.Envelope, algorithm: Callable[[bytes], BlockCipherAlgorithm], key_bytes: int, block_bytes: int
) -> Content:
    """Read the IV (RFC 3370 §5.1, RFC 3565 §2.2)."""
    parameters = envelope.algorithm.parameters
    if parameters is None or parameters.tag != ber.OCTET_STRING or len(parameters.value) != block_bytes:
        raise ValueError("the IV is absent or of a wrong length")
    if not envelope.ciphertext or len(envelope.ciphertext) % block_bytes:
        raise ValueError("the encrypted content is not made of whole blocks")
    return Content(algorithm, key_bytes, modes.CBC(parameters.value), envelope.ciphertext, b"")


def _gcm(envelope: cms.Envelope, key_bytes: int) -> Content:
    """Read the nonce, and take the tag from where it is: in its own field, or at the ciphertext's end."""
    nonce, tag_bytes = _gcm_parameters(envelope.algorithm.parameters)
    if len(nonce) != GCM_NONCE_BYTES or not _GCM_LEAST_TAG_BYTES <= tag_bytes <= GCM_TAG_BYTES:
        raise ValueError("the nonce or the tag of the content has a wrong length")
    ciphertext, tag = envelope.ciphertext, envelope.mac
    if tag is None:
        ciphertext, tag = ciphertext[:-tag_bytes], ciphertext[-tag_bytes:]
    if len(tag) != tag_bytes:
        raise ValueError("the tag of the content has not the length that its parameters say")
    return Content(AES, key_bytes, modes.GCM(nonce, tag, tag_bytes), ciphertext, envelope.additional_data)


def _gcm_parameters(parameters: ber.Element | None) -> tuple[bytes, int]:
    """Read nonce and tag length in bytes, as in RFC 5084 §3.2 or in the reference's own shape."""
    if parameters is None or parameters.tag not in (ber.SEQUENCE, ber.PRIMITIVE_SEQUENCE):
        raise ValueError("the content has no GCM parameters")
    fields = ber.Reader(parameters.value)
    if parameters.tag == ber.PRIMITIVE_SEQUENCE:
        fields = ber.Reader(fields.take(ber.SEQUENCE).value)
        nonce = fields.take(_REFERENCE_NONCE).value
    else:
        nonce = ber.take_octets(fields)
    length = fields.optional(ber.INTEGER)
    fields.end()
    return nonce, int.from_bytes(length.value) if length else _GCM_LEAST_TAG_BYTES


def reference_parameters(nonce: bytes) -> ber.Element:
    """Build the parameters of AES-128-GCM in the reference's own shape."""
    inner = ber.der(ber.SEQUENCE, ber.der(_REFERENCE_NONCE, nonce), ber.der(ber.INTEGER, GCM_TAG_BYTES.to_bytes()))
    return ber.Element(ber.PRIMITIVE_SEQUENCE, inner, ber.der(ber.PRIMITIVE_SEQUENCE, inner))


def open_gcm(content: Content, mode: modes.GCM, key: bytes) -> bytes:
    """Decrypt and check the tag.

    Raises:
        InvalidTag: it is wrong.
    """
    decryptor = Cipher(AES(key), mode).decryptor()
    decryptor.authenticate_additional_data(content.additional_data)
    return decryptor.update(content.ciphertext) + decryptor.finalize()


def open_cbc(content: Content, mode: modes.CBC, key: bytes) -> bytes:
    """Decrypt and remove the padding (RFC 5652 §6.3).

    Returns:
        What is private options, or b"": bad padding and bad contents look the same, and a wrong key does not give one
        thing in 256 for the caller to take for private options.
    """
    from cryptography.hazmat.primitives.padding import PKCS7

    algorithm = content.algorithm(key)
    try:
        decryptor = Cipher(algorithm, mode).decryptor()
    except UnsupportedAlgorithm as error:
        raise WrappedKeyError(f"this OpenSSL library has no {algorithm.name}") from error
    unpadder = PKCS7(algorithm.block_size).unpadder()
    try:
        options = unpadder.update(decryptor.update(content.ciphertext) + decryptor.finalize()) + unpadder.finalize()
        parse_private_options(options)
    except ValueError:
        return b""
    return options
