"""Registering a key at a key broker (KBS), as its administrator (docs/formats.md §6, §8)."""

from __future__ import annotations

import hmac
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm

from decoder import limits
from decoder.errors import KeyFileError, UsageError, quoted
from decoder.keys.file import read_key_file
from decoder.node import journal
from decoder.provider import Option
from decoder.provider.address import base_url
from decoder.provider.errors import ProviderError
from decoder.provider.optionfile import read_option_file
from decoder.provider.services.coco.kbs import source as kbs
from decoder.provider.services.coco.kbs.aatoken import is_token
from decoder.provider.services.coco.kbs.broker import Conversation, RefusedError

if TYPE_CHECKING:
    from jwcrypto.jwk import JWK

    from decoder.keywrap.kid import ResourceId

OPTIONS = (
    Option("kbs", "the URL of a key broker, where keys are registered before they encrypt"),
    Option("kbs-auth-key", "the administrator's private key, Ed25519 or P-256 in PEM; only its owner may read it"),
    Option(
        "kbs-claim",
        "NAME=VALUE in the administrator's token (default: iss=ctd-decoder sub=admin aud=KBS role=admin); NAME= leaves "
        "it out",
        many=True,
    ),
    Option("kbs-admin-token-file", "a file with a ready-made administrator's token, instead of kbs-auth-key"),
)

_CLAIMS = {"iss": "ctd-decoder", "sub": "admin", "aud": "KBS", "role": "admin"}
_OWN_CLAIMS = ("iat", "exp")
_ALGORITHMS = {"Ed25519": "EdDSA", "P-256": "ES256"}
_OPEN = (
    "no credentials of an administrator are given, so only a broker that accepts everybody (InsecureAllowAll) takes "
    "the key; anybody who reaches such a broker can replace keys"
)


class Registrar:
    """Registers keys at one broker.

    Args:
        options: the values of OPTIONS and `kbs`.

    Raises:
        UsageError: `kbs` is missing, options contradict each other, the URL or a claim is malformed.
        ProviderError: the administrator's key or token cannot be read or used.
    """

    def __init__(self, options: Mapping[str, str]) -> None:
        if not options.get("kbs"):
            raise UsageError("the options kbs-auth-key, kbs-admin-token-file and kbs-claim need the option kbs")
        key_file, token_file = options.get("kbs-auth-key"), options.get("kbs-admin-token-file")
        if key_file and token_file:
            raise UsageError("the options kbs-admin-token-file and kbs-auth-key exclude each other")
        if options.get("kbs-claim") and not key_file:
            raise UsageError("the option kbs-claim needs kbs-auth-key, which signs the claims")
        # Created even if nothing is read back, because it checks the options that both share.
        self._source = kbs.create(options["kbs"], options)
        self._url = base_url(options["kbs"], "the option kbs")
        self._ca_file = options.get("kbs-ca", "")
        self._is_attested = any(options.get(name) for name in kbs.ATTESTING)
        claims = _read_claims(options.get("kbs-claim", ""))
        self._signing = (claims, *_read_key(key_file)) if key_file else None
        self._token_file = token_file or ""

    def register(self, resource: ResourceId, key: bytes) -> bool:
        """Store a key at the broker, replacing an existing one, and read it back if that is allowed.

        Args:
            resource: the id of the key.
            key: 32 bytes.

        Returns:
            True if the key was read back; False if no attestation is configured or the broker does not release it.

        Raises:
            ProviderError: the broker rejects the key, or returns another one; the text names the broker and the key.
        """
        from decoder.provider.services.web import Web

        if not self._signing and not self._token_file:
            journal.warn(_OPEN)
        try:
            Web(self._ca_file).within(
                limits.COCO_SOURCE_SECONDS,
                lambda session: Conversation(self._url, session).upload(resource, key, self._token()),
            )
        except RefusedError as error:
            hint = f" ({_OPEN})" if error.is_of_the_admin and not self._signing and not self._token_file else ""
            raise ProviderError(f"the key {resource} is not registered at {self._url}: {error}{hint}") from error
        except ProviderError as error:
            raise ProviderError(f"the key {resource} is not registered at {self._url}: {error}") from error
        try:
            return self._is_attested and self._read_back(resource, key)
        except ProviderError as error:
            raise ProviderError(
                f"the key {resource} was sent to {self._url}, but could not be read back: {error}"
            ) from error

    def _token(self) -> str:
        if self._token_file:
            return _read_token(self._token_file)
        if not self._signing:
            return ""
        from jwcrypto.jwt import JWT

        claims, key, algorithm = self._signing
        now = int(time.time())
        times = {"iat": now, "exp": now + limits.KBS_ADMIN_TOKEN_SECONDS}
        token = JWT(header={"alg": algorithm, "typ": "JWT"}, claims={**claims, **times})
        token.make_signed_token(key)
        return str(token.serialize())

    def _read_back(self, resource: ResourceId, key: bytes) -> bool:
        try:
            stored = self._source.key(resource, limits.COCO_ATTESTATION_SECONDS)
        except RefusedError as error:
            if error.is_denied:
                return False
            raise
        if not hmac.compare_digest(stored, key):
            raise ProviderError("the broker returns another key")
        return True


def _read_token(path: str) -> str:
    """Read a ready-made token at each use, because the file is replaced when the token is renewed."""
    token = read_option_file(path, "the kbs-admin-token-file", private=True).decode(errors="replace").strip()
    if not is_token(token):
        raise ProviderError(f"the kbs-admin-token-file {quoted(path)} does not hold a token")
    return token


def _read_claims(text: str) -> dict[str, str | list[str]]:
    """Read the lines of `kbs-claim`; `aud` may have several values, and for other names the last value counts."""
    given: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, separator, value = line.partition("=")
        if not name or not separator:
            raise UsageError("the option kbs-claim is not NAME=VALUE")
        if name in _OWN_CLAIMS:
            raise UsageError(f"the option kbs-claim cannot set {name}: each token is valid for a few minutes from now")
        given.setdefault(name, []).append(value)
    claims: dict[str, str | list[str]] = {}
    for name, values in {**{name: [value] for name, value in _CLAIMS.items()}, **given}.items():
        if values[-1]:
            claims[name] = values if name == "aud" else values[-1]
    return claims


def _read_key(path: str) -> tuple[JWK, str]:
    """Read the administrator's key, and return it with its signature algorithm (RFC 7518, RFC 8037)."""
    from jwcrypto.common import JWException
    from jwcrypto.jwk import JWK

    try:
        key = JWK.from_pem(read_key_file(path, private=True))
        algorithm = _ALGORITHMS.get(str(key.get("crv")))
        if key.has_private and algorithm:
            return key, algorithm
    except KeyFileError as error:
        raise ProviderError(f"the kbs-auth-key {quoted(path)}: {error}") from error
    except TypeError as error:
        raise ProviderError(f"the kbs-auth-key {quoted(path)} is encrypted: give it without a passphrase") from error
    except (JWException, ValueError, UnsupportedAlgorithm):
        pass
    raise ProviderError(f"the kbs-auth-key {quoted(path)} is not an Ed25519 or P-256 private key in PEM")
