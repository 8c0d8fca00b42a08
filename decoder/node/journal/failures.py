"""Messages about layers in the journal: failures, and warnings about layers that were decrypted.

containerd shows a decoder's standard error only if nothing or little of the layer had been written before. For other
damaged layers its clients print only `unexpected EOF`. `journalctl -t ctd-decoder` shows the messages.
"""

from __future__ import annotations

from decoder import limits
from decoder.errors import quoted
from decoder.node import journal
from decoder.node.containerd.imagename import find_image, is_digest
from decoder.node.journal import ratelimit

_CLASSES = {
    2: "usage",
    3: "payload",
    4: "key",
    5: "layer",
    6: "keyprovider",
    7: "stream",
    8: "shortage",
}
_DEFECT = "internal"


def report_failure(status: int, reason: str, layer: str, root: str) -> None:
    """Log that a layer could not be decrypted; the status, the layer and its image are also fields of their own.

    Args:
        status: the exit status.
        reason: the error message; it may have several lines.
        layer: the digest of the encrypted layer, or "" if it is not known.
        root: containerd's root directory, which is searched for the layer's image.
    """
    fields = {"CTD_STATUS": str(status), "CTD_CLASS": _CLASSES.get(status, _DEFECT), "CTD_REASON": reason}
    subject = "a layer"
    if layer:
        layer = layer if is_digest(layer) else quoted(layer)
        subject = f"layer {layer}"
        fields["CTD_LAYER"] = layer
        image = find_image(root, layer)
        if image.digest:
            fields |= {"CTD_IMAGE_DIGEST": image.digest} | ({"CTD_IMAGE": image.name} if image.name else {})
            subject += f" of image {image.name or image.digest}"
    _log(f"cannot decrypt {subject} (status {status}): {reason}", journal.ERROR, fields)


def report_warnings(warnings: list[str]) -> None:
    """Log warnings about a layer that was decrypted, in one message."""
    _log("; ".join(warnings), journal.WARNING, {})


def _log(text: str, severity: int, fields: dict[str, str]) -> None:
    left = ratelimit.remaining(ratelimit.default_file())
    if left >= 0:
        journal.log(text, severity, fields)
    if left == 0:
        seconds = limits.JOURNAL_WINDOW_SECONDS
        text = f"more than {limits.JOURNAL_MESSAGES} messages in {seconds} seconds: further ones are dropped"
        journal.log(text, journal.WARNING)
