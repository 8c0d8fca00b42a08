"""Confidential Containers' attestation-agent: keys that a key broker releases to guests (docs/formats.md §6, §8).

An annotation is a packet that names its key, `kbs:///repository/type/tag`. To unwrap, the key is fetched from the
configured sources in their order. To wrap, a key spec (`keyspec`) names the key and its file, which is registered at
a key broker if one is configured.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

from decoder import limits
from decoder.formats import wire
from decoder.keywrap.kid import ResourceId
from decoder.node import journal
from decoder.provider import Checked, Option, Use
from decoder.provider.errors import KeyRefusedError, ProviderError
from decoder.provider.services.choice import NOTHING
from decoder.provider.services.coco.kbs import register
from decoder.provider.services.coco.kbs import source as kbs
from decoder.provider.services.coco.keypath import read_key
from decoder.provider.services.coco.keyspec import KeySpec, parse_keyspec
from decoder.provider.services.coco.packet import (
    CTR_MODE,
    IV_BYTES,
    HubPacket,
    Packet,
    build_packet,
    open_with,
    parse_packet,
    seal,
)
from decoder.provider.services.coco.sources import (
    KINDS,
    TimedSource,
    check_sources,
    parse_sources,
    quoted_name,
    unwrap_first,
)

if TYPE_CHECKING:
    from decoder.provider.policy import KeyPolicy
    from decoder.provider.services.coco.kbs.register import Registrar

OPTIONS = (
    Option("source", f"a source of keys, in the order to try: {', '.join(KINDS)}", many=True),
    Option(
        "source-timeout", "KIND=SECONDS: the time limit of a source of this kind (default: 60; for files 8)", many=True
    ),
    Option("keys", "the directory that every keypath must be below; without it, a server reads no keypath", serving=""),
    Option("allow-sample-key", "open images encrypted with sample=true, whose key is public", flag=True),
    Option("allow-a256ctr", "open packets with A256CTR, which have no integrity protection", flag=True),
    *kbs.OPTIONS,
    *register.OPTIONS,
)

# Published with coco_keyprovider, for tests: docs/formats.md §8.
_SAMPLE_KEY = wire.decode_base64("2Zt3BbC6ehaClbOjNnJwsN2bNxv1FMqLm6fwozcR2uo=")
_SAMPLE_KID = ResourceId("default/test-key/1")


class Allowed(NamedTuple):
    """Unsafe packets that are opened because the operator's configuration allows it.

    Attributes:
        sample_key: packets that the sample key opens.
        a256ctr: packets with A256CTR, which have no authentication, so that an attacker can change them.
    """

    sample_key: bool = False
    a256ctr: bool = False


def create(options: Mapping[str, str], policy: KeyPolicy) -> AttestationAgent:
    """Create the provider, without contacting a source or broker.

    Raises:
        UsageError: a source or another option is malformed, or contradicts another one.
        ProviderError: a library is not installed, or a file cannot be read.
    """
    registering = any(options.get(option.name) for option in register.OPTIONS)
    return AttestationAgent(
        parse_sources(options),
        policy,
        options.get("keys"),
        register.Registrar(options) if registering else None,
        Allowed(bool(options.get("allow-sample-key")), bool(options.get("allow-a256ctr"))),
    )


class AttestationAgent:
    """The keys of Confidential Containers, by their IDs.

    Args:
        sources: the sources of keys for unwrapping.
        policy: which IDs may be used.
        directory: the directory of key files for wrapping; "" to allow no file, None to allow any.
        registrar: registers keys that were used for wrapping, or None.
        allowed: the unsafe packets that are opened.
    """

    def __init__(
        self,
        sources: Sequence[TimedSource],
        policy: KeyPolicy,
        directory: str | None,
        registrar: Registrar | None,
        allowed: Allowed = Allowed(),  # noqa: B008 - it cannot be changed
    ) -> None:
        self._sources = sources
        self._policy = policy
        self._directory = directory
        self._registrar = registrar
        self._allowed = allowed

    def wrap(self, options: bytes, parameters: Sequence[str]) -> Use:
        """Prepare to encrypt private options as a key spec says; see `KeyService`."""
        named = list(dict.fromkeys(text for text in parameters if text not in NOTHING))
        if len(named) > 1:
            raise ProviderError(f"{len(named)} key specs were given; pass only one")
        spec = parse_keyspec(named[0] if named else "")
        if spec.sample:
            journal.warn("a layer was encrypted with the sample key, which everybody knows")
            self._policy.check(str(_SAMPLE_KID))
            iv = bytes(IV_BYTES[spec.algorithm])  # as other programs do; a public key protects nothing anyway
            sealed = build_packet(seal(_SAMPLE_KID, _SAMPLE_KEY, options, spec.algorithm, iv))
            return Use((str(_SAMPLE_KID),), lambda _seconds: sealed, waits=False)
        kid = spec.keyid or ResourceId(f"default/image-kek/{uuid4()}")
        self._policy.check(str(kid))
        return Use((str(kid),), lambda _seconds: build_packet(seal(kid, self._key(spec, kid), options, spec.algorithm)))

    def unwrap(self, annotation: bytes, parameters: Sequence[str]) -> Use:
        """Prepare to decrypt private options with the key that the packet names; see `KeyService`.

        Parameters that are not key specs are for the agents of guests, and are ignored here.
        """
        packet = parse_packet(annotation)
        self._policy.check(packet.key_name)
        asked = [spec.keyid for spec in map(parse_keyspec, (text for text in parameters if "keyid=" in text))]
        if asked and (isinstance(packet, HubPacket) or packet.kid not in asked):
            raise KeyRefusedError(packet.key_name, f"the key {quoted_name(packet)} is not one that was asked for")
        if isinstance(packet, Packet):
            if packet.wrap_type == CTR_MODE and not self._allowed.a256ctr:
                raise ProviderError(
                    "the packet uses A256CTR, which does not show whether it was changed: encrypt the image with "
                    "A256GCM, or set the option allow-a256ctr"
                )
            if options := self._open_with_sample_key(packet):
                return Use((packet.key_name,), lambda _seconds: options, waits=False)
        if not self._sources:
            raise ProviderError(f"the key {quoted_name(packet)} cannot be fetched: no source is configured (source)")
        return Use((packet.key_name,), lambda _seconds: unwrap_first(self._sources, annotation, packet))

    def check(self, seconds: float) -> Checked:
        """Check that each source can be reached; see `CheckableService`."""
        if self._sources:
            return check_sources(self._sources, seconds)
        if self._allowed.sample_key:
            return Checked(["it opens images that were made with the sample key"], [])
        return Checked([], ["no source is configured, so it opens no layer"])

    def _open_with_sample_key(self, packet: Packet) -> bytes:
        """Open a packet that was encrypted with the sample key, if that is allowed; return b"" for other packets."""
        if packet.kid != _SAMPLE_KID:
            return b""
        try:
            options = open_with(_SAMPLE_KEY, packet)
        except ProviderError:
            return b""  # another key with the same ID
        if not self._allowed.sample_key:
            raise ProviderError(
                "the image was made with the sample key, which everybody knows (sample=true): encrypt it with a key of "
                "your own, or set the option allow-sample-key for tests"
            )
        return options

    def _key(self, spec: KeySpec, kid: ResourceId) -> bytes:
        """Read or create the key, and register it at the broker if one is configured."""
        if not spec.keypath and not self._registrar:
            raise ProviderError(
                "a new key would be lost: pass keypath=FILE (with create=true to create the file), or the options kbs "
                "and kbs-auth-key to register it"
            )
        if not spec.keypath and spec.keyid:
            raise ProviderError(
                f"a new key would replace the one that the broker may have as {kid}: pass keypath=FILE "
                "(with create=true to create the file), or leave keyid out for a new ID"
            )
        key = read_key(spec.keypath, self._directory, spec.create) if spec.keypath else _new_key()
        if self._registrar:
            self._registrar.register(kid, key)
        return key


def _new_key() -> bytes:
    return os.urandom(limits.SYMMETRIC_KEY_BYTES)
