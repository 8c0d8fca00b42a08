"""Key ids of Confidential Containers: which resource of a key broker is meant (docs/formats.md §6, §8)."""

from __future__ import annotations

import re

from decoder import limits
from decoder.errors import quoted
from decoder.provider.errors import ProviderError
from decoder.record import Record

PLUGIN = "resource"
_SEGMENT = r"[A-Za-z0-9_-][A-Za-z0-9_.-]*"
_HOST = r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?"
# The scheme and what goes with it may be absent in old images, the leading slash even then.
_KID = re.compile(
    rf"(?:kbs(?:\+(?P<plugin>{_SEGMENT}))?://(?:{_HOST})?/|/?)"
    rf"(?P<repository>{_SEGMENT})/(?P<type>{_SEGMENT})/(?P<tag>{_SEGMENT})"
    r"(?:\?(?P<query>[A-Za-z0-9._~%!$&()*+,;=:@/-]*))?",
    re.ASCII,
)


class ResourceId(Record):
    """A resource of a key broker; `str` gives the form that annotations have, `kbs:///repository/type/tag`.

    Attributes:
        repository: these three match `[A-Za-z0-9_-][A-Za-z0-9_.-]*`, so that they can be parts of a path or URL.
        type: see above.
        tag: see above.
        plugin: the part of the broker that has it; likewise.
        query: what follows the question mark, for plugins that take one.
    """

    repository: str
    type: str
    tag: str
    plugin: str = PLUGIN
    query: str = ""

    @property
    def path(self) -> str:
        """The resource as a relative path, `repository/type/tag`."""
        return f"{self.repository}/{self.type}/{self.tag}"

    def __str__(self) -> str:
        plugin = "" if self.plugin == PLUGIN else f"+{self.plugin}"
        query = f"?{self.query}" if self.query else ""
        return f"kbs{plugin}:///{self.path}{query}"


def parse_kid(text: str) -> ResourceId:
    """Read a key id: `kbs[+plugin]://[host[:port]]/repository/type/tag`, or without a scheme as old images have it.

    The host is the encrypting side's idea of where the broker is, and ignored, as the readers in guests do.

    Args:
        text: at most COCO_KID_CHARACTERS.

    Raises:
        ProviderError: it is nothing of that kind.
    """
    match = _KID.fullmatch(text) if len(text) <= limits.COCO_KID_CHARACTERS else None
    if not match:
        raise ProviderError(f"{quoted(text)} is no key id of the form kbs:///repository/type/tag")
    repository, kind, tag = match["repository"], match["type"], match["tag"]
    return ResourceId(repository, kind, tag, match["plugin"] or PLUGIN, match["query"] or "")
