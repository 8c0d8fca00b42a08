"""The library: the names that other programs may import from this package.

Names that are listed in `__all__` here are public and follow semantic versioning. Every other module of the package is
private and may change at any time. docs/library.md has examples.

Every function raises DecoderError, or a subclass of it, for expected failures. `status` is the exit status that the
program would have; `str` of the error is one line for people, without secrets.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from decoder import keywrap, limits
from decoder.errors import DecoderError, LayerError, StreamError
from decoder.image import progress as progresses
from decoder.image import selection, transport
from decoder.image.openers import read_keys
from decoder.image.recipients import Keyring, Recipients, Wrapping
from decoder.keys.keyring import DecryptConfig as Keys
from decoder.keywrap.recipient import RecipientRules
from decoder.keywrap.unproven import UnprovenError, UnprovenKey
from decoder.layer import stream
from decoder.layer.annotations import (
    LayerKey,
    PrivateOptions,
    build_annotations,
    check_media_type,
    layer_key,
    parse_public_options,
)
from decoder.layer.digest import DigestingReader, DigestingWriter

if TYPE_CHECKING:
    from io import FileIO

    from decoder.image.verbs.changes import Outcome

__all__ = [
    "ChangedImage",
    "DecoderError",
    "EncryptedLayer",
    "ImageLayer",
    "Keys",
    "LayerKey",
    "Reader",
    "Writer",
    "check_image",
    "decrypt_image",
    "decrypt_layer",
    "encrypt_image",
    "encrypt_layer",
    "list_layers",
    "load_keys",
    "open_layer_key",
]


class Reader(Protocol):
    """A binary file to read, such as `open(name, "rb")` or `io.BytesIO`."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Read at most as many bytes as fit, and return how many were read: 0 at the end.

        None means that a non-blocking file has none yet. Such a file also needs `fileno`.
        """


class Writer(Protocol):
    """A binary file to write, such as `open(name, "wb")` or `io.BytesIO`."""

    def write(self, data: memoryview, /) -> int | None:
        """Write, and return how many bytes were written.

        None means that a non-blocking file takes none now. Such a file also needs `fileno`.
        """


@dataclass(frozen=True)
class EncryptedLayer:
    """A layer that was encrypted.

    Attributes:
        digest: the digest of the ciphertext, `sha256:…`.
        size: the size of the ciphertext, and of the plaintext, in bytes.
        annotations: the annotations for the layer's descriptor; they contain the wrapped keys.
    """

    digest: str
    size: int
    annotations: dict[str, str]


@dataclass(frozen=True)
class ImageLayer:
    """A layer of an image.

    Attributes:
        number: the layer's position in its manifest; 0 is the lowest layer.
        platform: the platform of its manifest, `os/arch[/variant]`, or "" if the image names none.
        descriptor: the OCI descriptor, as in the manifest.
        encrypted: whether the media type is that of an encrypted layer.
        recipients: the recipients that the layer is encrypted for, one text each. They come from the image, unchecked.
    """

    number: int
    platform: str
    descriptor: dict[str, Any]
    encrypted: bool
    recipients: list[str]


@dataclass(frozen=True)
class ChangedImage:
    """An image that was written.

    Attributes:
        descriptor: the descriptor of the image's manifest or index.
        changes: one entry per changed layer: its number, platform, digests, and the change.
        remarks: notes for the caller, such as layers that were left as they are; one line each.
    """

    descriptor: dict[str, Any]
    changes: list[dict[str, Any]]
    remarks: list[str]


def load_keys(keys: Sequence[str], *, certificates: Sequence[str] = (), keyprovider_config: str = "") -> Keys:
    """Read private keys.

    Args:
        keys: in the form of `--key`: `FILE`, `FILE:pass=PASSWORD`, `FILE:file=FILE`, or `provider:NAME[:PARAMETER]`.
        certificates: files with the certificates of keys that open PKCS#7.
        keyprovider_config: the path of the keyprovider configuration; "" means `$OCICRYPT_KEYPROVIDER_CONFIG`.

    Raises:
        UsageError: a file cannot be read or contains no key.
    """
    return read_keys(keys, certificates, keyprovider_config)


def open_layer_key(media_type: str, annotations: Mapping[str, str], keys: Keys) -> LayerKey:
    """Unwrap the key of an encrypted layer.

    Some wrapped keys have no integrity protection, such as CMS messages with CBC. Whether one was unwrapped correctly
    is known only when `decrypt_layer` has verified the layer. Until then, the key that is returned may be wrong.

    Args:
        media_type: the media type in the layer's descriptor.
        annotations: the annotations in the layer's descriptor. They need not be trusted.
        keys: the keys to try.

    Raises:
        PayloadError: the media type is not that of an encrypted layer.
        NoKeyError: no key opens the layer.
        DeniedError: the configuration denies the layer to this host.
        LayerError: the annotations are malformed.
    """
    check_media_type(media_type)
    public = parse_public_options(annotations)
    try:
        return layer_key(public, keywrap.unwrap_any(annotations, keys, media_type))
    except UnprovenError as error:
        return UnprovenKey.of(public, error)


def decrypt_layer(source: Reader, sink: Writer, key: LayerKey) -> None:
    """Decrypt a layer.

    The plaintext is written as it is decrypted, except for its last 10 KiB, which are written only once the HMAC of the
    whole layer has been verified. If this function raises, discard what it has written. If only the HMAC can tell
    whether `key` is right, the ciphertext is kept in a temporary file, and nothing is written before the HMAC has been
    verified.

    Args:
        source: the ciphertext, read to its end.
        sink: takes the plaintext.
        key: the layer's key.

    Raises:
        LayerError: the layer is damaged or not authentic, or the key is not its key.
        StreamError: reading or writing failed, also of the temporary file.
    """
    if not isinstance(key, UnprovenKey):
        stream.decrypt(source, sink, key, source_name="the ciphertext")
        return
    with _spool() as spool:
        try:
            stream.decrypt_verified(source, sink, key.keys, spool)
        except LayerError as error:
            raise key.error from error


def encrypt_layer(
    source: Reader, sink: Writer, recipients: Sequence[str], *, gpg_homedir: str = "", keyprovider_config: str = ""
) -> EncryptedLayer:
    """Encrypt a layer with a new key.

    Args:
        source: the plaintext (a tar, compressed or not), read to its end.
        sink: takes the ciphertext, which has the same length.
        recipients: in the form of `--recipient`: `jwe:FILE`, `pkcs7:FILE`, `pgp:EMAIL`, `pkcs11:FILE` or
            `provider:NAME[:PARAMETER]`.
        gpg_homedir: GnuPG's home directory, for `pgp:`; "" means GnuPG's default.
        keyprovider_config: as for `load_keys`.

    Raises:
        UsageError: no recipient is given, or one cannot be used.
        WrapError: a keyprovider failed.
        StreamError: reading or writing failed.
    """
    chosen = _recipients(recipients, gpg_homedir, keyprovider_config)
    key, nonce = os.urandom(limits.SYMMETRIC_KEY_BYTES), os.urandom(limits.NONCE_BYTES)
    plain, cipher = DigestingReader(source), DigestingWriter(sink)
    hmac = stream.encrypt(plain, cipher, key, nonce)
    options = PrivateOptions(key, nonce, f"sha256:{plain.digest.hexdigest()}")
    annotations = build_annotations(hmac, chosen.wrap(options))
    return EncryptedLayer(f"sha256:{cipher.digest.hexdigest()}", cipher.size, annotations)


def encrypt_image(  # noqa: PLR0913 - all but three are keywords, named like the options of the command
    source: str,
    destination: str,
    recipients: Sequence[str],
    *,
    keys: Keys | None = None,
    layer_ranges: Sequence[str] = (),
    platforms: Sequence[str] = (),
    gpg_homedir: str = "",
    keyprovider_config: str = "",
    tls_verify: bool = True,
) -> ChangedImage:
    """Write an image with its layers encrypted. Every layer is read back and decrypted before the name is published.

    Args:
        source: the image, such as `oci:DIR:REF` or `docker://HOST/REPO:TAG`.
        destination: where to write it.
        recipients: as for `encrypt_layer`.
        keys: open layers that are encrypted already, so that the recipients can be added to them.
        layer_ranges: the layers to encrypt, such as `0` or `-2..`; by default all.
        platforms: the platforms to encrypt, `os/arch[/variant]`; by default all.
        gpg_homedir: as for `encrypt_layer`.
        keyprovider_config: as for `load_keys`.
        tls_verify: whether registries must use TLS with a valid certificate.

    Raises:
        UsageError: an argument is invalid, or the image lacks a layer or platform that was asked for.
        DecoderError: the image could not be read or written; the destination's name is unchanged.
    """
    from decoder.image.verbs import encrypt
    from decoder.image.verbs.request import Request

    chosen = _recipients(recipients, gpg_homedir, keyprovider_config)
    request = Request(
        recipients=chosen,
        ranges=[selection.parse_range(text) for text in layer_ranges],
        platforms=selection.parse_platforms(platforms),
        base=None,
        keys=keys,
        removed=None,
        verify=True,
    )
    with ExitStack() as stack:
        image, target, progress = _opened(stack, source, destination, tls_verify)
        return _changed(encrypt.encrypt_image(image, target, request, progress), progress)


def decrypt_image(
    source: str,
    destination: str,
    keys: Keys,
    *,
    layer_ranges: Sequence[str] = (),
    platforms: Sequence[str] = (),
    tls_verify: bool = True,
) -> ChangedImage:
    """Write an image with its layers decrypted.

    Args:
        source: the image.
        destination: where to write it.
        keys: the keys to open the layers with.
        layer_ranges: as for `encrypt_image`.
        platforms: as for `encrypt_image`.
        tls_verify: as for `encrypt_image`.

    Raises:
        LockedError: no key opens a layer.
        UsageError: an argument is invalid, or the image lacks a layer or platform that was asked for.
        DecoderError: the image could not be read or written; the destination's name is unchanged.
    """
    from decoder.image.verbs import decrypt

    request = decrypt.Request(
        keys=keys,
        ranges=[selection.parse_range(text) for text in layer_ranges],
        platforms=selection.parse_platforms(platforms),
        verify=True,
    )
    with ExitStack() as stack:
        image, target, progress = _opened(stack, source, destination, tls_verify)
        return _changed(decrypt.decrypt_image(image, target, request, progress), progress)


def check_image(source: str, keys: Keys, *, platforms: Sequence[str] = (), tls_verify: bool = True) -> int:
    """Check that keys open every encrypted layer of an image.

    Args:
        source: the image.
        keys: the keys to try.
        platforms: the platforms whose layers must open; by default every platform of the image.
        tls_verify: as for `encrypt_image`.

    Returns:
        The number of encrypted layers; 0 means that the image is not encrypted.

    Raises:
        CheckError: a layer does not open, or the image lacks one of the platforms.
        ImageError: the image cannot be read.
    """
    from decoder.image.verbs import check

    with transport.open_source(source, transport.Options(tls_verify)) as image:
        report = check.check_image(image, check.Request(keys, selection.parse_platforms(platforms)), _Silent())
    check.raise_for_problems(report)
    return sum(each.is_encrypted for each in report.findings)


def list_layers(source: str, *, platforms: Sequence[str] = (), tls_verify: bool = True) -> list[ImageLayer]:
    """List the layers of an image.

    Args:
        source: the image.
        platforms: `os/arch[/variant]`; by default all.
        tls_verify: as for `encrypt_image`.

    Raises:
        UsageError: the image lacks one of the platforms.
        ImageError: the image cannot be read.
    """
    from decoder.image import manifest
    from decoder.image.verbs import layerinfo

    with transport.open_source(source, transport.Options(tls_verify)) as image:
        infos = layerinfo.layer_infos(image, selection.parse_platforms(platforms), [], None)
    return [
        ImageLayer(
            number=info.number,
            platform=info.platform,
            descriptor=dict(info.descriptor),
            encrypted=manifest.is_encrypted(info.descriptor["mediaType"]),
            recipients=[str(recipient) for recipient in info.recipients],
        )
        for info in infos
    ]


def _spool() -> FileIO:
    try:
        return tempfile.TemporaryFile(buffering=0)
    except OSError as error:
        raise StreamError("the spool file", error) from error


class _Silent(progresses.Quiet):
    """Collect remarks, and print nothing."""

    def _say(self, text: str) -> None:
        pass


def _recipients(texts: Sequence[str], gpg_homedir: str, keyprovider_config: str) -> Recipients:
    from decoder.errors import UsageError

    if not texts:
        raise UsageError("no recipient was given; pass at least one, such as 'jwe:public.pem'")
    return Recipients(texts, RecipientRules(Keyring(gpg_homedir).read), Wrapping(keyprovider_config))


def _opened(
    stack: ExitStack, source: str, destination: str, tls_verify: bool
) -> tuple[transport.ImageSource, transport.ImageTarget, _Silent]:
    options = transport.Options(tls_verify)
    image = stack.enter_context(transport.open_source(source, options))
    target = stack.enter_context(transport.open_target(destination, options._replace(source=source)))
    return image, target, _Silent()


def _changed(outcome: Outcome, progress: _Silent) -> ChangedImage:
    return ChangedImage(dict(outcome.descriptor), outcome.changes, progress.remarks)
