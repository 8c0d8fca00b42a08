"""containerd's configuration of stream processors for encrypted layers, and `ctd-decoder config`."""

from __future__ import annotations

import json
import sys
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
_CONTAINERD = {2: "containerd 1.x", 3: "containerd 2.x", 4: "containerd 2.3 and later"}
_USAGE = f"""\
usage: ctd-decoder config containerd [--config-version {"|".join(map(str, VERSIONS))}] [--keys-path DIR]

Print the part of containerd's configuration that has it decrypt layers with this program.

  --config-version N  the version that the file states: 2 for containerd 1.x, 3 (default) for 2.x, 4 for 2.3 and later
  --keys-path DIR     where the keys are (default: {KEYS_DIRECTORY})
"""


class Processor(NamedTuple):
    """A stream processor: its ID, the media types that it takes, and the one that comes out."""

    identifier: str
    accepts: tuple[str, ...]
    returns: str


# Clients send payloads for these two IDs alone, so the second takes whatever is compressed.
PROCESSORS = (
    Processor("io.containerd.ocicrypt.decoder.v1.tar", (f"{OCI_TAR}{ENCRYPTED}",), OCI_TAR),
    Processor(
        "io.containerd.ocicrypt.decoder.v1.tar.gzip",
        (f"{OCI_TAR}+gzip{ENCRYPTED}", f"{OCI_TAR}+zstd{ENCRYPTED}", f"{_DOCKER_GZIP}{ENCRYPTED}"),
        f"{OCI_TAR}+gzip",
    ),
)


def main(arguments: list[str]) -> int:
    """Run `ctd-decoder config`.

    Args:
        arguments: those after `config`.

    Returns:
        The exit status, 0.

    Raises:
        UsageError: the command line cannot be understood.
    """
    options = {"config-version": "3", "keys-path": KEYS_DIRECTORY}
    words = list(arguments)
    if not words or words[0].lstrip("-") in ("h", "help") or "--help" in words:
        text = _USAGE
    elif words.pop(0) != "containerd":
        raise UsageError(f"there is no configuration for {quoted(arguments[0])}; see ctd-decoder config --help")
    else:
        _read_options(words, options)
        if options["config-version"] not in map(str, VERSIONS):
            raise UsageError(f"--config-version is one of {', '.join(map(str, VERSIONS))}")
        text = snippet(int(options["config-version"]), options["keys-path"])
    sys.stdout.write(text)
    sys.stdout.flush()
    return 0


def snippet(version: int, keys_directory: str = KEYS_DIRECTORY) -> str:
    """Write the configuration.

    Args:
        version: of the configuration's format, one of VERSIONS.
        keys_directory: what `--decryption-keys-path` gets.
    """
    lines = [
        f"# {_CONTAINERD[version]}, configuration version {version}: the stream processors for encrypted layers.",
        "# Only these two IDs get a payload from clients, so the second one takes zstd layers as well;",
        "# containerd finds out by itself how the decrypted layer is compressed.",
        *(["# Untested: no containerd that reads version 4 was at hand."] if version == 4 else []),
        f"version = {version}",
        "",
        "[stream_processors]",
        *(line for processor in PROCESSORS for line in _processor(processor, keys_directory)),
        "",
        '# Kubernetes: which keys the CRI plugin may use for an image; "node" means those of this node.',
        f'[plugins."{CRI_PLUGINS[version]}".image_decryption]',
        '  key_model = "node"',
    ]
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
    """Write a basic string of TOML, which JSON's are but for one character and lone surrogates."""
    if not value.isprintable():
        raise UsageError(f"{quoted(value)} cannot stand in a configuration file")
    return json.dumps(value, ensure_ascii=False)


def _read_options(words: list[str], options: dict[str, str]) -> None:
    rest = iter(words)
    for word in rest:
        name, equals, value = word.lstrip("-").partition("=")
        if not word.startswith("-") or name not in options:
            raise UsageError(f"unknown argument {quoted(word)}; see ctd-decoder config --help")
        options[name] = value if equals else next(rest, "")
        if not options[name]:
            raise UsageError(f"--{name} needs a value")
