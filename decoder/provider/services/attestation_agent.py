"""Confidential Containers' attestation-agent: keys that a key broker releases to guests (docs/formats.md §6, §8).

An annotation is a packet that names its key, `kbs:///repository/type/tag`. To unwrap, the key is fetched from the
configured sources in their order. To wrap, a key spec (`keyspec`) names the key and its file, which is registered at
a key broker if one is configured.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from uuid import uuid4

from decoder import limits
from decoder.errors import UsageError
from decoder.formats import wire
from decoder.keywrap.kid import ResourceId
from decoder.node import journal
from decoder.provider import Option
from decoder.provider.errors import KeyRefusedError, ProviderError
from decoder.provider.services.choice import NOTHING
from decoder.provider.services.coco.kbs import register
from decoder.provider.services.coco.kbs import source as kbs
from decoder.provider.services.coco.keypath import read_key
from decoder.provider.services.coco.keyspec import KeySpec, parse_keyspec
from decoder.provider.services.coco.packet import IV_BYTES, build_packet, parse_packet, seal
from decoder.provider.services.coco.sources import KINDS, Source, parse_source, unwrap_first

if TYPE_CHECKING:
    from decoder.provider.policy import KeyPolicy
    from decoder.provider.services.coco.kbs.register import Registrar

OPTIONS = (
    Option("source", f"where keys come from, in the order to try: {', '.join(KINDS)}", many=True),
    Option("keys", "the directory that a keypath must be below; a server without it reads no keypath", serving=""),
    *kbs.OPTIONS,
    *register.OPTIONS,
)

# Published with coco_keyprovider, for tests: docs/formats.md §8.
_SAMPLE_KEY = wire.decode_base64("2Zt3BbC6ehaClbOjNnJwsN2bNxv1FMqLm6fwozcR2uo=")
_SAMPLE_KID = ResourceId("default", "test-key", "1")


def create(options: Mapping[str, str], policy: KeyPolicy) -> AttestationAgent:
    """Create the provider; no source and no broker is asked yet.

    Raises:
        UsageError: a source or another option is malformed, or contradicts another one.
        ProviderError: a library is not installed, or a file cannot be read.
    """
    named = options.get("source", "").splitlines()
    if len(named) > limits.COCO_SOURCES:
        raise UsageError(f"there are more than {limits.COCO_SOURCES} sources")
    sources = [parse_source(text, options) for text in named]
    registering = options.get("kbs") or options.get("kbs-auth-key")
    return AttestationAgent(sources, policy, options.get("keys"), register.Registrar(options) if registering else None)


class AttestationAgent:
    """Keys by their ids.

    Args:
        sources: where they come from, to unwrap.
        policy: which ids may be used.
        directory: files of keys to wrap with are below it; "" for none, None for any.
        registrar: registers keys to wrap with, or None.
    """

    def __init__(
        self, sources: Sequence[Source], policy: KeyPolicy, directory: str | None, registrar: Registrar | None
    ) -> None:
        self._sources = sources
        self._policy = policy
        self._directory = directory
        self._registrar = registrar

    def wrap(self, options: bytes, parameters: Sequence[str]) -> bytes:
        """Encrypt private options as a key spec says; see `Provider`."""
        named = list(dict.fromkeys(text for text in parameters if text not in NOTHING))
        if len(named) > 1:
            raise ProviderError(f"it was given {len(named)} key specs, and wraps with one key")
        spec = parse_keyspec(named[0] if named else "")
        if spec.sample:
            journal.warn("a layer was encrypted with the sample key, which everybody knows")
            self._policy.check(str(_SAMPLE_KID))
            iv = bytes(IV_BYTES[spec.algorithm])  # as other programs do; it protects nothing either way
            return build_packet(seal(_SAMPLE_KID, _SAMPLE_KEY, options, spec.algorithm, iv))
        kid = spec.keyid or ResourceId("default", "image-kek", str(uuid4()))
        self._policy.check(str(kid))
        return build_packet(seal(kid, self._key(spec, kid), options, spec.algorithm))

    def unwrap(self, annotation: bytes, parameters: Sequence[str]) -> bytes:
        """Decrypt private options with the key that the packet names; see `Provider`.

        Parameters that are no key specs are what guests tell their own agents, and mean nothing here.
        """
        packet = parse_packet(annotation)
        self._policy.check(str(packet.kid))
        asked = [spec.keyid for spec in map(parse_keyspec, (text for text in parameters if "keyid=" in text))]
        if asked and packet.kid not in asked:
            raise KeyRefusedError(f"the key {packet.kid} is not one that was asked for")
        if not self._sources:
            raise ProviderError(f"the key {packet.kid} can come from nowhere: there is no source")
        return unwrap_first(self._sources, annotation, packet)

    def _key(self, spec: KeySpec, kid: ResourceId) -> bytes:
        """Read or make the key; it is somewhere else too when this returns."""
        if not spec.keypath and not self._registrar:
            raise ProviderError(
                "a new key would be lost: give keypath=FILE (with create=true to make the file), or the options kbs "
                "and kbs-auth-key to register it"
            )
        if not spec.keypath and spec.keyid:
            raise ProviderError(
                f"a new key would take the place of the one that the broker may have as {kid}: give keypath=FILE "
                "(with create=true to make the file), or leave keyid out for a new id"
            )
        key = read_key(spec.keypath, self._directory, spec.create) if spec.keypath else _new_key()
        if self._registrar:
            self._registrar.register(kid, key)
        return key


def _new_key() -> bytes:
    return os.urandom(limits.SYMMETRIC_KEY_BYTES)
