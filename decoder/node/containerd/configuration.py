"""The part of containerd's configuration that decrypts layers: its stream processors."""

from __future__ import annotations

import json
from typing import NamedTuple

from decoder.errors import UsageError, quoted
from decoder.layer.annotations import ENCRYPTED, OCI_TAR

VERSIONS = (2, 3, 4)
PROGRAM = "ctd-decoder"
KEYS_OPTION = "--decryption-keys-path"
KEYS_DIRECTORY = "/etc/containerd/ocicrypt/keys"
KEYPROVIDER_VARIABLE = "OCICRYPT_KEYPROVIDER_CONFIG"
KEYPROVIDER_FILE = "/etc/containerd/ocicrypt/ocicrypt_keyprovider.conf"
CRI_PLUGINS = {2: "io.containerd.grpc.v1.cri", 3: "io.containerd.cri.v1.images", 4: "io.containerd.cri.v1.images"}

_DOCKER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
CONTAINERD = {2: "containerd 1.x", 3: "containerd 2.x", 4: "containerd 2.3 and later"}


class Processor(NamedTuple):
    """A stream processor: its ID, the media types that it accepts, and the one that it returns."""

    identifier: str
    accepts: tuple[str, ...]
    returns: str


# Clients send payloads to these two IDs only, so the second one accepts every compression.
PROCESSORS = (
    Processor("io.containerd.ocicrypt.decoder.v1.tar", (f"{OCI_TAR}{ENCRYPTED}",), OCI_TAR),
    Processor(
        "io.containerd.ocicrypt.decoder.v1.tar.gzip",
        (f"{OCI_TAR}+gzip{ENCRYPTED}", f"{OCI_TAR}+zstd{ENCRYPTED}", f"{_DOCKER_GZIP}{ENCRYPTED}"),
        f"{OCI_TAR}+gzip",
    ),
)


def snippet(version: int, keys_directory: str = KEYS_DIRECTORY) -> str:
    """Build the stream processors' part of containerd's configuration file.

    Args:
        version: version of the configuration file, one of VERSIONS.
        keys_directory: value of the option `--decryption-keys-path`.

    Raises:
        UsageError: the directory's name has a character that cannot be in a configuration file.
    """
    lines = [
        f"# {CONTAINERD[version]}, configuration version {version}: stream processors for encrypted layers.",
        "# Clients send payloads for these two IDs only, so the second one accepts zstd layers as well;",
        "# containerd detects the compression of the decrypted layer.",
        f"version = {version}",
        "",
        "[stream_processors]",
        *(line for processor in PROCESSORS for line in _processor(processor, keys_directory)),
    ]  # no section of a plugin: where this is imported, containerd 1.6 would drop the plugin's other settings
    return "\n".join(lines) + "\n"


def _processor(processor: Processor, keys_directory: str) -> list[str]:
    accepts = [_text(media_type) for media_type in processor.accepts]
    listed = [f"    accepts = [{accepts[0]}]"]
    if len(accepts) > 1:
        listed = ["    accepts = [", *(f"      {media_type}," for media_type in accepts), "    ]"]
    return [
        f"  [stream_processors.{_text(processor.identifier)}]",
        *listed,
        f"    returns = {_text(processor.returns)}",
        f"    path = {_text(PROGRAM)}",
        f"    args = [{_text(KEYS_OPTION)}, {_text(keys_directory)}]",
        f"    env = [{_text(f'{KEYPROVIDER_VARIABLE}={KEYPROVIDER_FILE}')}]",
    ]


def _text(value: str) -> str:
    """Build a TOML basic string. It is a JSON string, except for U+007F and lone surrogates, which are rejected."""
    if not value.isprintable():
        raise UsageError(f"a configuration file cannot hold the name {quoted(value)}")
    return json.dumps(value, ensure_ascii=False)
