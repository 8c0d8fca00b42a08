"""Encrypt a small image and decrypt its layers as containerd would: `make demo`."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

from decoder.layer.annotations import ENCRYPTED, OCI_TAR
from tests.support.keywrap.layers import Layer, encrypted, pem, rsa_key
from tests.support.program.processes import PROGRAM, ROOT, payload_bytes, run_decoder

DEMO = ROOT / "build" / "demo"


def main() -> None:
    """Make a key and an image, decrypt every layer, then damage one and try again."""
    shutil.rmtree(DEMO, ignore_errors=True)
    (DEMO / "keys").mkdir(parents=True)
    key = DEMO / "keys" / "private.pem"
    key.write_bytes(pem(rsa_key()))
    print(f"1. A private key (RSA 2048):            {shown(key)}")

    greeting = tar({"etc/motd": b"Hello from an encrypted layer.\n"})
    program = tar({"usr/bin/hello": b"#!/bin/sh\ncat /etc/motd\n", "usr/share/data": bytes(range(256)) * 4096})
    layers = [
        encrypted(greeting, media_type=OCI_TAR + ENCRYPTED),
        encrypted(gzip.compress(program, mtime=0), media_type=f"{OCI_TAR}+gzip{ENCRYPTED}"),
    ]
    image = write_image(DEMO / "image", layers, [greeting, program])
    print(f"2. An image of two encrypted layers:    {shown(image)} (OCI layout)\n")

    print("3. Each layer through the decoder: descriptor on descriptor 3, ciphertext on standard input.")
    print(f"   {shown(Path(PROGRAM))} --decryption-keys-path {shown(key.parent)}")
    for layer in layers:
        result = decrypt(layer, key.parent)
        same = result.plaintext == layer.plaintext
        media_type = layer.descriptor["mediaType"]
        print(f"   {media_type:57} {len(result.plaintext):7} bytes, exit status {result.status}, restored: {same}")
        if not same:
            raise SystemExit(result.errors)

    flipped = layers[1].ciphertext[:-1] + bytes([layers[1].ciphertext[-1] ^ 1])
    result = decrypt(layers[1]._replace(ciphertext=flipped), key.parent)
    print("\n4. The same with one bit of the last layer flipped:")
    print(f"   exit status {result.status}, {len(layers[1].plaintext) - len(result.plaintext)} bytes kept back")
    print(f"   {result.errors}")
    if result.status == 0:
        raise SystemExit("a damaged layer was accepted")


def decrypt(layer: Layer, keys: Path) -> Any:
    """Run the installed program on one layer."""
    return run_decoder(payload_bytes(layer.descriptor, None), layer.ciphertext, "--decryption-keys-path", str(keys))


def write_image(folder: Path, layers: list[Layer], tars: list[bytes]) -> Path:
    """Write an OCI image layout."""
    (folder / "blobs" / "sha256").mkdir(parents=True)
    diff_ids = [f"sha256:{hashlib.sha256(content).hexdigest()}" for content in tars]
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    media = "application/vnd.oci.image"
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{media}.manifest.v1+json",
        "config": blob(folder, json.dumps(config).encode(), mediaType=f"{media}.config.v1+json"),
        "layers": [blob(folder, layer.ciphertext, **layer.descriptor) for layer in layers],
    }
    entry = blob(folder, json.dumps(manifest).encode(), mediaType=manifest["mediaType"])
    (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    return folder


def blob(folder: Path, content: bytes, **members: Any) -> dict[str, Any]:
    """Add a blob to the layout and return its descriptor."""
    digest = hashlib.sha256(content).hexdigest()
    (folder / "blobs" / "sha256" / digest).write_bytes(content)
    return {**members, "digest": f"sha256:{digest}", "size": len(content)}


def tar(files: dict[str, bytes]) -> bytes:
    """Make a tar of these files."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as writer:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o755
            writer.addfile(member, io.BytesIO(content))
    return archive.getvalue()


def shown(path: Path) -> str:
    """Name a path from the project's root."""
    return str(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
