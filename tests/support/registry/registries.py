"""Debian's docker-registry on the loopback interface, and images copied between places with nothing but transports."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import bcrypt

from decoder.image import transport
from decoder.image.transport import Options

if TYPE_CHECKING:
    from decoder.image.transport import ImageSource, ImageTarget
    from tests.support.image.images import Layout

_SECONDS = 300
_CHUNK_BYTES = 100_000
USER, PASSWORD = "someone", "a secret: with a colon"


class Registry(NamedTuple):
    """A running registry: its host with port, and where its files are."""

    host: str
    directory: Path

    @property
    def blobs(self) -> set[str]:
        """The digests of all that it stores."""
        return {f"sha256:{path.name}" for path in self.directory.glob("data/docker/registry/v2/blobs/sha256/*/*")}

    @property
    def uploads(self) -> list[Path]:
        """What was sent of uploads that were neither ended nor given up."""
        return list(self.directory.glob("data/docker/registry/v2/repositories/**/_uploads/*/data"))


@contextmanager
def serving(directory: Path, certificate: tuple[Path, Path] | None = None, **sections: object) -> Iterator[Registry]:
    """Run a registry.

    Args:
        directory: is made, for its files.
        certificate: the files of a certificate and its key, to speak TLS.
        sections: of its configuration, beside storage and http.
    """
    directory.mkdir(exist_ok=True)
    tls = {"tls": {"certificate": str(certificate[0]), "key": str(certificate[1])}} if certificate else {}
    configuration = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(directory / "data")}, "delete": {"enabled": True}},
        "http": {"addr": "127.0.0.1:0", **tls},
        **sections,
    }
    (directory / "registry.yml").write_text(json.dumps(configuration))
    command = ["docker-registry", "serve", "registry.yml"]
    log = directory / "log"  # not a pipe: nobody would empty it, and the registry would stop when it is full
    with log.open("wb") as file, subprocess.Popen(command, cwd=directory, stderr=file, stdout=file) as process:
        try:
            yield Registry(f"localhost:{_port(process, log)}", directory)
        finally:
            process.kill()


def htpasswd(directory: Path) -> dict[str, Any]:
    """Write the password file of USER, and return the section that names it."""
    (directory / "htpasswd").write_bytes(USER.encode() + b":" + bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)))
    return {"htpasswd": {"realm": "test", "path": str(directory / "htpasswd")}}


def make_certificate(directory: Path, *names: str) -> tuple[Path, Path]:
    """Have openssl make a certificate for these names, such as `DNS:localhost`, and its key."""
    certificate, key = directory / "cert.pem", directory / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=registry"]
    command += ["-addext", f"subjectAltName={','.join(names)}", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True, timeout=_SECONDS)
    return certificate, key


def skopeo(*arguments: str, environment: dict[str, str] | None = None) -> str:
    """Run skopeo."""
    command = ["skopeo", "--insecure-policy", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False, env=environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


def push(layout: Layout, place: str, options: Options = Options()) -> None:  # noqa: B008 - it is immutable
    """Write an image of a layout to a place, as the commands do."""
    with transport.open_target(place, options) as target:
        for descriptor in (layout.manifest["config"], *layout.layers):
            if not target.has(descriptor):
                write(target, layout.read(descriptor), descriptor["digest"])
        (root,) = json.loads((layout.directory / "index.json").read_bytes())["manifests"]
        target.put_manifest(layout.read(root), root)
        target.publish(root)


def write(target: ImageTarget, blob: bytes, digest: str) -> None:
    """Write one blob."""
    with target.create(len(blob)) as writer:
        write_all(writer, blob)
        writer.commit(digest, len(blob))


def write_all(writer: transport.BlobWriter, blob: bytes) -> None:
    """Write the bytes of a blob, in steps."""
    for start in range(0, len(blob), _CHUNK_BYTES):
        assert writer.write(memoryview(blob)[start : start + _CHUNK_BYTES]) == len(blob[start : start + _CHUNK_BYTES])


def pull(place: str, options: Options = Options()) -> dict[str, bytes]:  # noqa: B008 - it is immutable
    """Read an image: every blob by its digest, the manifest's first."""
    with transport.open_source(place, options) as source:
        root = source.root()
        found = {root["digest"]: read(source, root)}
        manifest = json.loads(found[root["digest"]])
        for descriptor in (manifest["config"], *manifest["layers"]):
            found[descriptor["digest"]] = read(source, descriptor)
    return found


def read(source: ImageSource | ImageTarget, descriptor: dict[str, Any]) -> bytes:
    """Read one blob."""
    blob, buffer = bytearray(), memoryview(bytearray(_CHUNK_BYTES))
    with source.open(descriptor) as reader:
        while length := reader.readinto(buffer):
            blob += buffer[:length]
        assert reader.readinto(buffer) == 0  # the end stays the end
    return bytes(blob)


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    """Wait until it says where it listens."""
    deadline = time.monotonic() + _SECONDS
    while not (found := re.search(r"listening on 127\.0\.0\.1:(\d+)[^\n]*\n", log.read_text())):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
    return int(found[1])
