"""The annotation of Confidential Containers, a packet: private options under AES-256, and the id of the key.

Version 1, the one that is written, is `{"kid","wrapped_data","iv","wrap_type"}`. Version 2 also names the key's holder:
a key broker (`"provider":"kbs"`) or a key management service, which only the Confidential Data Hub of a guest can ask.
"""

from __future__ import annotations

import json
import os
import re
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from decoder import limits
from decoder.errors import quoted
from decoder.formats import wire
from decoder.keywrap.kid import ResourceId, parse_kid
from decoder.layer.annotations import parse_private_options
from decoder.provider.errors import ProviderError

GCM, CTR_MODE = "A256GCM", "A256CTR"
IV_BYTES = {GCM: 12, CTR_MODE: 16}
_OLD_NAMES = {"aes_256_gcm": GCM, "aes-gcm": GCM, "aes_256_ctr": CTR_MODE}
_KBS = "kbs"
_PROVIDER = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_VERSION = "0.1.0"
_TAG_BYTES = 16
_NOT_OPENED = "the packet was not wrapped with this key, or was changed"


class NotOpenedError(ProviderError):
    """The result of decrypting a packet without integrity protection is not private options.

    `sources.unwrap_first` hides this error, because a registry that changed the packet must not learn of it.
    """


class Packet(NamedTuple):
    """Wrapped private options.

    Attributes:
        kid: the id of the key.
        wrapped_data: the ciphertext, with the 16-byte tag of A256GCM at its end.
        iv: the initialization vector; its length is in IV_BYTES.
        wrap_type: one of IV_BYTES.
        version: the version member of the packet, "" in version 1, which has none.
    """

    kid: ResourceId
    wrapped_data: bytes
    iv: bytes
    wrap_type: str
    version: str = ""

    @property
    def key_name(self) -> str:
        """The name of the key in policies and messages."""
        return str(self.kid)


class HubPacket(NamedTuple):
    """Private options that a key management service wrapped; only a Confidential Data Hub can have them unwrapped.

    Attributes:
        provider: the service, such as `aws`.
        kid: the name of the key in that service, at most COCO_KID_CHARACTERS.
    """

    provider: str
    kid: str

    @property
    def key_name(self) -> str:
        """The name of the key in policies and messages: `PROVIDER:KID`, which is never the name of a broker's key."""
        return f"{self.provider}:{self.kid}"


def seal(kid: ResourceId, key: bytes, options: bytes, algorithm: str = GCM, iv: bytes = b"") -> Packet:
    """Encrypt private options.

    Args:
        kid: the id of the key.
        key: 32 bytes.
        options: the private options.
        algorithm: one of IV_BYTES.
        iv: its length is in IV_BYTES. Leave it empty for a random one, except in tests: reuse reveals plaintext.
    """
    iv = iv or os.urandom(IV_BYTES[algorithm])
    data = AESGCM(key).encrypt(iv, options, None) if algorithm == GCM else _ctr(key, iv, options)
    return Packet(kid, data, iv, algorithm)


def open_with(key: bytes, packet: Packet) -> bytes:
    """Decrypt private options.

    Raises:
        NotOpenedError: the packet uses A256CTR, which has no tag, and the result is not private options.
        ProviderError: the key does not have 32 bytes, or is not the one that wrapped this packet.
    """
    if len(key) != limits.SYMMETRIC_KEY_BYTES:
        raise ProviderError(f"it has {len(key)} bytes, not the {limits.SYMMETRIC_KEY_BYTES} of a key")
    try:
        if packet.wrap_type == GCM:
            return AESGCM(key).decrypt(packet.iv, packet.wrapped_data, None)
    except (InvalidTag, ValueError) as error:
        raise ProviderError(_NOT_OPENED) from error
    options = _ctr(key, packet.iv, packet.wrapped_data)
    try:
        parse_private_options(options)
    except ValueError as error:
        raise NotOpenedError(_NOT_OPENED) from error
    return options


def build_packet(packet: Packet) -> bytes:
    """Build a packet of version 1, with its members in the order in which other programs write them."""
    members = {
        "kid": str(packet.kid),
        "wrapped_data": wire.encode_base64(packet.wrapped_data),
        "iv": wire.encode_base64(packet.iv),
        "wrap_type": packet.wrap_type,
    }
    return json.dumps(members, separators=(",", ":")).encode()


def parse_packet(annotation: bytes) -> Packet | HubPacket:
    """Parse a packet of either version. Old images use other algorithm names, and integers instead of base64.

    Args:
        annotation: the packet, which comes from a registry; at most PROVIDER_ANNOTATION_BYTES.

    Raises:
        ProviderError: the packet is malformed, or its version or algorithm is unknown.
    """
    if len(annotation) > limits.PROVIDER_ANNOTATION_BYTES:
        raise ProviderError(f"the packet is longer than {limits.PROVIDER_ANNOTATION_BYTES} bytes")
    try:
        members = wire.parse_object(annotation)
        if "version" in members or "provider" in members:
            provider = _check_version_2(members)
            if provider != _KBS:
                return HubPacket(provider, _hub_kid(_text(members, "kid")))
        return Packet(_kid(_text(members, "kid")), *_ciphertext(members), _text(members, "version"))
    except ValueError as error:
        raise ProviderError(f"the packet is malformed: {error}") from error


def _check_version_2(members: dict[str, object]) -> str:
    """Check what version 2 adds, and return the provider; for key brokers the rules are stricter than in version 1."""
    version, provider, kid = (_text(members, name) for name in ("version", "provider", "kid"))
    if version != _VERSION:
        raise ProviderError(f"the packet has the version {quoted(version)}, not {_VERSION}")
    if not provider:
        raise ValueError("it has no provider")
    if not _PROVIDER.fullmatch(provider):
        raise ValueError(f"its provider is {quoted(provider)}")
    if provider == _KBS and not kid.startswith(("kbs://", "kbs+")):
        raise ValueError(f"the kid {quoted(kid)} does not start with kbs://")
    for name in ("provider_settings", "annotations"):
        wire.object_value(members.get(name))
    return provider


def _hub_kid(text: str) -> str:
    if not text or len(text) > limits.COCO_KID_CHARACTERS:
        raise ValueError(f"its kid has {len(text)} characters, not 1 to {limits.COCO_KID_CHARACTERS}")
    return text


def _kid(text: str) -> ResourceId:
    if not text:
        raise ValueError("it has no kid")
    return parse_kid(text)


def _ciphertext(members: dict[str, object]) -> tuple[bytes, bytes, str]:
    named = _text(members, "wrap_type")
    algorithm = _OLD_NAMES.get(named, named)
    if algorithm not in IV_BYTES:
        raise ValueError(f"its wrap_type is {quoted(named)}, not {' or '.join(IV_BYTES)}")
    if named != algorithm and "version" in members:
        raise ValueError(f"its wrap_type is {quoted(named)}, which version {_VERSION} does not know")
    iv, data = _bytes(members, "iv"), _bytes(members, "wrapped_data")
    if len(iv) != IV_BYTES[algorithm]:
        raise ValueError(f"its iv has {len(iv)} bytes, not {IV_BYTES[algorithm]}")
    tag = _TAG_BYTES if algorithm == GCM else 0
    if not tag < len(data) <= limits.PRIVATE_OPTIONS_BYTES + tag:
        raise ValueError(f"its wrapped_data has {len(data)} bytes")
    return data, iv, algorithm


def _text(members: dict[str, object], name: str) -> str:
    return wire.named(f"its {name}", wire.text_value, members.get(name))


def _bytes(members: dict[str, object], name: str) -> bytes:
    if members.get(name) is None:
        raise ValueError(f"it has no {name}")
    return wire.named(f"its {name}", wire.bytes_value, members[name])


def _ctr(key: bytes, iv: bytes, data: bytes) -> bytes:
    cipher = Cipher(AES(key), CTR(iv)).encryptor()
    return cipher.update(data) + cipher.finalize()
