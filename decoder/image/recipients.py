"""Recipients on the command line, `PROTOCOL:VALUE`: they are read, checked, and wrapped to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from difflib import get_close_matches
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from decoder import keywrap, limits
from decoder.errors import DecoderError, KeyFileError, ProviderFailedError, UsageError, WrappedKeyError, quoted
from decoder.image import names
from decoder.layer.annotations import PUBLIC_OPTIONS, PrivateOptions, build_annotations, build_private_options

if TYPE_CHECKING:
    from decoder.grants.sealing import Sealing
    from decoder.keywrap.keyprovider import KeyProvider
    from decoder.keywrap.recipient import RecipientRules

PROTOCOLS = (*keywrap.SCHEMES, keywrap.PROVIDER)
FORMS = f"{', '.join(f'{name}:{form}' for name, form in keywrap.SCHEMES.items())} or provider:NAME[:PARAM]"
_ATTESTATION_AGENT = f"{keywrap.PROVIDER_PREFIX}attestation-agent"
_GRANTS = f"{keywrap.PROVIDER_PREFIX}grants"
_SAMPLE = build_private_options(
    PrivateOptions(bytes(limits.SYMMETRIC_KEY_BYTES), bytes(limits.NONCE_BYTES), f"sha256:{'0' * 64}")
)

Wrapped = dict[str, list[bytes]]
"""Wrapped private options by scheme, for `build_annotations`."""


class WrapError(DecoderError):
    """A keyprovider failed to wrap."""

    status = 6


class Keyring(NamedTuple):
    """The keyring with OpenPGP certificates: a file, or if `file` is "" a GnuPG home ("" for GnuPG's default)."""

    home: str = ""
    file: str = ""

    def read(self) -> bytes:
        """Read all certificates.

        Raises:
            UsageError: the keyring cannot be read.
        """
        from decoder.keywrap.pgp.gnupg import gnupg_keyring
        from decoder.keywrap.pgp.keyring import check_keyring

        if not self.file:
            try:
                return gnupg_keyring(self.home or None)
            except KeyFileError as error:
                raise UsageError(f"the GnuPG keyring: {error}") from error
        try:
            with open(self.file, "rb") as file:
                keyring = file.read(limits.PGP_KEYRING_BYTES + 1)
            check_keyring(keyring)
        except OSError as error:
            raise UsageError(f"--gpg-keyring {quoted(self.file)}: {error.strerror}") from error
        except KeyFileError as error:
            raise UsageError(f"--gpg-keyring {quoted(self.file)}: {error}") from error
        return keyring


class Wrapping(NamedTuple):
    """The settings for wrapping with keyproviders; see `KeyProvider`.

    Attributes:
        config_file: the keyprovider configuration, "" for the file that the environment names.
        packet_format: `new`, `old` or "".
        image: the image's reference, or "".
    """

    config_file: str = ""
    packet_format: str = ""
    image: str = ""


class _Named(NamedTuple):
    """A recipient on the command line.

    Attributes:
        text: its name, `PROTOCOL:VALUE`.
        scheme: the scheme that wraps to it.
        material: the items for the scheme's `wrap`; empty for a keyprovider without a parameter.
    """

    text: str
    scheme: str
    material: list[bytes]


class Recipients:
    """The recipients that layers are encrypted to.

    Args:
        texts: `PROTOCOL:VALUE`.
        rules: which recipients are accepted; OpenPGP's keyring is only read for a recipient that is `pgp:`.
        wrapping: the settings for keyproviders.
        broker: options of our own attestation-agent, which then wraps instead of the configured one; empty for none.
        sealing: wraps for the recipient `provider:grants`; None if there is no such recipient.

    Raises:
        UsageError: a protocol is unknown, or a value cannot be used with it; the text has the reason.
    """

    def __init__(
        self,
        texts: Sequence[str],
        rules: RecipientRules,
        wrapping: Wrapping | None = None,
        broker: Mapping[str, object] | None = None,
        sealing: Sealing | None = None,
    ) -> None:
        self._sealing = sealing
        rules = rules._replace(read_keyring=cache(rules.read_keyring))
        self._recipients = [_parse(text, rules) for text in texts]
        schemes = {each.scheme for each in self._recipients}
        self._providers: dict[str, KeyProvider | Sealing] = {
            **_providers(schemes, wrapping or Wrapping(), broker),
            **({_GRANTS: sealing} if sealing else {}),
        }

    def __bool__(self) -> bool:
        return bool(self._recipients)

    @property
    def schemes(self) -> frozenset[str]:
        """The schemes of the recipients: `jwe`, …, `provider.NAME`."""
        return frozenset(each.scheme for each in self._recipients)

    @property
    def warnings(self) -> list[str]:
        """Problems with the keyproviders that have wrapped so far, and with their configuration."""
        return [warning for provider in self._providers.values() for warning in provider.warnings]

    def check_publishing(self) -> None:
        """Check that `publish` will be able to write, before the image is written.

        Raises:
            ImageError: a registry does not accept it.
        """
        if self._sealing:
            self._sealing.check()

    def publish(self, image: str, descriptor: Mapping[str, Any]) -> None:
        """Publish artifacts that recipients need, before the image is published; then start with another image.

        Args:
            image: the image's destination, `TRANSPORT:PLACE`.
            descriptor: the image's descriptor.

        Raises:
            ImageError: a registry does not accept it.
        """
        if self._sealing:
            self._sealing.publish(image, descriptor)

    def forget(self) -> None:
        """Start with another image, because this one will not be published."""
        if self._sealing:
            self._sealing.forget()

    def wrap(self, options: PrivateOptions) -> Wrapped:
        """Wrap private options to all recipients: once per scheme and keyprovider.

        Raises:
            UsageError: a scheme cannot wrap.
            WrapError: a keyprovider failed.
        """
        return self._wrap_to(self._recipients, options)

    def wrap_to_others(self, options: PrivateOptions, present: Set[names.Identity]) -> tuple[Wrapped, list[str]]:
        """Wrap private options to the recipients that a layer does not have yet.

        Args:
            options: the private options.
            present: the recipients that it has, from `names.identities`. Only names are compared, because recipients
                are not authenticated.

        Returns:
            The wrapped keys, and the texts of the recipients that were left out.

        Raises:
            UsageError: a scheme cannot wrap.
            WrapError: a keyprovider failed.
        """
        known = [each for each in self._recipients if self._is_among(each, options, present)]
        wrapped = self._wrap_to([each for each in self._recipients if each not in known], options)
        for scheme in self._providers.keys() & wrapped:
            identities = names.identities(_annotations({scheme: wrapped[scheme]}))
            if identities and identities <= present:
                del wrapped[scheme]
                known += [each for each in self._recipients if each.scheme == scheme]
        return wrapped, [each.text for each in known]

    def _is_among(self, recipient: _Named, options: PrivateOptions, present: Set[names.Identity]) -> bool:
        """Check whether a layer has a recipient. A test value is wrapped to it, to learn its name in wrapped keys.

        Keyproviders are left out here, so that they are asked only once, later.
        """
        if recipient.scheme in self._providers:
            return False
        identities = names.identities(_annotations(self._wrap_to([recipient], options)))
        return bool(identities) and identities <= present

    def _wrap_to(self, recipients: Sequence[_Named], options: PrivateOptions) -> Wrapped:
        by_scheme: dict[str, list[bytes]] = {}
        for each in recipients:
            by_scheme.setdefault(each.scheme, []).extend(each.material)
        text = build_private_options(options)
        return {scheme: [self._wrap(scheme, text, material)] for scheme, material in by_scheme.items()}

    def _wrap(self, scheme: str, options: bytes, material: Sequence[bytes]) -> bytes:
        try:
            return (self._providers.get(scheme) or keywrap.load(scheme)).wrap(options, material)
        except ProviderFailedError as error:
            raise WrapError(str(error)) from error
        except (KeyFileError, WrappedKeyError) as error:
            raise UsageError(f"{scheme}: {error}") from error


def add_wrapped(annotations: Mapping[str, str], wrapped: Wrapped) -> dict[str, str]:
    """Return a layer's annotations with further wrapped keys added."""
    added = _annotations(wrapped)
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
        hint = hint if separator else "; without one it must be a file with a public key, or an e-mail address"
        raise UsageError(f"{option} {quoted(text)} names no protocol; the forms are {FORMS}{hint}")
    if not value:
        raise UsageError(f"{option} {quoted(text)} has no value; the forms are {FORMS}")
    return protocol, value


def split_provider(value: str) -> tuple[str, bytes | None]:
    """Split `NAME[:PARAM]`."""
    name, separator, parameter = value.partition(":")
    return name, parameter.encode() if separator else None


def _parse(text: str, rules: RecipientRules) -> _Named:
    """Read a recipient's key, and wrap a test value to it, so that an error names the recipient."""
    protocol, value = split_protocol(text)
    if protocol == keywrap.PROVIDER:
        name, parameter = split_provider(value)
        if not name:
            raise UsageError(f"--recipient {quoted(text)} names no keyprovider")
        return _Named(text, keywrap.PROVIDER_PREFIX + name, [] if parameter is None else [parameter])
    scheme = keywrap.load(protocol)
    try:
        material = scheme.read_recipient(value, rules)
        scheme.wrap(_SAMPLE, material)
    except (KeyFileError, WrappedKeyError) as error:
        raise UsageError(f"--recipient {quoted(text)}: {error}") from error
    return _Named(text, protocol, material)


def _annotations(wrapped: Wrapped) -> dict[str, str]:
    """Build annotations that contain only these wrapped keys."""
    annotations = build_annotations(bytes(limits.HMAC_BYTES), wrapped)
    del annotations[PUBLIC_OPTIONS]
    return annotations


def _providers(schemes: Set[str], wrapping: Wrapping, broker: Mapping[str, object] | None) -> dict[str, KeyProvider]:
    if broker and _ATTESTATION_AGENT not in schemes:
        raise UsageError(f"--{next(iter(broker))} needs a --recipient provider:attestation-agent")
    found = {}
    for scheme in schemes:
        if scheme.startswith(keywrap.PROVIDER_PREFIX):
            from decoder.keywrap.keyprovider import KeyProvider

            own = broker if broker and scheme == _ATTESTATION_AGENT else None
            name = scheme.removeprefix(keywrap.PROVIDER_PREFIX)
            found[scheme] = KeyProvider(name, wrapping.config_file, own, wrapping.packet_format, wrapping.image)
    return found
