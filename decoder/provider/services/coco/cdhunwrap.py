"""Sources `cdh-grpc:HOST:PORT` and `cdh-ttrpc:SOCKET`: the Confidential Data Hub unwraps packets itself (UnwrapKey)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from decoder.errors import UsageError, quoted
from decoder.node.network import is_loopback, split_host_port
from decoder.provider.client import protocol
from decoder.provider.client.config import GrpcProvider, TtrpcProvider
from decoder.provider.errors import ProviderError
from decoder.provider.reach import reach_port, reach_socket
from decoder.provider.services.coco.apiserver import LOOK_AT_THE_HUB
from decoder.provider.services.coco.packet import Packet, build_packet, parse_packet


def create_grpc(where: str, options: Mapping[str, str]) -> CdhUnwrap:
    """Create the source with gRPC in plain text, as the hub requires.

    Args:
        where: the host and the port, such as 127.0.0.1:50000.
        options: ignored.

    Raises:
        UsageError: it is not HOST:PORT on the loopback interface.
    """
    try:
        host, port = split_host_port(where)
    except ValueError as error:
        raise _not_loopback(where) from error
    if not is_loopback(host):
        raise _not_loopback(where)

    def ask(request: bytes, seconds: float) -> bytes:
        from decoder.provider.client import grpc as grpcclient

        method = grpcclient.method_of("keyunwrap")
        return grpcclient.ask(GrpcProvider(where), grpcclient.Question(method, request), seconds, is_patient=False)

    return CdhUnwrap(f"cdh-grpc:{where}", ask, lambda seconds: reach_port(host, port, seconds))


def _not_loopback(where: str) -> UsageError:
    return UsageError(f"the address of cdh-grpc {quoted(where)} is not HOST:PORT on the loopback interface")


def create_ttrpc(where: str, options: Mapping[str, str]) -> CdhUnwrap:
    """Create the source with ttrpc.

    Args:
        where: the path of the socket, such as /run/confidential-containers/cdh.sock, or `unix://` and the path.
        options: ignored.

    Raises:
        UsageError: it is not an absolute path.
    """
    from decoder.provider.client import ttrpc as ttrpcclient

    try:
        path = ttrpcclient.socket_path(where)
    except ProviderError as error:
        raise UsageError(f"cdh-ttrpc: {error}") from error

    def ask(request: bytes, seconds: float) -> bytes:
        return ttrpcclient.ask(TtrpcProvider(where), "keyunwrap", request, seconds)

    return CdhUnwrap(f"cdh-ttrpc:{where}", ask, lambda seconds: reach_socket(path, seconds))


_INTERNAL = "it answered INTERNAL"  # the hub answers every failure with this code, over both transports


class CdhUnwrap:
    """An `UnwrapSource`.

    Args:
        name: the name of the source for messages.
        ask: sends a request in JSON within a number of seconds, and returns the reply in JSON.
        reach: connects without sending anything.
    """

    def __init__(self, name: str, ask: Callable[[bytes, float], bytes], reach: Callable[[float], None]) -> None:
        self._name = name
        self._ask = ask
        self._reach = reach

    def describe(self) -> str:
        """Return the name of the source for messages."""
        return self._name

    def reach(self, seconds: float) -> None:
        """Check that the hub accepts a connection; see `Reachable`."""
        self._reach(seconds)

    def unwrap(self, packet: bytes, seconds: float) -> bytes:
        """Ask the hub to unwrap a packet; see `UnwrapSource`."""
        parsed = parse_packet(packet)
        if isinstance(parsed, Packet) and not parsed.version:
            packet = build_packet(parsed)  # because hubs reject old packets: bare ids, other names of algorithms
        try:
            reply = self._ask(protocol.build_request("keyunwrap", packet, "attestation-agent", []), seconds)
        except ProviderError as error:
            hint = f" ({LOOK_AT_THE_HUB})" if str(error).startswith(_INTERNAL) else ""
            raise ProviderError(f"{error}{hint}") from error
        try:
            return protocol.parse_reply("keyunwrap", reply)
        except ValueError as error:
            raise ProviderError(f"its reply cannot be read: {error}") from error
