"""Recipients as the command line names them: `PROTOCOL:VALUE`, read, checked, and wrapped to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, NamedTuple

from decoder import keywrap, layer, limits
from decoder.errors import DecoderError, KeyFileError, ProviderFailedError, UsageError, WrappedKeyError, quoted
from decoder.keyfile import read_key_file

if TYPE_CHECKING:
    from decoder.layer import PrivateOptions

PROTOCOLS = ("jwe", "pkcs7", "pgp", "pkcs11", "provider")
_FORMS = "jwe:FILE, pkcs7:FILE, pgp:EMAIL|KEYID|FINGERPRINT, pkcs11:FILE, provider:NAME[:PARAM]"
_PROBE = layer.build_private_options(
    layer.PrivateOptions(bytes(limits.SYMMETRIC_KEY_BYTES), bytes(limits.NONCE_BYTES), f"sha256:{'0' * 64}")
)

Wrapped = dict[str, list[bytes]]
"""Wrapped private options by scheme, as `layer.build_annotations` takes them."""


class WrapError(DecoderError):
    """A keyprovider failed to wrap."""

    status = 6


class Keyring(NamedTuple):
    """Where OpenPGP certificates are: a GnuPG home ("" for GnuPG's own choice), or a file if that is not ""."""

    home: str = ""
    file: str = ""

    def read(self) -> bytes:
        """Read all certificates.

        Raises:
            UsageError: they cannot be read.
        """
        from decoder.openpgp.gnupg import gnupg_keyring

        if not self.file:
            try:
                return gnupg_keyring(self.home or None)
            except KeyFileError as error:
                raise UsageError(f"the GnuPG keyring: {error}") from None
        try:
            with open(self.file, "rb") as file:
                return file.read(limits.PGP_KEYRING_BYTES + 1)  # `select` tells what is too large
        except OSError as error:
            raise UsageError(f"--gpg-keyring {quoted(self.file)}: {error.strerror}") from None


class Recipients:
    """Everybody that layers are to be encrypted to.

    Args:
        texts: `PROTOCOL:VALUE`.
        keyring: for OpenPGP; only read for a recipient that is `pgp:`.
        provider_config: the file that configures keyproviders, "" for that of the environment.

    Raises:
        UsageError: a protocol is unknown, or a value cannot be used with it; the text says why.
    """

    def __init__(self, texts: Sequence[str], keyring: Keyring, provider_config: str = "") -> None:
        self._provider_config = provider_config
        self._by_scheme: dict[str, list[bytes]] = {}
        certificates = _Once(keyring.read)
        for text in texts:
            scheme, material = _parse(text, certificates)
            if not scheme.startswith(keywrap.PROVIDER_PREFIX):
                _check(text, scheme, material[0])
            self._by_scheme.setdefault(scheme, []).extend(material)

    def __bool__(self) -> bool:
        return bool(self._by_scheme)

    def wrap(self, options: PrivateOptions) -> Wrapped:
        """Wrap private options to everybody: once per scheme and keyprovider.

        Raises:
            UsageError: a scheme cannot wrap.
            WrapError: a keyprovider failed.
        """
        text = layer.build_private_options(options)
        return {scheme: [self._wrap(scheme, text, material)] for scheme, material in self._by_scheme.items()}

    def _wrap(self, scheme: str, options: bytes, material: Sequence[bytes]) -> bytes:
        try:
            return self._scheme(scheme).wrap(options, material)
        except ProviderFailedError as error:
            raise WrapError(str(error)) from None
        except (KeyFileError, WrappedKeyError) as error:
            raise UsageError(f"{scheme}: {error}") from None

    def _scheme(self, scheme: str) -> keywrap.KeyWrap:
        if not scheme.startswith(keywrap.PROVIDER_PREFIX):
            return keywrap.load(scheme)
        from decoder.keywrap.keyprovider import KeyProvider

        return KeyProvider(scheme.removeprefix(keywrap.PROVIDER_PREFIX), self._provider_config)


def add_wrapped(annotations: Mapping[str, str], wrapped: Wrapped) -> dict[str, str]:
    """Add wrapped keys to those that a layer has."""
    added = layer.build_annotations(bytes(limits.HMAC_BYTES), wrapped)
    del added[layer.PUBLIC_OPTIONS]
    return {**annotations, **{name: ",".join(filter(None, (annotations.get(name), added[name]))) for name in added}}


def split_protocol(text: str, option: str = "--recipient") -> tuple[str, str]:
    """Split `PROTOCOL:VALUE`.

    Raises:
        UsageError: the protocol is unknown, or there is no value.
    """
    protocol, separator, value = text.partition(":")
    if protocol not in PROTOCOLS:
        nearest = get_close_matches(protocol.lower(), PROTOCOLS, 1, 0.4) if separator else []
        hint = f"; did you mean {nearest[0]}:?" if nearest else ""
        raise UsageError(f"{option} {quoted(text)} names no protocol; there are {_FORMS}{hint}")
    if not value:
        raise UsageError(f"{option} {quoted(text)} lacks its value; the forms are {_FORMS}")
    return protocol, value


def split_provider(value: str) -> tuple[str, bytes | None]:
    """Split `NAME[:PARAM]`."""
    name, separator, parameter = value.partition(":")
    return name, parameter.encode() if separator else None


class _Once:
    """A function's value, asked for once."""

    def __init__(self, function: Callable[[], bytes]) -> None:
        self._function = function
        self._value: bytes | None = None

    def get(self) -> bytes:
        if self._value is None:
            self._value = self._function()
        return self._value


def _parse(text: str, keyring: _Once) -> tuple[str, list[bytes]]:
    """Return the scheme, and what its `wrap` takes for a recipient."""
    protocol, value = split_protocol(text)
    if protocol == "provider":
        name, parameter = split_provider(value)
        if not name:
            raise UsageError(f"--recipient {quoted(text)} names no keyprovider")
        return keywrap.PROVIDER_PREFIX + name, [] if parameter is None else [parameter]
    try:
        if protocol == "pgp":
            from decoder.openpgp.keyring import select

            return protocol, [select(keyring.get(), value)]
        return protocol, [read_key_file(value)]
    except (KeyFileError, WrappedKeyError) as error:
        raise UsageError(f"--recipient {quoted(text)}: {error}") from None


def _check(text: str, scheme: str, material: bytes) -> None:
    """Wrap something to a recipient alone, so that the one which cannot be used is named."""
    try:
        keywrap.load(scheme).wrap(_PROBE, [material])
    except (KeyFileError, WrappedKeyError) as error:
        raise UsageError(f"--recipient {quoted(text)}: {error}") from None
