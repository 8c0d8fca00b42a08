r"""Source `repository:DIR`: the directory in which a key broker on this machine keeps its resources.

Brokers up to trustee 0.18 keep a resource in the file `repository/type/tag` below it, later ones in the file
`repository\x2Ftype\x2Ftag`, where the four characters `\x2F` replace each slash (docs/formats.md §6).
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from decoder.errors import KeyFileError, quoted
from decoder.keys.file import is_inside, read_key_file
from decoder.keywrap.kid import PLUGIN
from decoder.provider.errors import ProviderError
from decoder.provider.services.coco.keypath import write_new

if TYPE_CHECKING:
    from decoder.keywrap.kid import ResourceId

_FLAT_SLASH = r"\x2F"


def create(where: str, options: Mapping[str, str]) -> Repository:
    """Create the source.

    Args:
        where: the directory, which need not exist yet.
        options: ignored.
    """
    return Repository(where)


class Repository:
    """A `KeySource`; links that lead out of the directory are not resources."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def describe(self) -> str:
        """Return the name of the source for messages."""
        return f"repository:{self._directory}"

    def reach(self, seconds: float) -> None:
        """Check that the directory can be listed; see `Reachable`."""
        try:
            os.listdir(self._directory)
        except OSError as error:
            raise ProviderError(f"the directory cannot be read: {error.strerror}") from error

    def key(self, resource: ResourceId, seconds: float) -> bytes:
        """Read a resource in either layout; see `KeySource`."""
        if resource.plugin != PLUGIN:
            raise ProviderError(f"it only has resources of the plugin {PLUGIN}")
        if not os.path.isdir(self._directory):
            raise ProviderError("there is no such directory")
        for name in (resource.path, resource.path.replace("/", _FLAT_SLASH)):
            link = os.path.join(self._directory, name)
            if not os.path.lexists(link):
                continue
            path = os.path.realpath(link)
            if not is_inside(path, self._directory):
                raise ProviderError(f"its file {quoted(name)} is a link that leads out of the directory")
            try:
                return read_key_file(path)
            except KeyFileError as error:
                raise ProviderError(f"its file {quoted(name)}: {error}") from error
        raise ProviderError("it has no such resource, as a path or as a flat file")


def write_key(directory: str, resource: ResourceId, key: bytes, is_flat: bool) -> str:
    """Write a key to the local store of a broker, in a file that only its owner may read.

    Args:
        directory: the store, which is created if it does not exist.
        resource: the id of the key.
        key: 32 bytes.
        is_flat: write the flat file that current brokers read, or else the path that older ones read.

    Returns:
        The path of the file.

    Raises:
        ProviderError: the store has another key of this name already, or cannot be written to.
    """
    if resource.plugin != PLUGIN:
        raise ProviderError(f"a local store only has resources of the plugin {PLUGIN}, and not {resource}")
    path = os.path.join(directory, resource.path.replace("/", _FLAT_SLASH) if is_flat else resource.path)
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        write_new(path, key)
    except FileExistsError as error:
        if _has(path, key):
            return path
        raise ProviderError(f"{quoted(path)} holds another key, which images may need: choose another id") from error
    except OSError as error:
        raise ProviderError(f"{quoted(path)} cannot be written: {error.strerror}") from error
    return path


def _has(path: str, key: bytes) -> bool:
    try:
        return hmac.compare_digest(read_key_file(path), key)
    except KeyFileError:
        return False
