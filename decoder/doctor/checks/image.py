"""Try an image in containerd: decrypt each of its encrypted layers as containerd would, and discard the result."""

from __future__ import annotations

import os
import subprocess
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, BinaryIO

from decoder import limits
from decoder.doctor.finding import Finding
from decoder.doctor.host import texts
from decoder.errors import DecoderError, ImageError
from decoder.formats import wire
from decoder.image import selection, transport
from decoder.image.blobs import read_whole
from decoder.image.manifest import check_descriptor, is_encrypted
from decoder.layer.payload import Descriptor, Payload, build_payload
from decoder.node.containerd.configuration import PROGRAM
from decoder.node.containerd.contentstore import BLOBS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from decoder.doctor.host import Host
    from decoder.image.transport import ImageSource

_NAMESPACES = ("default", "k8s.io", "moby")


def check(node: Host) -> Iterator[Finding]:
    """Find the image, and try each encrypted layer of the manifests for this machine."""
    if not node.image:
        return
    subject = f"image {node.image}"
    failures = []
    for namespace in [node.namespace] if node.namespace else _NAMESPACES:
        options = transport.Options(namespace=namespace, address=node.place(node.address))
        try:
            with transport.open_source(f"containerd:{node.image}", options) as source:
                layers = _encrypted_layers(source)
                if not layers:
                    yield Finding("ok", subject, "it has no encrypted layer for this machine")
                for number, descriptor in layers:
                    yield _try(node, descriptor, f"{subject}, layer {number}")
                return
        except (DecoderError, ValueError) as error:
            failures.append(str(error))
    yield Finding("error", subject, "; ".join(dict.fromkeys(failures)), "see `ctr --namespace NAME images list`")


def _encrypted_layers(source: ImageSource) -> list[tuple[int, dict[str, Any]]]:
    """Return the encrypted layers of the manifests for this machine, or of all manifests if none is for it."""
    manifests = list(_manifests(source, source.root(), 0))
    own = [value for platform, value in manifests if selection.matches(platform, [selection.own_platform()])]
    return [
        (number, layer)
        for value in own or [value for _, value in manifests]
        for number, layer in enumerate(map(wire.object_value, wire.list_value(value.get("layers"))))
        if is_encrypted(str(layer.get("mediaType")))
    ]


def _manifests(source: ImageSource, descriptor: Mapping[str, Any], depth: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the platform and the content of each manifest that was pulled; those for other machines may be absent."""
    if depth > limits.IMAGE_INDEX_DEPTH:
        return
    try:
        value = wire.parse_object(read_whole(source, check_descriptor(dict(descriptor)), limits.MANIFEST_BYTES))
    except ImageError:
        if depth:
            return  # not pulled
        raise
    if "manifests" not in value:
        of = wire.object_value(descriptor.get("platform"))
        yield "/".join(str(of[name]) for name in ("os", "architecture", "variant") if of.get(name)), value
    for entry in wire.list_value(value.get("manifests")):
        yield from _manifests(source, wire.object_value(entry), depth + 1)


def _try(node: Host, descriptor: dict[str, Any], subject: str) -> Finding:
    media_type, digest = str(descriptor["mediaType"]), str(descriptor["digest"])
    processor = next((each for each in node.processors.values() if media_type in each.accepts), None)
    if processor is None:
        return Finding(
            "error", subject, f"no stream processor takes {media_type}", "see `ctd-decoder config containerd`"
        )
    program, relative = node.find_program(processor.program)
    if not program or relative:
        return Finding("error", subject, f"{processor.program} cannot be started", "see the findings about the program")
    annotations = {str(name): str(text) for name, text in (descriptor.get("annotations") or {}).items()}
    payload = build_payload(Payload({}, Descriptor(media_type, annotations, digest)))
    command = [node.place(program), *texts(processor.table, "args")]
    try:
        with open(node.place(os.path.join(node.root, BLOBS, digest.partition(":")[2])), "rb") as blob:
            errors = _run(command, payload, blob, node.environment_of(processor))
    except OSError as error:
        return Finding("error", subject, f"its blob {digest} cannot be read: {error.strerror}", "pull the image again")
    if errors:
        return Finding("error", subject, f"{digest} does not open: {errors}")
    return Finding("ok", subject, f"{digest} opens, and its HMAC is correct")


def _run(command: list[str], payload: bytes, blob: BinaryIO, environment: dict[str, str]) -> str:
    """Run a decoder as containerd does, with the payload on descriptor 3.

    Returns:
        The reason of the failure in one line, or "".
    """
    with TemporaryFile() as file:
        file.write(payload)
        file.seek(0)
        shell = ["/bin/sh", "-c", f'exec "$0" "$@" 3</proc/self/fd/{file.fileno()}', *command]
        try:
            result = subprocess.run(  # noqa: S603 - what containerd is configured to run
                shell,
                stdin=blob,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=[file.fileno()],
                env=environment,
                timeout=limits.DOCTOR_LAYER_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"the decoder did not end within {limits.DOCTOR_LAYER_SECONDS:.0f} seconds"
    if result.returncode == 0:
        return ""
    text = result.stderr.decode(errors="replace").removeprefix(f"{PROGRAM}: error: ")
    return "; ".join(line.strip() for line in ascii_lines(text)) or f"exit status {result.returncode}"


def ascii_lines(text: str) -> list[str]:
    """Split a message into lines without control characters."""
    return [line.encode("ascii", "backslashreplace").decode() for line in text.splitlines()]
