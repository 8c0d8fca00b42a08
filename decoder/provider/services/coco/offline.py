"""Source `offline:FILE[,FILE]`: resources in JSON files, for guests without a key broker (docs/formats.md §8)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from decoder.errors import KeyFileError, quoted
from decoder.formats import wire
from decoder.keys.file import read_key_file
from decoder.keywrap.kid import PLUGIN
from decoder.provider.errors import ProviderError

if TYPE_CHECKING:
    from decoder.keywrap.kid import ResourceId

EXTRA_FILES = "OFFLINE_FS_KBC_EXTRA_FILE_PATH"


def create(where: str, options: Mapping[str, str]) -> Offline:
    """Create the source.

    Args:
        where: the files, separated by commas; the files in $OFFLINE_FS_KBC_EXTRA_FILE_PATH come after them.
        options: ignored.
    """
    return Offline(where)


class Offline:
    """A `KeySource` of JSON objects `{"repository/type/tag": base64}`; the last file that has a resource counts."""

    def __init__(self, files: str) -> None:
        self._files = files

    def describe(self) -> str:
        """Return the name of the source for messages."""
        return f"offline:{self._files}"

    def reach(self, seconds: float) -> None:
        """Check that every file can be read; see `Reachable`."""
        for file in self._all_files():
            _read(file)

    def key(self, resource: ResourceId, seconds: float) -> bytes:
        """Look up a resource; see `KeySource`."""
        if resource.plugin != PLUGIN:
            raise ProviderError(f"it only has resources of the plugin {PLUGIN}")
        resources = {name: (file, value) for file in self._all_files() for name, value in _read(file).items()}
        if resource.path not in resources:
            raise ProviderError("it has no such resource")
        file, value = resources[resource.path]
        try:
            return wire.decode_base64(wire.text_value(value))
        except ValueError as error:
            raise ProviderError(f"the resource in {quoted(file)}: {error}") from error

    def _all_files(self) -> list[str]:
        return [file for file in f"{self._files},{os.environ.get(EXTRA_FILES, '')}".split(",") if file]


def _read(file: str) -> dict[str, object]:
    try:
        return wire.parse_object(read_key_file(file))
    except (KeyFileError, ValueError) as error:
        raise ProviderError(f"its file {quoted(file)}: {error}") from error
