"""Check containerd's CRI plugin: are the images that Kubernetes pulls decrypted?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from decoder.doctor.finding import Finding
from decoder.doctor.host import table, texts
from decoder.errors import quoted
from decoder.node.containerd.configuration import CRI_PLUGINS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from decoder.doctor.host import Host

_SUBJECT = "Kubernetes (CRI)"
_WITHOUT_PAYLOAD = (2, 1)
# From the first of these versions until before the second, the CRI plugin never asked for decryption.
_WITHOUT_DECRYPTION = (((2, 0, 0), (2, 0, 12)), ((2, 1, 0), (2, 1, 7)), ((2, 2, 0), (2, 2, 2)))


def check(node: Host) -> Iterator[Finding]:
    """Check the CRI plugin's settings, and known problems of its version."""
    if node.configuration.failure or not node.version[0]:
        return
    version, names = node.version[0], set(CRI_PLUGINS.values())
    disabled = texts(node.configuration.in_force, "disabled_plugins")
    if any(name in disabled or name.removeprefix("io.containerd.") in disabled for name in names):
        yield Finding("ok", _SUBJECT, "the plugin is disabled")
        return
    plugins = table(node.configuration.in_force, "plugins")
    plugin = next((table(plugins, name) for name in sorted(names) if name in plugins), {})
    model = table(plugin, "image_decryption").get("key_model", "node")
    is_local = plugin.get("use_local_image_pull") is True
    if model != "node":
        remedy = 'set image_decryption.key_model = "node" in its section'
        yield Finding("error", _SUBJECT, f"its key model is {quoted(model)}, so it never decrypts", remedy)
    elif is_local and any(first <= version < fixed for first, fixed in _WITHOUT_DECRYPTION):
        shown = ".".join(map(str, version))
        text = f"containerd {shown} does not ask for decryption when it pulls images itself"
        yield Finding("warning", _SUBJECT, text, "update containerd; until then the content store is searched")
    elif version >= _WITHOUT_PAYLOAD and not is_local:
        text = "it pulls through the transfer service, which sends no payload: the content store is searched instead"
        yield Finding("note", _SUBJECT, text)
    else:
        yield Finding("ok", _SUBJECT, "pulls are decrypted with the keys of this node")
