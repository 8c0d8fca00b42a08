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

# The reference's own form of the parameters: a primitive SEQUENCE around a SEQUENCE of the nonce as [4] and INTEGER 16.
_REFERENCE_NONCE = ber.CONTEXT | 4


class Content(Record):
    """Encrypted content whose algorithm is accepted."""

    algorithm: Callable[[bytes], BlockCipherAlgorithm]
    key_bytes: int
    mode: modes.CBC | modes.GCM
    ciphertext: bytes
    additional_data: bytes


def acceptable_content(envelope: cms.Envelope) -> Content:
    """Return the content if its algorithm is accepted; no key is used for this.

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

        if oid == _DES_CBC:  # done as 3DES with the same key three times
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
    """Read the nonce and the tag, which is in its own field or at the end of the ciphertext."""
    nonce, tag_bytes = _gcm_parameters(envelope.algorithm.parameters)
    if len(nonce) != GCM_NONCE_BYTES or not _GCM_LEAST_TAG_BYTES <= tag_bytes <= GCM_TAG_BYTES:
        raise ValueError("the nonce or the tag of the content has a wrong length")
    ciphertext, tag = envelope.ciphertext, envelope.mac
    if tag is None:
        ciphertext, tag = ciphertext[:-tag_bytes], ciphertext[-tag_bytes:]
    if len(tag) != tag_bytes:
        raise ValueError("the tag of the content does not have the length in its parameters")
    return Content(AES, key_bytes, modes.GCM(nonce, tag, tag_bytes), ciphertext, envelope.additional_data)


def _gcm_parameters(parameters: ber.Element | None) -> tuple[bytes, int]:
    """Return the nonce and the tag's length in bytes, from the form of RFC 5084 §3.2 or the reference's own form."""
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
    """Build the parameters of AES-128-GCM in the reference's own form."""
    inner = ber.der(ber.SEQUENCE, ber.der(_REFERENCE_NONCE, nonce), ber.der(ber.INTEGER, GCM_TAG_BYTES.to_bytes()))
    return ber.Element(ber.PRIMITIVE_SEQUENCE, inner, ber.der(ber.PRIMITIVE_SEQUENCE, inner))


def open_gcm(content: Content, mode: modes.GCM, key: bytes) -> bytes:
    """Decrypt the content and check its tag.

    Raises:
        InvalidTag: the key is wrong, or the content was changed.
    """
    decryptor = Cipher(AES(key), mode).decryptor()
    decryptor.authenticate_additional_data(content.additional_data)
    return decryptor.update(content.ciphertext) + decryptor.finalize()


def open_cbc(content: Content, mode: modes.CBC, key: bytes) -> bytes:
    """Decrypt the content and remove its padding (RFC 5652 §6.3).

    Returns:
        The content if it is private options, otherwise b"". So bad padding looks like bad content, and the padding that
        one wrong key in 256 leaves intact is not mistaken for success.

    Raises:
        WrappedKeyError: the OpenSSL library does not have the cipher.
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
