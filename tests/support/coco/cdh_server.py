"""A Confidential Data Hub for tests, over REST, gRPC and ttrpc; it refuses the same requests as the one in guests.

Written from docs/formats.md §6 and §8, on pyca's block cipher alone; no code of the project is in it.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from google.protobuf.wrappers_pb2 import BytesValue

from tests.support.network.loopback import Answer, Asked, Loopback, json_answer
from tests.support.network.ttrpc_server import Mangle, RefusedError, serving_ttrpc

SERVICE = "keyprovider.KeyProviderService"
_REFUSED = "[CDH] [ERROR]: Decrypt Image (UnwrapKey) failed"  # whatever is wrong
_SEGMENT = r"[A-Za-z0-9_-][A-Za-z0-9_.-]*"
_KID = re.compile(rf"kbs(?:\+resource)?://[^/]*/({_SEGMENT}/{_SEGMENT}/{_SEGMENT})")
_V1 = {"kid", "wrapped_data", "iv", "wrap_type"}
_V2 = _V1 | {"version", "provider", "provider_settings", "annotations"}


class Hub:
    """A hub and its key broker.

    Args:
        resources: by `repository/type/tag`.

    Attributes:
        asked: every packet that it was to unwrap.
        with_base64: whether it writes base64, as other keyproviders do, where the real one writes integers.
        answer: makes of the JSON of a reply what is sent instead.
        token: what its agent's REST interface has for the key broker, or None while that is switched off.
    """

    def __init__(self, resources: dict[str, bytes]) -> None:
        self.resources = resources
        self.asked: list[bytes] = []
        self.with_base64 = False
        self.answer: Callable[[bytes], bytes] = lambda reply: reply
        self.token: dict[str, str] | None = None

    def get(self, asked: Asked) -> Answer:
        """Answer a request to the REST interface."""
        assert asked.method == "GET"
        if asked.path == "/aa/token?token_type=kbs" and self.token:
            return json_answer(self.token)
        path = asked.path.removeprefix("/cdh/resource/")
        if path in self.resources:
            return Answer(200, self.resources[path])
        return Answer(500, b"ttrpc request error")  # whatever is wrong

    def unwrap(self, message: bytes) -> bytes:
        """Answer UnwrapKey.

        Raises:
            RefusedError: the real one answers INTERNAL. As there, the text is the same whatever is wrong.
        """
        try:
            return self._unwrap(message)
        except RefusedError as error:
            raise RefusedError(_REFUSED) from error

    def _unwrap(self, message: bytes) -> bytes:
        request = _object(BytesValue.FromString(message).value, "the request")
        wrap, unwrap = request.get("keywrapparams"), request.get("keyunwrapparams")
        if request.get("op") != "keyunwrap" or not isinstance(wrap, dict) or not isinstance(unwrap, dict):
            raise RefusedError("the request lacks a member")
        if not {"ec", "optsdata"} <= set(wrap) or not isinstance(unwrap.get("dc"), dict):
            raise RefusedError("the request lacks a member of its parameters")
        if not isinstance(unwrap["dc"].get("Parameters"), dict):
            raise RefusedError("Parameters is no map")
        packet = _base64(unwrap.get("annotation"), "the annotation")
        self.asked.append(packet)
        options = self._open(_object(packet, "the packet"))
        optsdata: object = b64encode(options).decode() if self.with_base64 else list(options)
        reply = json.dumps({"keyunwrapresults": {"optsdata": optsdata}}).encode()
        return BytesValue(value=self.answer(reply)).SerializeToString()

    def _open(self, packet: dict[str, Any]) -> bytes:
        if set(packet) == _V2:
            if (packet["version"], packet["provider"]) != ("0.1.0", "kbs"):
                raise RefusedError("the packet has another version or provider")
        elif set(packet) != _V1:
            raise RefusedError("the packet is of no known form")
        kid = _KID.fullmatch(packet["kid"])
        if not kid or kid[1] not in self.resources:
            raise RefusedError(f"there is no resource {packet['kid']}")
        iv, data = _base64(packet["iv"], "the iv"), _base64(packet["wrapped_data"], "the data")
        mode: modes.Mode
        if packet["wrap_type"] == "A256GCM":
            mode, data = modes.GCM(iv, data[-16:]), data[:-16]
        elif packet["wrap_type"] == "A256CTR":
            mode = modes.CTR(iv)
        else:
            raise RefusedError(f"the wrap_type {packet['wrap_type']} is unknown")
        try:
            opener = Cipher(algorithms.AES256(self.resources[kid[1]]), mode).decryptor()
            return opener.update(data) + opener.finalize()
        except (InvalidTag, ValueError):
            raise RefusedError("decryption failed") from None

    def rest(self) -> Loopback:
        """Make its REST interface, to be entered."""
        return Loopback(self.get)

    @contextmanager
    def grpc(self) -> Iterator[str]:
        """Serve gRPC while the context is open, at the address that is yielded."""

        def unwrap(message: bytes, context: grpc.ServicerContext) -> bytes:
            try:
                return self.unwrap(message)
            except RefusedError as error:
                context.abort(grpc.StatusCode.INTERNAL, str(error))
                raise

        methods: dict[str, Any] = {"UnWrapKey": grpc.unary_unary_rpc_method_handler(unwrap)}
        server = grpc.server(futures.ThreadPoolExecutor(4))
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, methods)])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(None).wait()

    @contextmanager
    def ttrpc(self, path: Path, mangle: Mangle = lambda reply: reply) -> Iterator[list[Any]]:
        """Serve ttrpc while the context is open; see `serving_ttrpc`."""
        with serving_ttrpc(path, {f"{SERVICE}/UnWrapKey": self.unwrap}, mangle) as requests:
            yield requests


def _object(text: bytes, what: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        raise RefusedError(f"{what} is no JSON") from None
    if not isinstance(value, dict):
        raise RefusedError(f"{what} is no object")
    return value


def _base64(text: object, what: str) -> bytes:
    """Decode base64 with its padding and nothing else in it."""
    if not isinstance(text, str):
        raise RefusedError(f"{what} is no string")
    try:
        return b64decode(text, validate=True)
    except Base64Error:
        raise RefusedError(f"{what} is no base64") from None
