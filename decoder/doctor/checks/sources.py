"""Check that there is at least one key or keyprovider that can open a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decoder.doctor.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from decoder.doctor.host import Host


def check(node: Host) -> Iterator[Finding]:
    """Count keys and keyproviders."""
    keys = sum(len(found.private) + len(found.pgp) + len(found.pkcs11) for found in node.keys.values())
    providers = sum(len(parsed.providers) for parsed in node.keyproviders.values() if not isinstance(parsed, str))
    if keys or providers:
        return
    passed_over = sum(len(found.notes.warnings) for found in node.keys.values())
    certificates = sum(len(found.certificates) for found in node.keys.values())
    others = f"; {passed_over + certificates} files there are not private keys" if passed_over + certificates else ""
    directory = next(iter(node.keys_directories), "")
    remedy = (
        f"install -m 600 KEY.pem {directory}/, or configure a keyprovider" if directory else "configure a keyprovider"
    )
    text = f"there is neither a private key nor a keyprovider{others}: only keys that a client sends open layers"
    yield Finding("error", "key sources", text, remedy)
