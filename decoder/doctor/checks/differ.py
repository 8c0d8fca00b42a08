"""Check the differ that unpacks layers: erofs hangs forever on a layer that ends early."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decoder.arguments import VERIFIED
from decoder.doctor.finding import Finding
from decoder.doctor.host import table, texts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from decoder.doctor.host import Host, Table

_EROFS = "erofs"
_DIFF_SERVICE = "io.containerd.service.v1.diff-service"
_TRANSFER = "io.containerd.transfer.v1.local"


def check(node: Host) -> Iterator[Finding]:
    """Check that the differ works with the way in which plaintext is released."""
    if not _uses_erofs(table(node.configuration.in_force, "plugins")):
        return
    streaming = [name for name, each in node.processors.items() if each.arguments.release != VERIFIED]
    if streaming:
        text = "mkfs.erofs may hang forever on a damaged layer, if plaintext is released before it is verified"
        remedy = f'add "--release", "verified" to args of {" and ".join(streaming)}'
        yield Finding("warning", "differ", text, remedy)
    else:
        yield Finding("ok", "differ", "erofs gets layers once they are verified")


def _uses_erofs(plugins: Table) -> bool:
    unpacking = table(plugins, _TRANSFER).get("unpack_config")
    by_transfer = [item for item in unpacking if isinstance(item, dict)] if isinstance(unpacking, list) else []
    return _EROFS in texts(table(plugins, _DIFF_SERVICE), "default")[:1] or any(
        item.get("differ") == _EROFS for item in by_transfer
    )
