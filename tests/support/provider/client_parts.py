"""Keyproviders for tests of the client: a command, a gRPC server, certificates, and layers.

Both providers "wrap" by turning the private options around, and note every request that they get.
"""

from __future__ import annotations

import base64
import json
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from google.protobuf.wrappers_pb2 import BytesValue  # a message with one field, bytes number 1, like the service's

from decoder.errors import ProviderFailedError
from decoder.keys.keyring import DecryptConfig, Keyring
from decoder.keywrap.keyprovider import KeyProvider
from decoder.provider.client.grpc import KEK_SERVICE
from tests.support.keywrap.layers import Layer, encrypted, private_options
from tests.support.network import certificates
from tests.support.network.certificates import key_of
from tests.support.program.processes import Result, payload_bytes, run_decoder

PLAINTEXT = bytes(range(256)) * 100
NAME = "kmscrypt"

_COMMAND = """\
#!{python} -IS
import base64, json, sys
text = sys.stdin.read()
with open({record!r}, "a") as record:
    record.write(text + "\\n")
request = json.loads(text)
wrap, unwrap = request["keywrapparams"], request["keyunwrapparams"]
turned = lambda text: base64.b64encode(base64.b64decode(text)[::-1]).decode()
if request["op"] == "keywrap":
    print(json.dumps({{"keywrapresults": {{"annotation": turned(wrap["optsdata"])}}}}))
else:
    print(json.dumps({{"keyunwrapresults": {{"optsdata": turned(unwrap["annotation"])}}}}))
"""


class CommandParts(NamedTuple):
    """A provider command and the file where it notes its requests, one a line."""

    path: str
    record: Path

    @property
    def entry(self) -> dict[str, Any]:
        """Its entry in the configuration."""
        return {"cmd": {"path": self.path, "args": []}}

    def requests(self) -> list[dict[str, Any]]:
        """What it was asked."""
        return [json.loads(line) for line in self.record.read_text().splitlines()]


def turning_command(directory: Path) -> CommandParts:
    """Write a provider that works."""
    record = directory / "requests"
    return CommandParts(
        script(directory / "provider", _COMMAND.format(python=sys.executable, record=str(record))), record
    )


def script(path: Path, text: str) -> str:
    """Write a program."""
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def shell(command: str) -> dict[str, Any]:
    """Make the entry of a provider that is a line of shell."""
    return {"cmd": {"path": "/bin/sh", "args": ["-c", command]}}


def configuration(directory: Path, providers: dict[str, Any]) -> str:
    """Write a configuration file and return its path."""
    path = directory / "keyprovider.conf"
    path.write_text(json.dumps({"key-providers": providers}))
    return str(path)


def reply(options: bytes, integers: bool = False) -> str:
    """Write a provider's answer to a request to unwrap, with base64 or integers."""
    optsdata = list(options) if integers else base64.b64encode(options).decode()
    return json.dumps({"keyunwrapresults": {"optsdata": optsdata}})


def wrapped() -> bytes:
    """Return what the providers turn into the private options of `layer_for`."""
    return private_options()[::-1]


def layer_for(name: str = NAME) -> Layer:
    """Encrypt a layer whose key a provider holds."""
    return encrypted(PLAINTEXT, {f"provider.{name}": [wrapped()]})


def decrypt(
    config_file: str, layer: Layer | None = None, *arguments: str, parameters: Any = None, **how: Any
) -> Result:
    """Run a decoder on a layer, with the configuration where containerd names it."""
    layer = layer or layer_for()
    environment = {"OCICRYPT_KEYPROVIDER_CONFIG": config_file, **how.pop("environment", {})}
    payload = payload_bytes(layer.descriptor, parameters or {})
    return run_decoder(payload, layer.ciphertext, *arguments, environment=environment, **how)


def unwrap(
    config_file: str, data: bytes | None = None, parameters: dict[str, list[bytes]] | None = None
) -> bytes | None:
    """Unwrap in this process."""
    config = DecryptConfig(Keyring(), parameters or {}, config_file)
    opened = KeyProvider(NAME).unwrap(wrapped() if data is None else data, config, lambda *_: None)
    assert isinstance(opened, bytes)
    return opened


class Certificates:
    """A directory with certificates, and an authority for each that is asked for."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._number = 0

    def authority(self, name: str = "authority") -> Path:
        """Make an authority's certificate, once."""
        path = self._directory / f"{name}.pem"
        return path if path.exists() else certificates.issue(name).write(path)

    def issue(self, *names: str, authority: str = "authority", days: float = 2) -> Path:
        """Issue a certificate for DNS names and IP addresses."""
        issuer = certificates.read(self.authority(authority))
        self._number += 1
        path = self._directory / f"{self._number}.pem"
        return certificates.issue("issued", issuer, list(names), days).write(path)


def tls_files(**files: Path | str | bool) -> dict[str, Any]:
    """Make `grpc-tls` of its fields, `certificate` being both cert-file and key-file."""
    fields = {name.replace("_", "-"): value if isinstance(value, bool) else str(value) for name, value in files.items()}
    if certificate := fields.pop("certificate", ""):
        fields |= {"cert-file": certificate, "key-file": str(key_of(Path(str(certificate))))}
    return fields


class ServerParts(NamedTuple):
    """A running server: its address, and the requests that it got."""

    address: str
    messages: list[bytes]

    def requests(self) -> list[dict[str, Any]]:
        """What it was asked."""
        return [json.loads(message) for message in self.messages]


Answer = Callable[[bytes, grpc.ServicerContext], bytes]


def turn(request: bytes, _: grpc.ServicerContext) -> bytes:
    """Answer as the command does."""
    value = json.loads(request)
    if value["op"] == "keywrap":
        options = base64.b64decode(value["keywrapparams"]["optsdata"])[::-1]
        return json.dumps({"keywrapresults": {"annotation": base64.b64encode(options).decode()}}).encode()
    return reply(base64.b64decode(value["keyunwrapparams"]["annotation"])[::-1]).encode()


@contextmanager
def serving(
    address: str = "127.0.0.1:0",
    answer: Answer = turn,
    certificate: Path | None = None,
    client_authority: Path | None = None,
    raw: bool = False,
    has_keks: bool = False,
) -> Iterator[ServerParts]:
    """Run a gRPC server while the context is open.

    Args:
        address: where it listens.
        answer: answers a request.
        certificate: its certificate, beside its key; without one it has no TLS.
        client_authority: who signs the certificates of clients; without one they need none.
        raw: whether it answers without the message around the answer.
        has_keks: whether it also has our methods for key-encryption keys.
    """
    messages: list[bytes] = []

    def respond(message: bytes, context: grpc.ServicerContext) -> bytes:
        messages.append(BytesValue.FromString(message).value)
        answered = answer(messages[-1], context)
        return answered if raw else BytesValue(value=answered).SerializeToString()

    methods: dict[str, Any] = {name: grpc.unary_unary_rpc_method_handler(respond) for name in ("WrapKey", "UnWrapKey")}
    server = grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("keyprovider.KeyProviderService", methods)])
    if has_keks:
        keks = {"WrapKek": methods["WrapKey"], "UnWrapKek": methods["UnWrapKey"]}
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(KEK_SERVICE, keks)])
    if certificate:
        pair = (key_of(certificate).read_bytes(), certificate.read_bytes())
        authority = client_authority.read_bytes() if client_authority else None
        credentials = grpc.ssl_server_credentials([pair], authority, client_authority is not None)
        port = server.add_secure_port(address, credentials)
    else:
        port = server.add_insecure_port(address)
    server.start()
    try:
        yield ServerParts(address if address.startswith("unix:") else f"127.0.0.1:{port}", messages)
    finally:
        server.stop(None).wait()


LOCAL = ("localhost", "127.0.0.1")
NO_CERTIFICATE = "it ends the connection after the TLS handshake; it may require a client certificate"


def grpc_entry(address: str, tls: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """Write the entry of a gRPC server for a keyprovider configuration."""
    return {NAME: {"grpc": address, **({} if tls is None else {"grpc-tls": tls}), **more}}


def cause(directory: Path, providers: dict[str, Any]) -> str:
    """Unwrap with a gRPC server, which fails, and return the reason."""
    with pytest.raises(ProviderFailedError) as failure:
        unwrap(configuration(directory, providers))
    prefix = f"the keyprovider '{NAME}' (gRPC at {providers[NAME]['grpc']!r}): "
    assert str(failure.value).startswith(prefix)
    return str(failure.value).removeprefix(prefix)


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
