"""Envelopes: one key-encryption key for all layers of an image, which the key service unwraps once.

`image encrypt` makes a key-encryption key (KEK) for each recipient, has the provider wrap it once, and encrypts the
private options of every layer with it. The annotation of a layer holds both:

    {"key_url":…,"wrapped_key":BASE64,"wrap_type":"ctd-kek/1","provider":NAME,"iv":BASE64,"wrapped_data":BASE64}

`wrapped_key` is the provider's own annotation for the KEK, the result of its `wrap`. `key_url` is the key that this
annotation names ("" if it names none, as with pkcs11). `wrapped_data` is the private options, encrypted with the KEK,
AES-256-GCM and the 12-byte `iv`, followed by the tag; the associated data is the JSON array of `wrap_type`, `provider`
and `key_url`. The provider wraps KEK_PREFIX followed by the 32 bytes of the KEK, so that a KEK and private options
cannot be confused.
"""

from __future__ import annotations

import json
import os

from decoder import limits
from decoder.formats import wire
from decoder.provider.errors import ProviderError
from decoder.record import Record

WRAP_TYPE = "ctd-kek/1"
KEK_PREFIX = b"ctd-kek/1:"
# Providers whose annotations other programs read; they write envelopes only on request, or never.
WITHOUT_ENVELOPES = ("attestation-agent", "gcpkms")
# Providers that never release a key-encryption key, because they check every layer.
WITHOUT_KEKS = ("grants",)

_KEY_BYTES = 32
_IV_BYTES = 12
_TAG_BYTES = 16


class Envelope(Record):
    """The parts of an annotation.

    Attributes:
        provider: the name of the provider that wrapped the key-encryption key.
        key_url: the key that wrapped it, or "".
        wrapped_kek: the provider's own annotation.
        iv: 12 bytes.
        data: ciphertext and tag.
    """

    provider: str
    key_url: str
    wrapped_kek: bytes
    iv: bytes
    data: bytes


def new_kek() -> bytes:
    """Create a key-encryption key, with its prefix, for a provider to wrap."""
    return KEK_PREFIX + os.urandom(_KEY_BYTES)


def check_kek(kek: bytes) -> bytes:
    """Return the argument if it is a key-encryption key with its prefix.

    Raises:
        ProviderError: it is not.
    """
    if not is_kek(kek):
        raise ProviderError("the wrapped key is not a key-encryption key")
    return kek


def is_kek(data: bytes) -> bool:
    """Check whether data is a key-encryption key with its prefix."""
    return data.startswith(KEK_PREFIX) and len(data) == len(KEK_PREFIX) + _KEY_BYTES


def seal(kek: bytes, provider: str, wrapped_kek: bytes, options: bytes) -> bytes:
    """Build the annotation of a layer.

    Args:
        kek: the key-encryption key, with its prefix.
        provider: the name of the provider that wrapped it.
        wrapped_kek: the provider's own annotation of it.
        options: the private options.
    """
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    key_url = _key_url_of(wrapped_kek)
    iv = os.urandom(_IV_BYTES)
    data = AESGCM(kek[len(KEK_PREFIX) :]).encrypt(iv, options, _associated_data(provider, key_url))
    members = {
        "key_url": key_url,
        "wrapped_key": wire.encode_base64(wrapped_kek),
        "wrap_type": WRAP_TYPE,
        "provider": provider,
        "iv": wire.encode_base64(iv),
        "wrapped_data": wire.encode_base64(data),
    }
    return json.dumps(members, separators=(",", ":")).encode()


def parse(annotation: bytes) -> Envelope | None:
    """Parse the annotation of a layer.

    Returns:
        Its parts, or None if it is not an envelope.

    Raises:
        ProviderError: the envelope is malformed, or its `key_url` differs from the one in its wrapped key.
    """
    if not is_envelope(annotation) or len(annotation) > limits.PROVIDER_MESSAGE_BYTES:
        return None
    try:
        members = wire.parse_object(annotation)
    except ValueError:
        return None
    if wire.member(members, "wrap_type") != WRAP_TYPE:
        return None
    try:
        provider, key_url = (wire.text_value(wire.member(members, name)) for name in ("provider", "key_url"))
        wrapped, iv, data = (
            wire.bytes_value(wire.member(members, name)) for name in ("wrapped_key", "iv", "wrapped_data")
        )
    except ValueError as error:
        raise ProviderError(f"the annotation is malformed: {error}") from error
    if len(iv) != _IV_BYTES or not _TAG_BYTES <= len(data) <= limits.PRIVATE_OPTIONS_BYTES + _TAG_BYTES:
        raise ProviderError("the iv or the wrapped_data of the annotation has a wrong length")
    if _key_url_of(wrapped) != key_url:
        raise ProviderError("the annotation names another key than its wrapped key does")
    return Envelope(provider, key_url, wrapped, iv, data)


def is_envelope(annotation: bytes) -> bool:
    """Check whether an annotation may be an envelope, without parsing it."""
    return WRAP_TYPE.encode() in annotation


def open_with(kek: bytes, envelope: Envelope) -> bytes:
    """Decrypt the private options of a layer.

    Args:
        kek: the key-encryption key, with its prefix.
        envelope: the annotation.

    Raises:
        ProviderError: this is not a key-encryption key or not the right one, or the annotation was changed.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    key = check_kek(kek)[len(KEK_PREFIX) :]
    try:
        return AESGCM(key).decrypt(envelope.iv, envelope.data, _associated_data(envelope.provider, envelope.key_url))
    except InvalidTag as error:
        raise ProviderError("the key-encryption key does not open the annotation; one of them was changed") from error


def _associated_data(provider: str, key_url: str) -> bytes:
    return json.dumps([WRAP_TYPE, provider, key_url], separators=(",", ":")).encode()


def _key_url_of(wrapped_kek: bytes) -> str:
    """Return the key that a provider's own annotation names, or ""."""
    try:
        return wire.text_value(wire.member(wire.parse_object(wrapped_kek), "key_url"))
    except ValueError as error:
        raise ProviderError(f"the wrapped key-encryption key is malformed: {error}") from error
