"""Each target gives bytes to a part of the program as an image, a registry, a key service or a client could.

A target passes if the part takes the bytes or refuses them in a documented way; every other exception is a defect.
"""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from decoder import keywrap, limits
from decoder.agent import messages
from decoder.errors import DecoderError, PayloadError
from decoder.formats import containerd as containerd_messages
from decoder.formats import wire
from decoder.image import manifest
from decoder.image.transport import Options, open_source
from decoder.keys.keyring import DecryptConfig, Keyring
from decoder.keywrap.kid import parse_kid
from decoder.layer.annotations import KEYS_PREFIX, parse_private_options, parse_public_options, wrapped_keys
from decoder.layer.payload import parse_payload
from decoder.provider.client import protocol, ttrpc
from decoder.provider.errors import ProviderError
from decoder.provider.services.coco.packet import parse_packet
from decoder.registry.auth import parse_challenges
from decoder.registry.reference import parse_reference
from tests.fuzz import brokers, certificates, grants, wrapped
from tests.fuzz.answers import AnyAnswer
from tests.support.image import layouts
from tests.support.image.images import GZIP, Layout
from tests.support.keywrap.vectors import CASES, COCO_PACKETS, VECTORS
from tests.support.program.processes import payload_bytes


class Target(NamedTuple):
    """A part of the program, and inputs to begin with."""

    run: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    prepare: Callable[[], None] = lambda: None


# -- the layer


def _payload(data: bytes) -> None:
    with suppress(PayloadError):
        parse_payload(data)


def _payload_seeds() -> Iterator[bytes]:
    yield from (payload_bytes(case["descriptor"], {"privkeys": [b"x"]}) for case in CASES[:8])


def _annotations(data: bytes) -> None:
    """A descriptor's annotations as JSON, read up to the keys."""
    try:
        annotations = {name: wire.text_value(value) for name, value in wire.parse_object(data).items()}
    except ValueError:
        return
    for read in (wrapped_keys, parse_public_options):
        with suppress(DecoderError):
            read(annotations)


def _annotations_seeds() -> Iterator[bytes]:
    yield from (json.dumps(case["descriptor"]["annotations"]).encode() for case in CASES[:8])


def _private_options(data: bytes) -> None:
    with suppress(ValueError):
        parse_private_options(data)


def _private_options_seeds() -> Iterator[bytes]:
    yield b'{"symkey":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=","digest":"sha256:00",' + (
        b'"cipheroptions":{"nonce":"ZGVmZ2hpamtsbW5vcHFycw=="}}'
    )


# -- wrapped keys of every scheme, with keys at hand


@cache
def _keys() -> DecryptConfig:
    keyring = Keyring()
    for path in sorted((VECTORS / "keys").iterdir()):
        if path.is_file():
            keyring.add(path.name, path.read_bytes())
    return DecryptConfig(keyring)


def _wrapped(scheme: str) -> Target:
    def run(data: bytes) -> None:
        with suppress(DecoderError):
            keywrap.unwrap_any({KEYS_PREFIX + scheme: wire.encode_base64(data)}, _keys())

    def seeds() -> Iterator[bytes]:
        for text in {case["descriptor"]["annotations"].get(KEYS_PREFIX + scheme, "") for case in CASES}:
            yield from (wire.decode_base64(item) for item in text.split(",") if item)

    return Target(run, seeds)


# -- key files, and what they open


def _key_file(data: bytes) -> None:
    """A key file of any form, used on wrapped keys of all three schemes; a password may stand behind a NUL."""
    data, _, password = data.partition(b"\0password\0")
    keyring = Keyring()
    keyring.add("fuzz", data, password)
    for each in _some_annotations():
        with suppress(DecoderError):
            keywrap.unwrap_any(each, DecryptConfig(keyring))


@cache
def _some_annotations() -> list[dict[str, str]]:
    found = {}
    for case in CASES:
        for name, text in case["descriptor"]["annotations"].items():
            if name.startswith(KEYS_PREFIX):
                found[name] = {name: text.partition(",")[0]}
    return list(found.values())


def _key_file_seeds() -> Iterator[bytes]:
    yield from (path.read_bytes() for path in sorted((VECTORS / "keys").iterdir()) if path.is_file())


# -- images


@cache
def _layout() -> Layout:
    return layouts.two_platforms(Path(tempfile.mkdtemp(prefix="fuzz-")))


def _load(source: Any) -> None:
    manifest.load(source)


def _oci_layout(data: bytes) -> None:
    """index.json of a layout; its blobs are whole."""
    directory = _layout().directory
    (directory / "index.json").write_bytes(data)
    with suppress(DecoderError), open_source(f"oci:{directory}", Options()) as source:
        _load(source)


def _oci_layout_seeds() -> Iterator[bytes]:
    yield (_layout().directory / "index.json").read_bytes()


def _manifest(data: bytes) -> None:
    """A manifest or index whose digest is right."""
    layout = _layout()
    descriptor = layout.add(data, "application/vnd.oci.image.manifest.v1+json")
    try:
        for media_type in (layouts.MANIFEST, layouts.INDEX):
            layouts.write_index(layout.directory, {**descriptor, "mediaType": media_type})
            with suppress(DecoderError), open_source(f"oci:{layout.directory}", Options()) as source:
                _load(source)
    finally:
        (layout.directory / "blobs" / descriptor["digest"].replace(":", "/")).unlink(missing_ok=True)


def _manifest_seeds() -> Iterator[bytes]:
    layout = _layout()
    for path in (layout.directory / "blobs/sha256").iterdir():
        if path.read_bytes()[:1] == b"{":
            yield path.read_bytes()


def _archive(data: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        for name in ("oci-archive", "docker-archive"):
            with suppress(DecoderError), open_source(f"{name}:{file.name}", Options()) as source:
                _load(source)


def _archive_seeds() -> Iterator[bytes]:
    with tempfile.TemporaryDirectory() as directory:
        layout = Layout(Path(directory))
        image = layouts.add_image(layout, "amd64", [b"layer"], GZIP)
        yield layouts.publish(layout, image).archive()


# -- registries


def _registry(data: bytes) -> None:
    """The bytes that a server sends to each request, its head included."""
    answers = AnyAnswer.running()
    answers.data = data
    with (
        suppress(DecoderError),
        open_source(f"docker://127.0.0.1:{answers.port}/image:tag", Options()) as source,
    ):
        _load(source)


def _registry_seeds() -> Iterator[bytes]:
    for head in (b"200 OK", b"401 Unauthorized\r\nWWW-Authenticate: Basic realm=x", b"302 Found\r\nLocation: /v2/"):
        yield b"HTTP/1.1 " + head + b'\r\nContent-Length: 11\r\n\r\n{"errors":1}'
    for body in _manifest_seeds():
        head = f"Content-Type: {layouts.MANIFEST}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        yield b"HTTP/1.1 200 OK\r\n" + head + body


def _without_pauses() -> None:
    """Retry once, without a pause, and trust one certificate."""
    limits.REGISTRY_ATTEMPTS = 2
    limits.REGISTRY_RETRY_SECONDS = limits.REGISTRY_RETRY_AFTER_SECONDS = 0.0
    limits.REGISTRY_CONNECT_SECONDS = limits.REGISTRY_IDLE_SECONDS = 5.0
    os.environ["SSL_CERT_FILE"] = str(VECTORS / "keys/cert1.pem")  # to read those of the system takes 35 ms each time
    os.environ["SSL_CERT_DIR"] = "/nonexistent"


def _challenges(data: bytes) -> None:
    """A WWW-Authenticate header and a reference."""
    text = data.decode("latin-1")
    parse_challenges(text.split("\n"))
    with suppress(DecoderError):
        parse_reference(text)


def _challenges_seeds() -> Iterator[bytes]:
    yield b'Bearer realm="https://auth.example/token",service="registry",scope="repository:a/b:pull", Basic realm=x'
    yield b"//localhost:5000/image:tag"
    yield b"//docker.io/library/image@sha256:" + b"0" * 64


# -- providers


def _provider(data: bytes) -> None:
    for operation in ("keywrap", "keyunwrap"):
        with suppress(ValueError):
            protocol.parse_reply(operation, data)
    for read in (protocol.parse_request, protocol.parse_message):
        with suppress(ValueError):
            read(data)


def _provider_seeds() -> Iterator[bytes]:
    yield protocol.build_request("keywrap", b"options", "name", [b"parameter"])
    yield protocol.build_request("keyunwrap", b"annotation", "name", [])
    yield protocol.build_reply("keyunwrap", b"options")
    yield protocol.build_message(b"options")


def _packet(data: bytes) -> None:
    with suppress(ProviderError):
        parse_packet(data)
    with suppress(ProviderError):
        parse_kid(data.decode("latin-1"))


def _packet_seeds() -> Iterator[bytes]:
    for case in (*COCO_PACKETS["opens"], *COCO_PACKETS["fails"]):
        yield case["packet"].encode() if isinstance(case["packet"], str) else json.dumps(case["packet"]).encode()
    yield b"kbs:///default/image_key/nginx"


def _ttrpc(data: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        connection = object.__new__(ttrpc._Connection)  # connected already
        connection._socket, connection._seconds, connection._deadline = ours, 60.0, float("inf")
        connection._limit = lambda: None  # type: ignore[method-assign]  # the clock has no part in this
        with suppress(ProviderError, ValueError):  # the caller says the same of both
            protocol.parse_message(ttrpc._payload(ttrpc._reply(connection)))


def _ttrpc_seeds() -> Iterator[bytes]:
    reply = containerd_messages.build({2: protocol.build_message(b"options")})
    yield ttrpc._HEADER.pack(len(reply), 1, 2, 0) + reply
    status = containerd_messages.build({1: containerd_messages.build({1: 5, 2: "not found"})})
    yield ttrpc._HEADER.pack(len(status), 1, 2, 0) + status


def _containerd(data: bytes) -> None:
    """An answer of containerd's: an image or the status of a blob."""
    with suppress(ValueError):
        fields = containerd_messages.parse(data)
        for number in list(fields)[:8]:
            for read in (
                containerd_messages.text,
                containerd_messages.content,
                containerd_messages.integer,
                containerd_messages.nested,
                containerd_messages.mapping,
            ):
                with suppress(ValueError):
                    read(fields, number)


def _containerd_seeds() -> Iterator[bytes]:
    yield containerd_messages.build({1: "name", 2: containerd_messages.build({1: "key", 2: "value"}), 3: 7})


# -- the agent


def _agent(data: bytes) -> None:
    for receive in (messages.receive_request, lambda connection: messages.receive(connection, 4096, 60.0)):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            descriptors = [os.open(os.devnull, os.O_RDONLY) for _ in range(2)]
            with suppress(OSError):
                socket.send_fds(theirs, [data or b"\0"], descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
            theirs.shutdown(socket.SHUT_WR)
            with suppress(messages.MessageError):
                request = receive(ours)
                if isinstance(request, messages.Request):
                    messages._close([*request.streams.values(), request.directory])


def _agent_seeds() -> Iterator[bytes]:
    yield messages._frame(([b"ctd-decoder"], [b"PATH=/bin"], 1))
    yield messages._frame((messages.ENDED, 5))


TARGETS = {
    "payload": Target(_payload, _payload_seeds),
    "annotations": Target(_annotations, _annotations_seeds),
    "private-options": Target(_private_options, _private_options_seeds),
    "jwe": _wrapped("jwe"),
    "pkcs7": _wrapped("pkcs7"),
    "pgp": _wrapped("pgp"),
    "pkcs11": Target(wrapped.pkcs11_wrapped, wrapped.pkcs11_seeds),
    "pkcs11-key-file": Target(wrapped.pkcs11_key_file, wrapped.key_file_seeds),
    "envelope": Target(wrapped.cloud, wrapped.envelope_seeds),
    "broker": Target(brokers.broker, brokers.broker_seeds),
    "hub": Target(brokers.hub, brokers.hub_seeds),
    "key-file": Target(_key_file, _key_file_seeds),
    "layout": Target(_oci_layout, _oci_layout_seeds),
    "manifest": Target(_manifest, _manifest_seeds),
    "archive": Target(_archive, _archive_seeds),
    "registry": Target(_registry, _registry_seeds, _without_pauses),
    "challenges": Target(_challenges, _challenges_seeds),
    "provider": Target(_provider, _provider_seeds),
    "packet": Target(_packet, _packet_seeds),
    "ttrpc": Target(_ttrpc, _ttrpc_seeds),
    "containerd": Target(_containerd, _containerd_seeds),
    "agent": Target(_agent, _agent_seeds),
    "grants": Target(grants.run, grants.seeds),
    "certificate": Target(certificates.run, certificates.seeds),
}
