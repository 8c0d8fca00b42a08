"""Google Cloud KMS, with annotations in the form of the published provider for it (docs/formats.md §5).

The annotation is JSON: `key_url` is the key, `gcpkms://projects/P/locations/L/keyRings/R/cryptoKeys/K`,
`wrapped_key` is Cloud KMS's ciphertext of the private options, without additional authenticated data, and `wrap_type`
is `AES`. The option `key` overrides the keys that a caller names, for wrapping and unwrapping, like the published
provider's kmsURI.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping, Sequence
from functools import cache, partial
from importlib import import_module
from time import monotonic
from typing import TYPE_CHECKING, Any

from decoder import limits
from decoder.errors import UsageError, quoted
from decoder.extras import missing
from decoder.provider import Option, Use
from decoder.provider.client.quietgrpc import import_grpc
from decoder.provider.deadline import within
from decoder.provider.errors import ProviderError
from decoder.provider.reach import reach_url
from decoder.provider.services.choice import check_key_to_unwrap, key_to_wrap
from decoder.provider.services.wrapped import build_annotation, parse_annotation

if TYPE_CHECKING:
    from decoder.provider.policy import KeyPolicy

_EXAMPLE = "gcpkms://projects/P/locations/L/keyRings/R/cryptoKeys/K"

OPTIONS = (
    Option("key", _EXAMPLE, also=("kmsURI",)),
    Option("adc", "the file with application default credentials (default: Google's usual places)"),
    Option("endpoint", "HOST[:PORT] of the service (default: cloudkms.googleapis.com)"),
    Option("ca-file", "CA certificates of the endpoint, PEM"),
    Option("grpcport", "[ADDRESS]:PORT to listen on, like --listen"),
)

_WRAP_TYPE = "AES"
_HOST = "cloudkms.googleapis.com"
_DISTRUST = ("handshake", "CERTIFICATE_VERIFY_FAILED", "Hostname Verification")  # gRPC's messages about failures of TLS
_SCOPES = ["https://www.googleapis.com/auth/cloud-platform", "https://www.googleapis.com/auth/cloudkms"]
# Exceptions of google-auth, besides its own, for files and replies whose JSON has unexpected types.
_MALFORMED = (ValueError, TypeError, KeyError, AttributeError)
_KEY = re.compile(
    r"gcpkms://(projects/[a-z0-9.:-]{1,128}/locations/[a-z0-9-]{1,64}"
    r"/keyRings/[A-Za-z0-9_-]{1,63}/cryptoKeys/[A-Za-z0-9_-]{1,63})"
)
# Private options have a few hundred bytes; a reply has the ciphertext and some names.
_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", 2 * limits.PROVIDER_WRAPPED_BYTES),
    # gRPC's default is to reconnect after up to 120 seconds, longer than our time limit.
    ("grpc.max_reconnect_backoff_ms", int(limits.PROVIDER_LONGEST_PAUSE_SECONDS * 1000)),
)


def create(options: Mapping[str, str], policy: KeyPolicy) -> GoogleKms:
    """Create the provider.

    Raises:
        UsageError: the key is not a gcpkms:// URI.
        ProviderError: google-cloud-kms is not installed, or a file cannot be read.
    """
    key = options.get("key", "")
    if key and not _KEY.fullmatch(key):
        raise UsageError(f"the option key must be {OPTIONS[0].help}, not {quoted(key)}")
    return GoogleKms(policy, _Service(options))


class GoogleKms:
    """Private options wrapped by a symmetric key that does not leave Google Cloud KMS."""

    def __init__(self, policy: KeyPolicy, service: _Service) -> None:
        self._policy = policy
        self._service = service

    def reach(self, seconds: float) -> None:
        """Connect to the service; see `ReachableService`."""
        reach_url(f"https://{self._service.target}", seconds)

    def wrap(self, options: bytes, parameters: Sequence[str]) -> Use:
        """Prepare to encrypt private options, at most GCP_KMS_PLAINTEXT_BYTES; see `KeyService`."""
        if len(options) > limits.GCP_KMS_PLAINTEXT_BYTES:
            raise ProviderError(f"Cloud KMS encrypts at most {limits.GCP_KMS_PLAINTEXT_BYTES} bytes")
        key = key_to_wrap(self._named(parameters), self._policy, _checked, _EXAMPLE)

        def run(seconds: float) -> bytes:
            return build_annotation(key, self._service.encrypt(_resource(key), options, seconds), _WRAP_TYPE)

        return Use((key,), run)

    def unwrap(self, annotation: bytes, parameters: Sequence[str]) -> Use:
        """Prepare to decrypt private options with the key that the annotation names; see `KeyService`."""
        wrapped = parse_annotation(annotation, _WRAP_TYPE)
        name = _resource(wrapped.key_url)
        check_key_to_unwrap(wrapped.key_url, self._named(parameters), self._policy, _checked)
        return Use((wrapped.key_url,), lambda seconds: self._service.decrypt(name, wrapped.data, seconds))

    def _named(self, parameters: Sequence[str]) -> list[str]:
        """Return the keys that a caller names, unless `key` overrides them. Names from files may end in a break."""
        return [] if self._policy.configured else [parameter.strip() for parameter in parameters]


class _Service:
    """Cloud KMS's API over gRPC: the two calls, with checksums, time limit and errors."""

    def __init__(self, options: Mapping[str, str]) -> None:
        try:
            self._grpc = import_grpc()
            self._auth = import_module("google.auth")
            self._requests = import_module("google.auth.transport.requests")
            self._errors = import_module("google.api_core.exceptions")
            self._retry = import_module("google.api_core.retry")
            self._kms = import_module("google.cloud.kms_v1")
            endpoint = options.get("endpoint", "") or _HOST
            self.target = endpoint if re.search(r":\d+$", endpoint) else f"{endpoint}:443"
            self._client = self._connect(_read(options.get("ca-file", "")))
        except ImportError as error:
            raise ProviderError(missing("gcp", error)) from error
        file = options.get("adc", "") or os.environ.get("GOOGLE_APPLICATION_CREDENTIALS", "")
        self._credentials: Any = self._load_credentials(file) if file else None

    def encrypt(self, name: str, plaintext: bytes, seconds: float) -> bytes:
        """Encrypt with the primary version of a key.

        Raises:
            ProviderError: it failed.
        """
        request = {"name": name, "plaintext": plaintext, "plaintext_crc32c": crc32c(plaintext)}
        reply = self._call("encrypt", request, seconds)
        if not reply.verified_plaintext_crc32c:
            raise ProviderError("Cloud KMS did not verify the checksum of the plaintext")
        if reply.ciphertext_crc32c != crc32c(reply.ciphertext):
            raise ProviderError("Cloud KMS's reply is damaged: the checksum of its ciphertext is wrong")
        if not reply.name.startswith(f"{name}/cryptoKeyVersions/"):
            raise ProviderError("Cloud KMS used another key than the requested one")
        if not 0 < len(reply.ciphertext) <= limits.PROVIDER_WRAPPED_BYTES:
            raise ProviderError(f"Cloud KMS's ciphertext has {len(reply.ciphertext)} bytes")
        return bytes(reply.ciphertext)

    def decrypt(self, name: str, ciphertext: bytes, seconds: float) -> bytes:
        """Decrypt with the version of the key that encrypted.

        Raises:
            ProviderError: it failed.
        """
        request = {"name": name, "ciphertext": ciphertext, "ciphertext_crc32c": crc32c(ciphertext)}
        reply = self._call("decrypt", request, seconds)
        if reply.plaintext_crc32c != crc32c(reply.plaintext):
            raise ProviderError("Cloud KMS's reply is damaged: the checksum of its plaintext is wrong")
        return bytes(reply.plaintext)

    def _connect(self, authorities: bytes | None) -> Any:
        channel = self._grpc.secure_channel(
            self.target, self._grpc.ssl_channel_credentials(authorities), _CHANNEL_OPTIONS
        )
        transport = self._kms.KeyManagementServiceClient.get_transport_class("grpc")
        return self._kms.KeyManagementServiceClient(transport=transport(channel=channel))

    def _call(self, method: str, request: dict[str, object], seconds: float) -> Any:
        """Call the API; repeat while it throttles or cannot be reached."""
        deadline = monotonic() + seconds
        return within(seconds, lambda: self._try_call(method, request, deadline))

    def _try_call(self, method: str, request: dict[str, object], deadline: float) -> Any:
        headers = self._authorize(deadline)
        left = max(0.1, deadline - monotonic())
        retry = self._retry.Retry(  # its pauses are random as a whole ("full jitter")
            predicate=self._passes,
            initial=limits.PROVIDER_FIRST_PAUSE_SECONDS,
            maximum=limits.PROVIDER_LONGEST_PAUSE_SECONDS,
            multiplier=2,
            timeout=left,
        )
        try:
            return getattr(self._client, method)(
                request=request, retry=retry, timeout=left, metadata=list(headers.items())
            )
        except self._errors.RetryError as error:
            reason = self._reason(error.cause, headers)
            raise ProviderError(f"{reason}; tried again until the time was over") from error
        except self._errors.GoogleAPICallError as error:
            raise ProviderError(self._reason(error, headers)) from error

    def _passes(self, error: Exception) -> bool:
        """Check whether an error is temporary (throttling, an unreachable service) and time is left."""
        if isinstance(error, self._errors.ServiceUnavailable):
            return not any(text in str(error) for text in _DISTRUST)
        return isinstance(error, self._errors.ResourceExhausted) and "larger than max" not in str(error)

    def _reason(self, error: Any, headers: Mapping[str, str]) -> str:
        """Return the service's reason, without the token, which is the only secret that its messages may hold."""
        text = str(getattr(error, "message", "") or "")
        if "CERTIFICATE_VERIFY_FAILED" in text or "Hostname Verification" in text:
            return "Cloud KMS: the TLS certificate of the endpoint is not trusted; set ca-file to its CA"
        if isinstance(error, self._errors.DeadlineExceeded):
            return "Cloud KMS: no answer in time"
        for value in headers.values():
            text = text.replace(value.rpartition(" ")[2], "…")
        status = getattr(error, "grpc_status_code", None)
        return f"Cloud KMS: {getattr(status, 'name', type(error).__name__)}: {quoted(text)}"

    def _authorize(self, deadline: float) -> dict[str, str]:
        """Build the headers of a request, with a new token if the last one has expired."""
        request = partial(self._requests.Request(), timeout=max(0.1, deadline - monotonic()))
        if self._credentials is None:
            self._credentials = self._find_credentials(request)
        credentials = self._credentials
        if credentials.token_state.name != "FRESH":
            try:
                credentials.refresh(request)
            except self._auth.exceptions.TransportError as error:
                cause = type(error.args[0]).__name__ if error.args else "TransportError"
                raise ProviderError(f"the token service of the credentials cannot be reached ({cause})") from error
            except (self._auth.exceptions.GoogleAuthError, *_MALFORMED, OSError) as error:
                raise ProviderError(f"the credentials got no token: {_oauth_reason(error)}") from error
        headers: dict[str, str] = {}
        credentials.apply(headers)
        return {name.lower(): value for name, value in headers.items()}

    def _load_credentials(self, file: str) -> Any:
        _read(file)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about files of unknown origin; the operator chose this one
                credentials, _ = self._auth.load_credentials_from_file(file)
        except (self._auth.exceptions.GoogleAuthError, *_MALFORMED) as error:
            raise ProviderError(f"the file {quoted(file)} does not hold Google credentials") from error
        return self._with_scope(credentials)

    def _find_credentials(self, request: Any) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                credentials, _ = self._auth.default(request=request)
        except (self._auth.exceptions.GoogleAuthError, *_MALFORMED, OSError) as error:
            raise ProviderError("there are no Google credentials; set adc to a file with them") from error
        return self._with_scope(credentials)

    def _with_scope(self, credentials: Any) -> Any:
        return import_module("google.auth.credentials").with_scopes_if_required(credentials, _SCOPES)


def crc32c(data: bytes) -> int:
    """Compute the CRC-32C of data (RFC 3720 appendix B.4)."""
    table = _crc32c_table()
    value = 0xFFFFFFFF
    for byte in data:
        value = table[(value ^ byte) & 0xFF] ^ value >> 8
    return value ^ 0xFFFFFFFF


@cache
def _crc32c_table() -> list[int]:
    table = []
    for value in range(256):
        remainder = value
        for _ in range(8):
            remainder = remainder >> 1 ^ (0x82F63B78 if remainder & 1 else 0)
        table.append(remainder)
    return table


def _checked(key: str) -> str:
    """Check the URI of a key."""
    _resource(key)
    return key


def _resource(key: str) -> str:
    """Return a key's name in the API; a URI that could lead to another path of the API is rejected."""
    match = _KEY.fullmatch(key)
    if match is None:
        raise ProviderError(f"the key {quoted(key)} is not {OPTIONS[0].help}")
    return match[1]


def _read(file: str) -> bytes | None:
    if not file:
        return None
    try:
        with open(file, "rb") as opened:
            data = opened.read(limits.PROVIDER_FILE_BYTES + 1)
    except OSError as error:
        raise ProviderError(f"the file {quoted(file)} cannot be read: {error.strerror}") from error
    if len(data) > limits.PROVIDER_FILE_BYTES:
        raise ProviderError(f"the file {quoted(file)} is longer than {limits.PROVIDER_FILE_BYTES} bytes")
    return data


def _oauth_reason(error: Exception) -> str:
    """Return the reason why no token was issued: OAuth's error code and description (RFC 6749 §5.2), no secret."""
    text = str(error.args[0]) if error.args else ""
    if not re.match(r"[a-z_]{3,40}: ", text):
        return type(error).__name__
    return quoted(re.sub(r"\S{40,}", "…", text))
