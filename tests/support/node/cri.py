"""A client of containerd's CRI plugin, for the one call that pulls an image (k8s.io/cri-api, runtime.v1)."""

from __future__ import annotations

from pathlib import Path

import grpc

from tests.support.program.processes import varint

NAMESPACE = "k8s.io"  # where the plugin keeps its images

_PULL_IMAGE = "/runtime.v1.ImageService/PullImage"
_SECONDS = 120.0
_FIELD_1 = b"\x0a"


def pull_image(socket: Path, reference: str) -> str:
    """Have containerd pull and unpack an image, as the kubelet does.

    Returns:
        The image's ID.

    Raises:
        grpc.RpcError: it failed.
    """
    # PullImageRequest{1: ImageSpec{1: image}} -> PullImageResponse{1: image_ref}
    request = _message(_message(reference.encode()))
    with grpc.insecure_channel(f"unix:{socket}") as channel:
        pull = channel.unary_unary(_PULL_IMAGE, request_serializer=bytes, response_deserializer=bytes)
        reply = pull(request, timeout=_SECONDS)
    assert reply.startswith(_FIELD_1)
    identifier = reply[2:].decode()
    assert reply == _message(identifier.encode())
    return identifier


def _message(value: bytes) -> bytes:
    """Write a protobuf message whose only field is number 1."""
    return _FIELD_1 + varint(len(value)) + value
