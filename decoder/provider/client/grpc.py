"""A keyprovider that is a gRPC server: service `keyprovider.KeyProviderService`, methods WrapKey and UnWrapKey.

Its two messages have one field each, so no generated code is needed. grpcio is imported when a server is called.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from decoder import limits
from decoder.extras import missing
from decoder.formats import protobuf
from decoder.node import network
from decoder.provider.client.held import EACH_ONCE, Held
from decoder.provider.client.quietgrpc import import_grpc
from decoder.provider.deadline import within
from decoder.provider.errors import EndedError, NoKekServiceError, ProviderError, excerpt
from decoder.record import Record

if TYPE_CHECKING:
    import grpc

    from decoder.provider.client.config import GrpcProvider
    from decoder.provider.client.protocol import Operation
    from decoder.provider.client.tls import Trust

SERVICE = "keyprovider.KeyProviderService"
KEK_SERVICE = "ctd_decoder.KekService"  # only our own servers have it, for key-encryption keys; same messages

_METHODS: dict[Operation, str] = {"keywrap": f"/{SERVICE}/WrapKey", "keyunwrap": f"/{SERVICE}/UnWrapKey"}
_KEK_METHODS: dict[Operation, str] = {
    "keywrap": f"/{KEK_SERVICE}/WrapKek",
    "keyunwrap": f"/{KEK_SERVICE}/UnWrapKek",
}


BUSY_TRAILER = "ctd-decoder-busy"  # of a busy server
IMAGE_METADATA = "ctd-decoder-image"  # of a call: the reference of the image, for the audit of our server
_CONCURRENT = "Concurrent RPC limit exceeded"  # what earlier versions of our server say then
_SHARE = 0.95  # the share of its time that a call takes, so that time remains to find out why it failed


_FIELD = 1
_OVERHEAD_BYTES = 16  # of a message over what its field holds


def method_of(operation: Operation, is_kek: bool = False) -> str:
    """Return the path of a method, for private options or for a key-encryption key."""
    return (_KEK_METHODS if is_kek else _METHODS)[operation]


class Question(Record):
    """A call of a server.

    Attributes:
        method: the path of the method, from `method_of`.
        request: the request, at most PROVIDER_MESSAGE_BYTES.
        image: the image's reference, for the audit of our own servers, or "".
    """

    method: str
    request: bytes
    image: str = ""


def ask(
    provider: GrpcProvider,
    question: Question,
    seconds: float,
    held: Held = EACH_ONCE,
    is_patient: bool = True,
) -> bytes:
    """Ask a server; while it cannot be reached or is busy, repeat with random pauses until the time is over.

    Args:
        provider: the server's address and TLS settings. A proxy is never used.
        question: the call.
        seconds: how long the whole call may take.
        held: connections to reuse; by default a new one is created for this call.
        is_patient: whether to wait for a server that cannot be reached. If not, another one can be asked.

    Raises:
        NoKekServiceError: the server does not have those methods.
        ProviderError: grpcio is not installed, a file cannot be used, the server cannot be reached or trusted, does
            not answer in time, or answers with an error, whose text is quoted, or with too much.
    """
    return within(seconds, lambda: _Call(provider, question, seconds, is_patient).run(held))


class _Call:
    """One call, with all its attempts."""

    def __init__(self, provider: GrpcProvider, question: Question, seconds: float, is_patient: bool) -> None:
        self._grpc = _load()
        self._provider = provider
        self._method = question.method
        self._message = protobuf.build_bytes(_FIELD, question.request)
        # The reference is untrusted text, and gRPC's metadata must be printable ASCII.
        image = ascii(question.image)[1:-1][: limits.REGISTRY_REFERENCE_CHARACTERS]
        self._metadata = ((IMAGE_METADATA, image),) if image else ()
        self._seconds = seconds
        self._is_patient = is_patient
        self._deadline = time.monotonic() + _SHARE * seconds
        self._trust: Trust | None = None
        self._seen: object = None
        self._ended = self._strange = 0

    def run(self, held: Held) -> bytes:
        """Call, and repeat after temporary failures."""
        codes, unreachable = self._grpc.StatusCode, None
        pauses = network.pauses(limits.PROVIDER_FIRST_PAUSE_SECONDS, limits.PROVIDER_LONGEST_PAUSE_SECONDS)
        while True:
            error, pause = self._attempt(held), next(pauses)
            if isinstance(error, bytes):
                return self._result(error)
            if error.code() == codes.UNAVAILABLE:
                unreachable = error
            elif error.code() == codes.DEADLINE_EXCEEDED and unreachable:
                error = unreachable  # the last attempt had little time; the error of an earlier one says more
            if not self._may_pass(error) or pause + limits.RETRY_LEAST_SECONDS > self._deadline - time.monotonic():
                if error.code() == codes.UNIMPLEMENTED and self._method in _KEK_METHODS.values():
                    raise NoKekServiceError("the server has no methods for key-encryption keys") from error
                raise ProviderError(_cause(self._grpc, error, self._seconds)) from error
            time.sleep(pause)

    def _attempt(self, held: Held) -> Any:
        """Return the reply or the error. A connection that may be the cause of an error is not used again."""
        try:
            # A connection is only valid as long as the files that it was made with.
            identity = (self._provider, _signatures(self._provider))
            with held.use(identity, self._connect, lambda channel: channel.close()) as channel:
                method: Callable[..., bytes] = channel.unary_unary(self._method)
                try:
                    left = max(0.0, self._deadline - time.monotonic())
                    return method(self._message, timeout=left, metadata=self._metadata)
                except self._grpc.RpcError as error:
                    if error.code() in (self._grpc.StatusCode.UNAVAILABLE, self._grpc.StatusCode.UNAUTHENTICATED):
                        raise  # out of the block, so that `held` drops the connection
                    return error
        except self._grpc.RpcError as error:
            return error

    def _may_pass(self, error: Any) -> bool:
        codes = self._grpc.StatusCode
        if error.code() == codes.UNAVAILABLE and self._trust:
            self._check(self._trust)
        if not self._is_patient:
            return False
        if error.code() == codes.RESOURCE_EXHAUSTED:
            return _is_busy(error)
        if error.code() == codes.UNAUTHENTICATED:  # our certificate was valid once; there may be a new one
            self._strange += 1
            return self._strange <= limits.PROVIDER_RETRIES
        return error.code() in (codes.UNAVAILABLE, codes.CANCELLED)

    def _check(self, trust: Trust) -> None:
        """Raise if TLS is the cause. Allow a few ended connections, because the server may be restarting."""
        try:
            trust.check()
        except EndedError:
            self._ended += 1
            if self._ended > limits.PROVIDER_RETRIES:
                raise

    def _connect(self) -> Any:
        seen = _signatures(self._provider)
        if self._provider.tls and (not self._trust or seen != self._seen):
            from decoder.provider.client.tls import Trust

            self._seen = seen
            self._trust = Trust(self._provider.address, self._provider.tls, self._deadline)
        return _connect(self._provider.address, self._trust.channel if self._trust else None)

    def _result(self, reply: bytes) -> bytes:
        try:
            return protobuf.parse_bytes(reply, _FIELD)
        except ValueError as error:
            raise ProviderError(f"its reply is not a message of the keyprovider service: {error}") from error


def _signatures(provider: GrpcProvider) -> tuple[object, ...]:
    """Return a value that changes with the TLS files."""
    if not provider.tls:
        return ()
    from decoder.provider.client.tls import signatures

    return signatures(provider.tls)


def _is_busy(error: Any) -> bool:
    """Check whether a server is busy; RESOURCE_EXHAUSTED can also mean that a message is too large."""
    trailers = dict(error.trailing_metadata() or ())
    return BUSY_TRAILER in trailers or _CONCURRENT in (error.details() or "")


def _load() -> Any:
    try:
        return import_grpc()
    except ImportError as error:
        raise ProviderError(missing("grpc", error)) from error


def _connect(address: str, tls: tuple[grpc.ChannelCredentials, list[tuple[str, str]]] | None) -> grpc.Channel:
    import grpc

    options: list[tuple[str, str | int]] = [
        ("grpc.enable_http_proxy", 0),
        ("grpc.enable_retries", 0),  # gRPC's retries would not respect our time limit
        ("grpc.use_local_subchannel_pool", 1),  # so that a retry makes a new connection
        ("grpc.max_receive_message_length", limits.PROVIDER_MESSAGE_BYTES + _OVERHEAD_BYTES),
    ]
    if tls:
        return grpc.secure_channel(address, tls[0], [*options, *tls[1]])
    return grpc.insecure_channel(address, options)


def _cause(grpc: Any, error: Any, seconds: float) -> str:
    code, text = error.code(), excerpt((error.details() or "")[: limits.PROVIDER_ERROR_BYTES])
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"no answer within {seconds:g} seconds"
    if code == grpc.StatusCode.UNAVAILABLE:
        return f"it cannot be reached: {text}"
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
        return f"a message is too large, or it has too much to do: {text}"
    return f"it answered {code.name}: {text}"
