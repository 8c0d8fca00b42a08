"""The methods of the server: WrapKey and UnWrapKey for any client, WrapKek and UnWrapKek for ours."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn, cast

import grpc
import grpc.aio

from decoder import failure, limits
from decoder.provider.client import protocol
from decoder.provider.client.grpc import BUSY_TRAILER, IMAGE_METADATA, KEK_SERVICE, SERVICE
from decoder.provider.envelope import WITHOUT_ENVELOPES, WITHOUT_KEKS
from decoder.provider.errors import ClientRefusedError, KeyRefusedError, ProviderError, RateError
from decoder.provider.server.gate import StaleConnectionError
from decoder.provider.server.service import RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import ThreadPoolExecutor

    from decoder.provider import Use
    from decoder.provider.server.gate import Gate
    from decoder.provider.server.numbers.tally import Row
    from decoder.provider.server.service import Asked, Service

Context = grpc.aio.ServicerContext
_OPERATIONS: tuple[protocol.Operation, protocol.Operation] = ("keywrap", "keyunwrap")


class BusyError(Exception):
    """The server is busy; the client should try again."""


class Calls:
    """Answers calls, at most PROVIDER_SERVER_CALLS at a time; further calls are told that the server is busy.

    Attributes:
        running: how many calls are being answered.

    Args:
        service: parses and performs requests.
        threads: for requests that wait for a key service.
        say: prints lines for the operator.
        row: counts calls and their outcomes.
        gate: decides who may call.
    """

    def __init__(
        self, service: Service, threads: ThreadPoolExecutor, say: Callable[[str], None], row: Row, gate: Gate
    ) -> None:
        self._service = service
        self._threads = threads
        self._say = say
        self._row = row
        self._gate = gate
        self.running = self._waiting = self._bytes = 0

    def handlers(self) -> Sequence[grpc.GenericRpcHandler]:
        """Return the methods of both services."""
        return (
            self._handler(SERVICE, ("WrapKey", "UnWrapKey"), is_kek=False),
            self._handler(KEK_SERVICE, ("WrapKek", "UnWrapKek"), is_kek=True),
        )

    def _handler(self, service: str, names: Sequence[str], is_kek: bool) -> grpc.GenericRpcHandler:
        def method(operation: protocol.Operation) -> Any:
            async def call(message: bytes, context: Context[bytes, bytes]) -> bytes:
                return await self._call(operation, is_kek, message, context)

            return grpc.unary_unary_rpc_method_handler(cast("Any", call))

        methods = dict(zip(names, map(method, _OPERATIONS), strict=True))
        if is_kek and self._service.provider.name in WITHOUT_ENVELOPES:
            del methods[names[0]]  # clients then wrap each layer's options, in the format that other programs read
        if is_kek and self._service.provider.name in WITHOUT_KEKS:
            methods = {}  # clients then unwrap each layer's options
        return grpc.method_handlers_generic_handler(service, methods)

    async def _call(
        self, operation: protocol.Operation, is_kek: bool, message: bytes, context: Context[bytes, bytes]
    ) -> bytes:
        """Answer one call; errors become its status."""
        code, outcome = grpc.StatusCode.INTERNAL, "canceled"
        try:
            if self._is_busy(len(message)):
                raise BusyError  # noqa: TRY301 - all answers are made here
            with self._counted(len(message)):
                asked = self._service.parse(_parse_message(message), operation, is_kek)
                reply = protocol.build_message(protocol.build_reply(asked.kind, await self._perform(asked, context)))
            outcome = "ok"
            return reply  # noqa: TRY300 - success and failure are both counted below
        except (BusyError, RateError) as error:
            context.set_trailing_metadata(((BUSY_TRAILER, "1"),))
            code, outcome = grpc.StatusCode.RESOURCE_EXHAUSTED, getattr(error, "reason", "busy")
            text = "the server has too much to do; try again" if outcome == "busy" else str(error)
        except RequestError as error:
            code, outcome, text = grpc.StatusCode.INVALID_ARGUMENT, "malformed", str(error)
            self._say(f"malformed request from {self._address(context)}: {text}")
        except StaleConnectionError as error:
            code, outcome, text = grpc.StatusCode.UNAUTHENTICATED, "denied", str(error)
        except ClientRefusedError:
            code, outcome, text = grpc.StatusCode.PERMISSION_DENIED, "denied", "the server's policy does not allow this"
        except ProviderError as error:
            outcome = "refused" if isinstance(error, KeyRefusedError) else "failed"
            text = str(error)
            self._debug(error)
        except Exception as error:  # noqa: BLE001 - its text may hold a secret: neither the client nor the log gets it
            outcome, text = "internal", "internal error"
            self._debug(error)
            self._say(failure.internal_error(error))
        finally:
            self._row.add("requests", protocol.OPERATIONS[operation, is_kek], outcome)
        return await abort(context, code, text)

    def _debug(self, error: Exception) -> None:
        if trace := failure.traceback(error):
            self._say(trace.rstrip())

    @contextmanager
    def _counted(self, size: int) -> Iterator[None]:
        """Count a call, and the bytes of its request, while it is answered."""
        self.running, self._bytes = self.running + 1, self._bytes + size
        self._show()
        try:
            yield
        finally:
            self.running, self._bytes = self.running - 1, self._bytes - size
            self._show()

    def _show(self) -> None:
        self._row.set("in_flight", value=self.running)
        self._row.set("waiting", value=self._waiting)
        self._row.set("request_bytes", value=self._bytes)

    def _is_busy(self, size: int) -> bool:
        return (
            self.running >= limits.PROVIDER_SERVER_CALLS
            or self._waiting >= limits.PROVIDER_SERVER_WAITING
            or self._bytes + size > limits.PROVIDER_SERVER_BYTES
        )

    async def _perform(self, asked: Asked, context: Context[bytes, bytes]) -> bytes:
        """Perform a request if the client is allowed to send it, and record the outcome in any case."""
        began = monotonic()
        keys: tuple[str, ...] = ()
        cause: BaseException | None = None
        try:
            caller = self._gate.enter(context.peer())
            # The policy is about keys, whose names only `prepare` finds; it does not ask the key service yet.
            use = self._service.provider.prepare(asked.operation, asked.data, asked.parameters)
            keys = use.keys
            self._gate.check(caller, asked.operation, keys)
            return await self._run(use)
        except BaseException as error:
            cause = error
            raise
        finally:
            seconds = monotonic() - began
            self._row.observe("request_seconds", asked.operation, seconds)
            self._record(asked, keys, cause, context, seconds)

    def _record(
        self,
        asked: Asked,
        keys: tuple[str, ...],
        cause: BaseException | None,
        context: Context[bytes, bytes],
        seconds: float,
    ) -> None:
        peer = self._gate.identify(context.peer())
        more: dict[str, object] = {"client": peer.identity, "address": peer.address} if peer else {}
        if image := _image(context):
            more["image"] = image
        self._service.provider.record(asked.operation, keys, cause, **more, milliseconds=round(seconds * 1000))

    def _address(self, context: Context[bytes, bytes]) -> str:
        peer = self._gate.identify(context.peer())
        return peer.address if peer else "an unknown connection"

    async def _run(self, use: Use) -> bytes:
        """Run a request; in a thread only if it waits, because a thread switch costs more than using a local key."""
        seconds = limits.PROVIDER_SECONDS * limits.PROVIDER_OWN_SHARE
        if not use.waits:
            return use.run(seconds)
        try:
            done = asyncio.get_running_loop().run_in_executor(self._threads, use.run, seconds)
        except RuntimeError as error:  # the system allows no further thread (RLIMIT_NPROC, cgroups)
            raise BusyError from error
        self._waiting += 1
        self._show()
        try:
            return await asyncio.wait_for(done, limits.PROVIDER_SECONDS)
        except TimeoutError as error:
            raise ProviderError(f"the provider did not answer within {limits.PROVIDER_SECONDS:g} seconds") from error
        finally:
            self._waiting -= 1
            self._show()


def _image(context: Context[bytes, bytes]) -> str:
    """Return the image's reference as one bounded printable line; "" if the client does not send it."""
    for name, value in context.invocation_metadata() or ():
        if name == IMAGE_METADATA:
            text = value.decode(errors="replace") if isinstance(value, bytes) else value
            return ascii(text)[1:-1][: limits.REGISTRY_REFERENCE_CHARACTERS]
    return ""


def _parse_message(message: bytes) -> bytes:
    try:
        return protocol.parse_message(message)
    except ValueError as error:
        raise RequestError(f"the message: {error}") from error


async def abort(context: Context[bytes, bytes], code: grpc.StatusCode, text: str) -> NoReturn:
    """End a call with a status and a text, which is cut at PROVIDER_ERROR_BYTES.

    Raises:
        Exception: always; gRPC ends the call with it.
    """
    bounded = text.encode(errors="replace")[: limits.PROVIDER_ERROR_BYTES].decode(errors="ignore")
    await context.abort(code, bounded)
