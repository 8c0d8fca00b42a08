"""A gRPC server of a keyprovider, and channels to it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import grpc
import pytest

from tests.support.provider.serving import (
    Server,
    method_of,
    request_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OPTIONS = b'{"symkey":"c2VjcmV0","digest":"sha256:0","cipheroptions":{}}'
WRAP = request_of("keywrap", OPTIONS)
SERVICE = "keyprovider.KeyProviderService"
LOOPBACK = ("--listen", "127.0.0.1:0")


@contextmanager
def connected(server: Server, credentials: grpc.ChannelCredentials | None = None) -> Iterator[grpc.Channel]:
    options = (("grpc.ssl_target_name_override", "localhost"),) if credentials else ()
    target = server.target.replace("0.0.0.0", "127.0.0.1")
    channel = (
        grpc.secure_channel(target, credentials, options=options) if credentials else grpc.insecure_channel(target)
    )
    with channel:
        yield channel


def failure(channel: grpc.Channel, method: str, data: bytes) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        method_of(channel, method)(data, timeout=120)
    assert isinstance(caught.value, grpc.Call)
    return caught.value.code(), str(caught.value.details())


def credentials(directory: Path, name: str = "", ca: str = "ca") -> grpc.ChannelCredentials:
    root = (directory / f"{ca}.pem").read_bytes()
    if not name:
        return grpc.ssl_channel_credentials(root)
    key, certificate = ((directory / f"{name}.{suffix}").read_bytes() for suffix in ("key", "pem"))
    return grpc.ssl_channel_credentials(root, key, certificate)
