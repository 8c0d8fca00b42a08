"""The content store, where the decoder looks for a layer's descriptor if no payload came."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from decoder.doctor.finding import Finding
from decoder.node.contentstore import BLOBS
from decoder.node.storeroot import DEFAULT_ROOT

if TYPE_CHECKING:
    from decoder.doctor.containerd import Containerd


def examine(containerd: Containerd, findings: list[Finding]) -> None:
    """Tell which store would be searched, and whether it can be read."""
    root = containerd.configuration.get("root")
    store = os.path.join(root if isinstance(root, str) and root else DEFAULT_ROOT, BLOBS)
    subject = "content store"
    try:
        os.listdir(store)
    except FileNotFoundError:
        text = f"{store} is not there yet; it comes with the first image"
        findings.append(Finding("warning", subject, text, "see root in containerd's configuration if images are there"))
    except OSError as error:
        findings.append(Finding("error", subject, f"{store}: {error.strerror}", "run the doctor as root"))
    else:
        findings.append(Finding("ok", subject, f"without a payload, descriptors are looked up in {store}"))
