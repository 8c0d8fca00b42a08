"""Check that the content store can be read: layers that come without a payload are looked up there."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from decoder.doctor.finding import Finding
from decoder.node.containerd.contentstore import BLOBS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from decoder.doctor.host import Host

_SUBJECT = "content store"


def check(node: Host) -> Iterator[Finding]:
    """List the store's directory."""
    named = {each.arguments.content_store for each in node.processors.values()} - {""}
    if all(each.arguments.require_payload for each in node.processors.values()) and node.processors:
        text = "it is not used: --require-payload is set"
        yield Finding("note", _SUBJECT, text, "remove that option if clients send no payload (transfer service, CRI)")
        return
    if node.configuration.failure and not named and not node.containerd.root:
        text = "its place is unknown, because the configuration cannot be read"
        yield Finding("warning", _SUBJECT, text, "see the finding about the configuration")
        return
    for root in sorted(named) or [node.root]:
        yield _examine(node, root, is_named=bool(named))


def _examine(node: Host, root: str, is_named: bool) -> Finding:
    store = os.path.join(root, BLOBS)
    try:
        os.listdir(node.place(store))
    except FileNotFoundError:
        if _is_root(node.place(root)):
            return Finding("ok", _SUBJECT, f"{store} is created with the first image")
        if node.containerd.pid or is_named:
            text = f"the directory {store} does not exist"
            return Finding("error", _SUBJECT, text, "see root in containerd's configuration, and --content-store")
        return Finding("note", _SUBJECT, f"{store} does not exist yet: containerd creates it")
    except OSError as error:
        return Finding("error", _SUBJECT, f"{store}: {error.strerror}", "run the doctor as root")
    return Finding("ok", _SUBJECT, f"layers that come without a payload are looked up in {store}")


def _is_root(directory: str) -> bool:
    """Check whether a directory is one of containerd's, whose plugins have directories of their own there."""
    with suppress(OSError):
        return any(name.startswith("io.containerd.") for name in os.listdir(directory))
    return False
