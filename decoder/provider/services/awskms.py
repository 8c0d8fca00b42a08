"""AWS KMS: private options, encrypted by a symmetric key that never leaves the service.

The annotation is JSON as other providers write it: `key_url` is `awskms://` and the key as it was named (ARN, ID or
alias), `wrapped_key` is KMS's CiphertextBlob, `wrap_type` is `AWSKMS`, and `encryption_context_names`, if there is an
encryption context, lists its names; both sides configure the values. A policy and its patterns name keys without
`awskms://`. Requests to decrypt name the key, so that KMS rejects a ciphertext of another one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import import_module
from threading import Lock
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from decoder import limits
from decoder.errors import UsageError, quoted
from decoder.extras import missing
from decoder.formats import wire
from decoder.node import network
from decoder.node.network import is_loopback
from decoder.provider import Option, Use
from decoder.provider.deadline import within
from decoder.provider.errors import ProviderError
from decoder.provider.reach import reach_url
from decoder.provider.services.choice import check_key_to_unwrap, key_to_wrap
from decoder.provider.services.wrapped import build_annotation, parse_annotation

if TYPE_CHECKING:
    from decoder.provider.policy import KeyPolicy

OPTIONS = (
    Option("key", "key ARN, key ID, alias ARN or alias/NAME"),
    Option("region", "the key's region (default: that in the key's ARN, or in AWS's configuration)"),
    Option("profile", "the profile in AWS's configuration files"),
    Option("endpoint", "the URL of the service (default: that of the region)"),
    Option("encryption-context", "NAME=VALUE; unwrapping needs the same", many=True),
)

_SCHEME = "awskms://"
_EXAMPLE = "awskms://arn:aws:kms:REGION:ACCOUNT:key/ID"
_WRAP_TYPE = "AWSKMS"
_ARN = re.compile(
    r"arn:aws[a-z-]{0,16}:kms:(?P<region>[a-z0-9-]{1,32}):[0-9]{12}:(key/[A-Za-z0-9-]{1,128}|alias/[A-Za-z0-9/_-]{1,250})"
)
_NAME = re.compile(r"[A-Za-z0-9-]{1,128}|alias/[A-Za-z0-9/_-]{1,250}")
# Errors whose messages are about keys and permissions, besides KMS's own; others may hold data that was sent.
_SAID = ("AccessDeniedException", "ExpiredTokenException", "ThrottlingException", "UnrecognizedClientException")


def create(options: Mapping[str, str], policy: KeyPolicy) -> AwsKms:
    """Create the provider.

    Raises:
        UsageError: the key, the endpoint or the encryption context is malformed.
        ProviderError: botocore is not installed, or the profile does not exist.
    """
    key = options.get("key", "")
    if key and not (_ARN.fullmatch(key) or _NAME.fullmatch(key)):
        raise UsageError(f"the option key must be a {OPTIONS[0].help}, not {quoted(key)}")
    context = _parse_context(options.get("encryption-context", ""))
    _check_endpoint(options.get("endpoint", ""))
    return AwsKms(policy, context, _Service(options))


class AwsKms:
    """Private options encrypted by AWS KMS.

    Args:
        policy: which keys may be used.
        context: the encryption context, by name.
        service: KMS's API.
    """

    def __init__(self, policy: KeyPolicy, context: Mapping[str, str], service: _Service) -> None:
        self._policy = policy
        self._context = dict(context)
        self._service = service

    def reach(self, seconds: float) -> None:
        """Connect to the endpoint; see `ReachableService`."""
        self._service.reach(self._policy.configured, seconds)

    def wrap(self, options: bytes, parameters: Sequence[str]) -> Use:
        """Prepare to encrypt private options, at most AWS_KMS_PLAINTEXT_BYTES; see `KeyService`."""
        if len(options) > limits.AWS_KMS_PLAINTEXT_BYTES:
            raise ProviderError(f"AWS KMS encrypts at most {limits.AWS_KMS_PLAINTEXT_BYTES} bytes")
        key = key_to_wrap(_stripped(parameters), self._policy, _checked, _EXAMPLE)
        names: dict[str, object] = {"encryption_context_names": sorted(self._context)} if self._context else {}

        def run(seconds: float) -> bytes:
            request = {"Plaintext": options, "EncryptionContext": self._context}
            ciphertext = self._service.call(key, "encrypt", request, seconds)
            return build_annotation(_SCHEME + key, ciphertext, _WRAP_TYPE, **names)

        return Use((key,), run)

    def unwrap(self, annotation: bytes, parameters: Sequence[str]) -> Use:
        """Prepare to decrypt private options with the key that the annotation names; see `KeyService`."""
        wrapped = parse_annotation(annotation, _WRAP_TYPE)
        if not wrapped.key_url.startswith(_SCHEME):
            raise ProviderError(f"the annotation's key {quoted(wrapped.key_url)} is not an {_SCHEME} URL")
        key = _checked(wrapped.key_url)
        check_key_to_unwrap(key, _stripped(parameters), self._policy, _checked)
        self._check_context(wrapped.members)
        request = {"CiphertextBlob": wrapped.data, "EncryptionContext": self._context}
        return Use((key,), lambda seconds: self._service.call(key, "decrypt", request, seconds))

    def _check_context(self, members: dict[str, object]) -> None:
        """Compare the names of the encryption context, for a clear message; KMS compares the values."""
        try:
            names = [wire.text_value(name) for name in wire.list_value(members.get("encryption_context_names"))]
        except ValueError as error:
            raise ProviderError(f"the annotation is malformed: {error}") from error
        if set(names) != set(self._context):
            have = ", ".join(sorted(self._context)) or "nothing"
            raise ProviderError(f"the image's encryption context has {quoted(sorted(names))}; configured is {have}")


class _Service:
    """AWS KMS's API, with the region, time limit and errors of a call."""

    def __init__(self, options: Mapping[str, str]) -> None:
        try:
            session = import_module("botocore.session")  # boto3 would add nothing that is used here
            self._config = import_module("botocore.config").Config
            self._errors = import_module("botocore.exceptions")
        except ImportError as error:
            raise ProviderError(missing("aws", error)) from error
        self._region = options.get("region", "")
        self._endpoint = options.get("endpoint", "")
        try:
            self._session: Any = session.Session(profile=options.get("profile") or None)
            self._session.get_scoped_config()  # raises if the profile does not exist
        except self._errors.BotoCoreError as error:
            raise ProviderError(self._reason(error)) from error
        self._lock = Lock()  # a session is not thread-safe; its clients are
        self._client = lru_cache(maxsize=8)(self._connect)

    def call(self, key: str, operation: str, request: Mapping[str, object], seconds: float) -> bytes:
        """Encrypt or decrypt.

        Args:
            key: ARN, ID or alias.
            operation: `encrypt` or `decrypt`.
            request: the arguments of the operation, besides the key.
            seconds: how long it may take.

        Returns:
            The ciphertext or the plaintext.

        Raises:
            ProviderError: it failed.
        """
        return within(seconds, lambda: self._call(key, operation, request, monotonic() + seconds))

    def reach(self, key: str, seconds: float) -> None:
        """Connect to the endpoint of a key's region, if it is known.

        Raises:
            ProviderError: no server answers.
        """
        if self._endpoint or self._region_of(key):
            reach_url(within(seconds, lambda: str(self._client(self._region_of(key)).meta.endpoint_url)), seconds)

    def _region_of(self, key: str) -> str:
        match = _ARN.fullmatch(key)
        return self._region or (match["region"] if match else "")

    def _ask(self, key: str, operation: str, request: Mapping[str, object], deadline: float) -> Any:
        """Ask KMS; while it throttles or cannot be reached, repeat with random pauses until the time is over."""
        pauses = network.pauses(limits.PROVIDER_FIRST_PAUSE_SECONDS, limits.PROVIDER_LONGEST_PAUSE_SECONDS)
        while True:
            pause = next(pauses)
            try:
                return getattr(self._client(self._region_of(key)), operation)(KeyId=key, **request)
            except (self._errors.BotoCoreError, self._errors.ClientError, OSError) as error:
                if not self._may_pass(error) or pause + limits.RETRY_LEAST_SECONDS > deadline - monotonic():
                    raise ProviderError(self._reason(error)) from error
            sleep(pause)

    def _may_pass(self, error: Exception) -> bool:
        if isinstance(error, self._errors.ClientError):
            response = getattr(error, "response", {})
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            return status in network.BUSY_STATUSES or response.get("Error", {}).get("Code") in _PASSING
        return type(error).__name__ in _UNREACHABLE

    def _call(self, key: str, operation: str, request: Mapping[str, object], deadline: float) -> bytes:
        try:
            reply = self._ask(key, operation, request, deadline)
        except (ValueError, TypeError, AttributeError) as error:  # botocore does not check the types of a reply
            raise ProviderError("AWS KMS's reply is malformed") from error
        result = reply.get("CiphertextBlob" if operation == "encrypt" else "Plaintext")
        if not isinstance(result, bytes) or not 0 < len(result) <= limits.PROVIDER_WRAPPED_BYTES:
            raise ProviderError("AWS KMS's reply has no result, or one that is too long")
        if not _is_key(str(reply.get("KeyId", "")), key):
            raise ProviderError("AWS KMS used another key than the requested one")
        return result

    def _connect(self, region: str) -> Any:
        config = self._config(
            connect_timeout=limits.CLOUD_KMS_CONNECT_SECONDS,
            read_timeout=limits.CLOUD_KMS_READ_SECONDS,
            retries={"mode": "standard", "total_max_attempts": 1},  # `_ask` tries again, for as long as it may
        )
        with self._lock:
            return self._session.create_client(
                "kms", region_name=region or None, endpoint_url=self._endpoint or None, config=config
            )

    def _reason(self, error: Exception) -> str:
        if isinstance(error, self._errors.ClientError):
            details = getattr(error, "response", {}).get("Error", {})
            code = str(details.get("Code", ""))
            first, *_ = str(details.get("Message", "")).splitlines() or [""]
            own = type(error) is not self._errors.ClientError
            said = f": {quoted(first)}" if first and (own or code in _SAID) else ""
            return f"AWS KMS: {code if re.fullmatch(r'[A-Za-z0-9]{1,64}', code) else 'an error'}{said}"
        return f"AWS KMS: {_CAUSES.get(type(error).__name__) or type(error).__name__}"


# Errors of AWS after which the same request may succeed later, with any status (docs: Error retries, KMS API errors).
_PASSING = frozenset(
    (
        "DependencyTimeoutException",
        "KMSInternalException",
        "LimitExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "ServiceUnavailable",
        "ServiceUnavailableException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    )
)
_UNREACHABLE = ("EndpointConnectionError", "ConnectTimeoutError", "ConnectionClosedError", "ProxyConnectionError")
_CAUSES = {
    "NoCredentialsError": "there are no AWS credentials",
    "PartialCredentialsError": "the AWS credentials are incomplete",
    "CredentialRetrievalError": "the AWS credentials cannot be fetched",
    "ProfileNotFound": "the AWS profile does not exist",
    "NoRegionError": "no region is known; the option region can name it",
    "InvalidRegionError": "the region's name is malformed",
    "EndpointConnectionError": "the endpoint cannot be reached",
    "ConnectTimeoutError": "the endpoint cannot be reached in time",
    "ReadTimeoutError": "no answer in time",
    "ConnectionClosedError": "the connection was closed before an answer came",
    "SSLError": "no TLS connection, perhaps because of the endpoint's certificate",
    "ProxyConnectionError": "the proxy cannot be reached",
}


def _stripped(parameters: Sequence[str]) -> list[str]:
    return [parameter.strip() for parameter in parameters]


def _checked(name: str) -> str:
    """Check the name of a key, and return it without `awskms://`."""
    key = name.removeprefix(_SCHEME)
    if not (_ARN.fullmatch(key) or _NAME.fullmatch(key)):
        raise ProviderError(f"the key {quoted(name)} is not a {OPTIONS[0].help}")
    return key


def _is_key(arn: str, key: str) -> bool:
    """Check whether KMS has used the requested key. For an alias that cannot be checked."""
    if not _ARN.fullmatch(arn):
        return False
    return "alias/" in key or arn == key or arn.endswith(f":key/{key}")


def _parse_context(text: str) -> dict[str, str]:
    context: dict[str, str] = {}
    for item in text.splitlines():
        name, equals, value = item.partition("=")
        if not (name and equals and value) or name in context:
            raise UsageError("the option encryption-context must be NAME=VALUE, each name once")
        context[name] = value
    return context


def _check_endpoint(endpoint: str) -> None:
    """Check that an endpoint uses TLS, so that private options are not visible on the network."""
    if not endpoint:
        return
    try:
        url = urlsplit(endpoint)
        secure = url.scheme == "https" or (url.scheme == "http" and is_loopback(url.hostname or ""))
    except ValueError:
        secure = False
    if not secure or url.username is not None:
        raise UsageError("the option endpoint must be an https:// URL without a user (http:// only on this machine)")
