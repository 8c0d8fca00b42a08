"""Azure Key Vault and Managed HSM: private options encrypted with a key that an RSA key in the vault wraps.

The annotation is `{"key_url":"https://VAULT.vault.azure.net/keys/NAME","wrapped_key":BASE64,
"wrap_type":"RSA-OAEP-256+A256GCM","key_version":"32 hex digits","iv":BASE64,"wrapped_data":BASE64}`.
`key_url` is the key as the user named it, with or without a version; policies see this name. `key_version` is the
version that the vault used. `wrapped_key` is a random key of 32 bytes, wrapped with RSA-OAEP-256. `wrapped_data` is
the private options encrypted under that key with AES-256-GCM and the 12-byte `iv`, without additional data, followed
by the tag.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from decoder import limits
from decoder.errors import UsageError, quoted
from decoder.extras import missing
from decoder.formats import wire
from decoder.provider import Option, Use
from decoder.provider.errors import KeyRefusedError, ProviderError
from decoder.provider.reach import reach_url
from decoder.provider.services.choice import check_key_to_unwrap, key_to_wrap
from decoder.provider.services.wrapped import build_annotation, parse_annotation

if TYPE_CHECKING:
    from decoder.provider.policy import KeyPolicy
    from decoder.provider.services.azurekv.client import Vaults

OPTIONS = (
    Option("key", "the RSA key: https://VAULT.vault.azure.net/keys/NAME, with or without /VERSION"),
    Option("ca-file", "CA certificates of the vault, PEM (default: the system's)"),
)

_EXAMPLE = "https://VAULT.vault.azure.net/keys/NAME"
_WRAP_TYPE = "RSA-OAEP-256+A256GCM"
_ALGORITHM = "RSA-OAEP-256"
_KEY_BYTES = 32
_IV_BYTES = 12
_TAG_BYTES = 16
_RSA_BYTES = range(256, 513)
_KEY_URL = re.compile(
    r"https://((?:[a-z0-9-]{1,63}\.)*[a-z0-9-]{1,63})(:[0-9]{1,5})?/keys/([a-z0-9-]{1,127})(?:/([0-9a-f]{32}))?",
    re.ASCII | re.IGNORECASE,
)
_VERSION = re.compile(r"[0-9a-f]{32}", re.ASCII)
_CLOUDS = ("azure.net", "azure.cn", "usgovcloudapi.net")
_AZURE_HOST = re.compile(rf"[a-z0-9-]+\.(vault|managedhsm)\.({'|'.join(map(re.escape, _CLOUDS))})", re.ASCII)


class _Key(NamedTuple):
    """A key in a vault: `authority` is the host, and the port if it is not 443; `version` may be empty."""

    authority: str
    name: str
    version: str


class _Wrapped(NamedTuple):
    key_url: str
    key_version: str
    wrapped_key: bytes
    iv: bytes
    wrapped_data: bytes


def create(options: Mapping[str, str], policy: KeyPolicy) -> AzureKeyVault:
    """Create the provider, without contacting a vault or a token service.

    Credentials are what azure-identity finds on a server: a client secret or certificate in AZURE_… variables, a
    workload identity, or a managed identity.

    Raises:
        UsageError: an option is malformed.
        ProviderError: the libraries are not installed.
    """
    try:
        configured = policy.configured and _one_form(policy.configured)
    except ProviderError as error:
        raise UsageError(f"the option key: {error}") from error
    ca_file = options.get("ca-file", "")
    if ca_file and not os.path.isfile(ca_file):
        raise UsageError(f"the ca-file {quoted(ca_file)} is not a file")
    try:
        from decoder.provider.services.azurekv.client import Vaults
    except ImportError as error:
        raise ProviderError(missing("azure", error)) from error
    return AzureKeyVault(Vaults(ca_file), policy.with_configured(configured))


class AzureKeyVault:
    """The RSA keys of vaults."""

    def __init__(self, vaults: Vaults, policy: KeyPolicy) -> None:
        self._vaults = vaults
        self._policy = policy

    def reach(self, seconds: float) -> None:
        """Connect to the vault of the configured key, if there is one; see `ReachableService`."""
        if self._policy.configured:
            reach_url(self._policy.configured, seconds)

    def wrap(self, options: bytes, parameters: Sequence[str]) -> Use:
        """Prepare to encrypt private options with a random key that the vault wraps; see `KeyService`."""
        key_url = key_to_wrap(parameters, self._policy, _one_form, _EXAMPLE)
        key = _parse(key_url)
        self._check_host(key)

        def run(seconds: float) -> bytes:
            content_key = AESGCM.generate_key(8 * _KEY_BYTES)
            iv = os.urandom(_IV_BYTES)
            path = f"keys/{key.name}/{key.version}/wrapkey"
            reply = self._vaults.ask(key.authority, path, _ALGORITHM, content_key, seconds)
            return build_annotation(
                key_url,
                reply.value,
                _WRAP_TYPE,
                key_version=_used_version(reply.key_id, key),
                iv=wire.encode_base64(iv),
                wrapped_data=wire.encode_base64(AESGCM(content_key).encrypt(iv, options, None)),
            )

        return Use((key_url,), run)

    def unwrap(self, annotation: bytes, parameters: Sequence[str]) -> Use:
        """Prepare to decrypt private options with the key that the vault unwraps; see `KeyService`."""
        wrapped = _parse_annotation(annotation)
        check_key_to_unwrap(wrapped.key_url, parameters, self._policy, _one_form)
        key = _parse(wrapped.key_url)
        self._check_host(key)
        if key.version not in ("", wrapped.key_version):
            raise ProviderError("the annotation names two versions of its key")

        def run(seconds: float) -> bytes:
            path = f"keys/{key.name}/{wrapped.key_version}/unwrapkey"
            content_key = self._vaults.ask(key.authority, path, _ALGORITHM, wrapped.wrapped_key, seconds).value
            if len(content_key) != _KEY_BYTES:
                raise ProviderError("the vault did not return a key of 256 bits")
            try:
                return AESGCM(content_key).decrypt(wrapped.iv, wrapped.wrapped_data, None)
            except InvalidTag as error:
                raise ProviderError("the key that the vault unwrapped does not decrypt the wrapped_data") from error

        return Use((wrapped.key_url,), run)

    def _check_host(self, key: _Key) -> None:
        """If an image chooses the key, accept only hosts of Azure, because the request carries a token."""
        if self._policy.is_open and not _AZURE_HOST.fullmatch(key.authority):
            reason = f"{quoted(key.authority)} is not a vault of Azure (key or allow-key can allow it)"
            raise KeyRefusedError(_one_form_of(key), reason)


def _one_form(text: str) -> str:
    return _one_form_of(_parse(text))


def _one_form_of(key: _Key) -> str:
    version = f"/{key.version}" if key.version else ""
    return f"https://{key.authority}/keys/{key.name}{version}"


def _parse(text: str) -> _Key:
    match = _KEY_URL.fullmatch(text)
    if not match:
        raise ProviderError(f"{quoted(text)} is not https://VAULT/keys/NAME, with a version or without")
    host, port, name, version = match.groups("")
    return _Key(host.lower() + ("" if port == ":443" else port), name, version.lower())


def _used_version(key_id: str, asked: _Key) -> str:
    """Return the version that the vault used, and check that it belongs to the requested key."""
    used = _parse(key_id)
    if (used.authority, used.name.lower()) != (asked.authority, asked.name.lower()) or not used.version:
        raise ProviderError("the vault used another key than the requested one")
    if asked.version not in ("", used.version):
        raise ProviderError("the vault used another version of the key than the requested one")
    return used.version


def _parse_annotation(annotation: bytes) -> _Wrapped:
    common = parse_annotation(annotation, _WRAP_TYPE)
    try:
        version = wire.text_value(wire.member(common.members, "key_version"))
        iv, data = (wire.bytes_value(wire.member(common.members, name)) for name in ("iv", "wrapped_data"))
    except ValueError as error:
        raise ProviderError(f"the annotation is malformed: {error}") from error
    wrapped = _Wrapped(_one_form(common.key_url), version, common.data, iv, data)
    if not _VERSION.fullmatch(wrapped.key_version):
        raise ProviderError("the annotation has no version of its key")
    if len(wrapped.wrapped_key) not in _RSA_BYTES or len(wrapped.iv) != _IV_BYTES:
        raise ProviderError("the wrapped_key or the iv of the annotation has a wrong length")
    if not _TAG_BYTES <= len(wrapped.wrapped_data) <= limits.PRIVATE_OPTIONS_BYTES + _TAG_BYTES:
        raise ProviderError("the wrapped_data of the annotation has a wrong length")
    return wrapped
