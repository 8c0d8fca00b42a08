"""The annotations of an encrypted layer, parsed and built (ocicrypt's spec/ADVANCED layout).

`….enc.pubopts` holds the public options; each `….enc.keys.SCHEME` holds wrapped private options.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from decoder import limits
from decoder.errors import LayerError, PayloadError, quoted
from decoder.formats import wire
from decoder.record import Record

PUBLIC_OPTIONS = "org.opencontainers.image.enc.pubopts"
KEYS_PREFIX = "org.opencontainers.image.enc.keys."
CIPHER = "AES_256_CTR_HMAC_SHA256"

ENCRYPTED = "+encrypted"
OCI_TAR = "application/vnd.oci.image.layer.v1.tar"
_NONDISTRIBUTABLE_TAR = "application/vnd.oci.image.layer.nondistributable.v1.tar"
_DOCKER_TAR = "application/vnd.docker.image.rootfs.diff.tar"
_DOCKER_FOREIGN_TAR = "application/vnd.docker.image.rootfs.foreign.diff.tar"
DECODABLE = frozenset(
    f"{tar}{compression}{ENCRYPTED}"
    for tar, separator in (
        (OCI_TAR, "+"),
        (_NONDISTRIBUTABLE_TAR, "+"),
        (_DOCKER_TAR, "."),
        (_DOCKER_FOREIGN_TAR, "."),
    )
    for compression in ("", f"{separator}gzip", f"{separator}zstd")
)


class WrappedKey(Record):
    """A wrapped key: private options, encrypted to some key.

    Attributes:
        annotation: the name of the annotation that holds it.
        number: its position there, from 0.
        text: the base64.
    """

    annotation: str
    number: int
    text: str

    @property
    def scheme(self) -> str:
        """The scheme that wrapped it, from the annotation's name: `jwe`, or `provider.NAME`."""
        return self.annotation.removeprefix(KEYS_PREFIX)


class PrivateOptions(Record):
    """The content of a wrapped key: the 32-byte key, the 16-byte nonce, and the digest of the plain layer."""

    symmetric_key: bytes
    nonce: bytes
    digest: str


class PublicOptions(Record):
    """The options that anybody can read and change: the HMAC, and a nonce that some writers put here by mistake."""

    hmac: bytes
    nonce: bytes


class LayerKey(Record):
    """All that the cipher loop needs: 32-byte key, 16-byte nonce, and the 32-byte HMAC to expect."""

    symmetric_key: bytes
    nonce: bytes
    hmac: bytes


def check_media_type(media_type: str) -> None:
    """Check that a media type is that of an encrypted layer.

    Raises:
        PayloadError: it is not a layer type of OCI or Docker with `+encrypted`.
    """
    if media_type not in DECODABLE:
        raise PayloadError(f"the descriptor's media type {quoted(media_type)} is not that of an encrypted layer")


def has_wrapped_key(annotations: Mapping[str, str]) -> bool:
    """Check whether any annotation holds a wrapped key."""
    return any(name.startswith(KEYS_PREFIX) and text for name, text in annotations.items())


def wrapped_keys(annotations: Mapping[str, str]) -> list[WrappedKey]:
    """Return the wrapped keys of a layer, with the annotations in the order of their names.

    Raises:
        LayerError: there are more than WRAPPED_KEYS.
    """
    found: list[WrappedKey] = []
    for name in sorted(annotations):
        if name.startswith(KEYS_PREFIX) and annotations[name]:
            items = annotations[name].split(",", limits.WRAPPED_KEYS)
            found += [WrappedKey(name, index, text) for index, text in enumerate(items)]
    if len(found) > limits.WRAPPED_KEYS:
        raise LayerError(f"the layer has more than {limits.WRAPPED_KEYS} wrapped keys")
    return found


def parse_public_options(annotations: Mapping[str, str]) -> PublicOptions:
    """Read the public options, which carry the HMAC over the ciphertext.

    Raises:
        LayerError: they are absent, malformed, of an unknown cipher, or their HMAC is not 32 bytes long.
    """
    try:
        options = wire.parse_object(wire.decode_base64(annotations.get(PUBLIC_OPTIONS, "")))
        cipher = wire.text_value(wire.member(options, "cipher"))
        hmac = wire.bytes_value(wire.member(options, "hmac"))
        nonce = _nonce(options)
    except ValueError as error:
        raise LayerError(f"{PUBLIC_OPTIONS}: {error}") from error
    if cipher != CIPHER:
        raise LayerError(f"{PUBLIC_OPTIONS}: the cipher is {quoted(cipher)}, not {CIPHER}")
    if len(hmac) != limits.HMAC_BYTES:
        raise LayerError(f"{PUBLIC_OPTIONS}: the HMAC has {len(hmac)} bytes, not {limits.HMAC_BYTES}")
    return PublicOptions(hmac, nonce)


def parse_private_options(text: bytes) -> PrivateOptions:
    """Parse the content of a wrapped key.

    Args:
        text: JSON, at most PRIVATE_OPTIONS_BYTES.

    Raises:
        ValueError: it is malformed or longer, the key does not have 32 bytes, or the nonce does not have 16.
    """
    if len(text) > limits.PRIVATE_OPTIONS_BYTES:
        raise ValueError(f"the private options are longer than {limits.PRIVATE_OPTIONS_BYTES} bytes")
    options = wire.parse_object(text)
    key = wire.bytes_value(wire.member(options, "symkey"))
    nonce = _nonce(options)
    digest = wire.text_value(wire.member(options, "digest"))
    if len(key) != limits.SYMMETRIC_KEY_BYTES:
        raise ValueError(f"the layer key has {len(key)} bytes, not {limits.SYMMETRIC_KEY_BYTES}")
    if len(nonce) != limits.NONCE_BYTES:
        raise ValueError(f"the nonce has {len(nonce)} bytes, not {limits.NONCE_BYTES}")
    return PrivateOptions(key, nonce, digest)


def layer_key(public: PublicOptions, private: PrivateOptions) -> LayerKey:
    """Join public and private options. The HMAC does not cover the nonce, so only the private nonce is used.

    Raises:
        LayerError: the public options name another nonce.
    """
    if public.nonce and public.nonce != private.nonce:
        raise LayerError(f"{PUBLIC_OPTIONS}: it holds a nonce that differs from the private one")
    return LayerKey(private.symmetric_key, private.nonce, public.hmac)


def build_private_options(options: PrivateOptions) -> bytes:
    """Build the JSON that a scheme then wraps."""
    return _compact(
        {
            "symkey": wire.encode_base64(options.symmetric_key),
            "digest": options.digest,
            "cipheroptions": {"nonce": wire.encode_base64(options.nonce)},
        }
    )


def build_annotations(hmac: bytes, wrapped: Mapping[str, Sequence[bytes]]) -> dict[str, str]:
    """Build the annotations of an encrypted layer.

    Args:
        hmac: 32-byte HMAC-SHA256 over the ciphertext.
        wrapped: wrapped private options by scheme (`jwe`, `provider.NAME`, …).
    """
    public = {"cipher": CIPHER, "hmac": wire.encode_base64(hmac), "cipheroptions": {}}
    annotations = {PUBLIC_OPTIONS: wire.encode_base64(_compact(public))}
    for scheme, items in wrapped.items():
        annotations[KEYS_PREFIX + scheme] = ",".join(wire.encode_base64(item) for item in items)
    return annotations


def _nonce(options: dict[str, object]) -> bytes:
    cipher_options = wire.object_value(wire.member(options, "cipheroptions"))
    return wire.bytes_value(cipher_options.get("nonce"))


def _compact(value: object) -> bytes:
    return wire.build_json(value)
