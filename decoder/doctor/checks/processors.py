"""Check that containerd's stream processors take encrypted layers, and use options that this program knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decoder.doctor.finding import Finding, Level
from decoder.doctor.host import table
from decoder.errors import quoted
from decoder.node.containerd.configuration import KEYS_DIRECTORY, KEYS_OPTION, PROCESSORS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from decoder.doctor.host import Host
    from decoder.node.containerd.configuration import Processor as Expected

_SUBJECT = "processors"
_PRINT = "compare with the output of `ctd-decoder config containerd`"
# The templates for additions to the configuration that these distributions generate.
_TEMPLATES = {
    "k3s": "/var/lib/rancher/k3s/agent/etc/containerd/config-v3.toml.tmpl (config.toml.tmpl for containerd 1.x)",
    "RKE2": "/var/lib/rancher/rke2/agent/etc/containerd/config-v3.toml.tmpl (config.toml.tmpl for containerd 1.x)",
}


def check(node: Host) -> Iterator[Finding]:
    """Compare the stream processors for encrypted layers with what clients and layers need."""
    if not node.processors:
        if node.configuration.failure or (node.configuration.is_absent and not node.containerd.program):
            yield Finding("warning", _SUBJECT, "they are unknown, because the configuration cannot be read", _PRINT)
        else:
            yield Finding("error", _SUBJECT, "none takes encrypted layers", _add(node))
        return
    findings = [finding for expected in PROCESSORS for finding in _check_types(expected, node)]
    yield from findings or [Finding("ok", _SUBJECT, "both IDs that clients know take all encrypted layers")]
    for name, processor in node.processors.items():
        if processor.failure:
            yield Finding("error", _SUBJECT, f"the args of {name}: {processor.failure}", _PRINT)
        elif not processor.arguments.keys_directory:
            remedy = f'add "{KEYS_OPTION}", "{KEYS_DIRECTORY}" to its args, unless all keys come from keyproviders'
            yield Finding("note", _SUBJECT, f"{name} has no keys directory", remedy)


def _check_types(expected: Expected, node: Host) -> Iterator[Finding]:
    if expected.identifier not in node.processors:
        text = f"there is none with the ID {expected.identifier}, one of the two that clients know"
        yield Finding("error", _SUBJECT, text, _add(node))
        return
    returned = node.processors[expected.identifier].table.get("returns")
    if returned not in {processor.returns for processor in PROCESSORS}:
        text = f"{expected.identifier} returns {quoted(returned)}, which is not the media type of a plain layer"
        yield Finding("error", _SUBJECT, text, f'set returns = "{expected.returns}"')
    # containerd's defaults accept only tar and gzip, which most images have.
    is_default = not table(node.configuration.in_file, "stream_processors")
    for media_type in expected.accepts:
        takers = [name for name, processor in node.processors.items() if media_type in processor.accepts]
        if not takers:
            minor: Level = "note" if is_default else "warning"
            level: Level = "error" if media_type == expected.accepts[0] else minor
            remedy = f"add it to accepts of {expected.identifier}: {_add(node)}"
            yield Finding(level, _SUBJECT, f"layers of the type {media_type} are rejected", remedy)
        elif not {processor.identifier for processor in PROCESSORS} & set(takers):
            text = f"{media_type} is taken by {', '.join(takers)}, an ID for which clients send no payload"
            yield Finding("warning", _SUBJECT, text, f"add it to accepts of {expected.identifier}")


def _add(node: Host) -> str:
    template = _TEMPLATES.get(node.containerd.distribution)
    return f"add the output of `ctd-decoder config containerd` to {template}" if template else _PRINT
