r"""Source `repository:DIR`: the directory in which a key broker on this machine keeps its resources.

Up to trustee 0.18 a resource is the file `repository/type/tag` below it, since then `repository\x2Ftype\x2Ftag`, with
the four characters in place of each slash (docs/formats.md §6).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from decoder.errors import KeyFileError, quoted
from decoder.keys.file import read_key_file
from decoder.keywrap.kid import PLUGIN
from decoder.provider.errors import ProviderError

if TYPE_CHECKING:
    from decoder.keywrap.kid import ResourceId

_FLAT_SLASH = r"\x2F"


def create(where: str, options: Mapping[str, str]) -> Repository:
    """Create the source.

    Args:
        where: the directory, which need not be there yet.
        options: none of them matters here.
    """
    return Repository(where)


class Repository:
    """A `KeySource`; a link that leads out of the directory is none of its resources."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def describe(self) -> str:
        """Name it for a message."""
        return f"repository:{self._directory}"

    def key(self, resource: ResourceId, seconds: float) -> bytes:
        """Read a resource in either layout; see `KeySource`."""
        if resource.plugin != PLUGIN:
            raise ProviderError(f"it has resources of the plugin {PLUGIN} alone")
        if not os.path.isdir(self._directory):
            raise ProviderError("there is no such directory")
        inside = os.path.join(os.path.realpath(self._directory), "")
        for name in (resource.path, resource.path.replace("/", _FLAT_SLASH)):
            path = os.path.realpath(inside + name)
            if not os.path.lexists(inside + name):
                continue
            if not path.startswith(inside):
                raise ProviderError(f"its file {quoted(name)} is a link that leads out of the directory")
            try:
                return read_key_file(path)
            except KeyFileError as error:
                raise ProviderError(f"its file {quoted(name)}: {error}") from None
        raise ProviderError("it has no such resource, as a path or as a flat file")
