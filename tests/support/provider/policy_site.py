"""Keys, authorities and a client policy for a server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import grpc

from tests.support.network.certificates import Issued, issue, tls_options
from tests.support.provider.serving import Server, message, method_of, request_of, write_key

OPTIONS = b'{"symkey":"c2VjcmV0","digest":"sha256:0","cipheroptions":{}}'
WRAP = "/keyprovider.KeyProviderService/WrapKey"
UNWRAP = "/keyprovider.KeyProviderService/UnWrapKey"


class Site:
    """Keys, authorities and certificates, and the arguments of a server with a policy."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        keys = directory / "keys"
        keys.mkdir()
        for name in ("a", "b"):
            write_key(keys / name)
        self.authorities = {name: issue(name) for name in ("nodes", "people")}
        self.write_authorities("nodes", "people")
        for name, authority in self.authorities.items():
            authority.write(directory / f"{name}.pem")
        issue("server", self.authorities["nodes"], ["localhost"]).write(directory / "server.pem")
        self.policy = directory / "policy.toml"
        self.arguments = ("--provider", "local", "--keys", keys, "--allow-key", "local://*")
        self.tls = (
            *("--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--client-policy", self.policy),
            *tls_options(directory, "clients.pem"),
        )

    def write_authorities(self, *names: str) -> None:
        (self.directory / "clients.pem").write_bytes(b"".join(self.authorities[name].certificate for name in names))

    def rule(self, client: str, *, ca: str = "nodes", **more: str) -> str:
        members = {"client": client, **({"ca": f"{self.directory}/{ca}.pem"} if ca else {}), **more}
        return "[[rule]]\n" + "".join(f'{name} = "{value}"\n' for name, value in members.items())

    @contextmanager
    def connect(self, server: Server, certificate: Issued) -> Iterator[grpc.Channel]:
        root = self.authorities["nodes"].certificate
        credentials = grpc.ssl_channel_credentials(root, certificate.key, certificate.certificate)
        options = [("grpc.ssl_target_name_override", "localhost"), ("grpc.use_local_subchannel_pool", 1)]
        with grpc.secure_channel(server.target, credentials, options) as channel:
            yield channel


def wrap(key: str) -> bytes:
    return request_of("keywrap", OPTIONS, {"x": [key]})


def outcome(channel: grpc.Channel, method: str, request: bytes) -> str:
    try:
        method_of(channel, method)(message(request), timeout=20)
    except grpc.RpcError as error:
        return str(cast("grpc.Call", error).code().name)
    return "OK"
