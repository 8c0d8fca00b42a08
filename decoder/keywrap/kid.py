"""Key IDs of Confidential Containers, which name a resource of a key broker (KBS).

See docs/formats.md §6 and §8.
"""

from __future__ import annotations

import re

from decoder import limits
from decoder.errors import quoted
from decoder.provider.errors import ProviderError
from decoder.record import Record

PLUGIN = "resource"
_SEGMENT = r"[A-Za-z0-9_-][A-Za-z0-9_.-]*"
_NAME = r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)"
_PORT = r":[0-9]{1,5}"
_HOST = rf"{_NAME}(?:{_PORT})?"
_QUERY = r"(?:\?(?P<query>[A-Za-z0-9._~%!$&()*+,;=:@/-]*))?"
# The plugin `resource` names a repository, a type and a tag. Other plugins have paths of their own.
_RESOURCE = rf"{_SEGMENT}/{_SEGMENT}/{_SEGMENT}"
_OTHER = rf"\+(?!{PLUGIN}:)(?P<plugin>{_SEGMENT})"
_FORMS = (
    re.compile(rf"kbs(?:\+{PLUGIN})?://(?:{_HOST})?/(?P<path>{_RESOURCE}){_QUERY}", re.ASCII),
    re.compile(
        rf"kbs{_OTHER}://(?:{_HOST})?/(?P<path>{_SEGMENT}(?:/{_SEGMENT})*){_QUERY}",
        re.ASCII,
    ),
    # Without a scheme, as in old images; and with a host in front, as coco_keyprovider documents it.
    re.compile(rf"(?:/|{_NAME}{_PORT}/)?(?P<path>{_RESOURCE}){_QUERY}", re.ASCII),
)


class ResourceId(Record):
    """A resource of a key broker; `str` returns the form in annotations, `kbs:///repository/type/tag`.

    Attributes:
        path: segments joined by slashes, three of them for the plugin `resource`. Each segment matches
            `[A-Za-z0-9_-][A-Za-z0-9_.-]*`, so the path is safe in a file name or a URL.
        plugin: the part of the broker that has the resource; one such segment.
        query: the text after the question mark, which some plugins take.
    """

    path: str
    plugin: str = PLUGIN
    query: str = ""

    def __str__(self) -> str:
        plugin = "" if self.plugin == PLUGIN else f"+{self.plugin}"
        query = f"?{self.query}" if self.query else ""
        return f"kbs{plugin}:///{self.path}{query}"


def parse_kid(text: str) -> ResourceId:
    """Parse a key ID: `kbs[+plugin]://[host[:port]]/path`, or `[host:port/]repository/type/tag`.

    The host is the broker's address as the encrypting side knew it. It is ignored, as the readers in guests do.

    Args:
        text: the key ID, at most COCO_KID_CHARACTERS.

    Raises:
        ProviderError: the text has none of these forms.
    """
    matches = (form.fullmatch(text) for form in _FORMS) if len(text) <= limits.COCO_KID_CHARACTERS else iter(())
    match = next(filter(None, matches), None)
    if not match:
        raise ProviderError(f"{quoted(text)} is not a key id of the form kbs:///repository/type/tag")
    members = match.groupdict()
    return ResourceId(members["path"], members.get("plugin") or PLUGIN, members["query"] or "")
