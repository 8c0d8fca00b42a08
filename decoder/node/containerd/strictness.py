"""Whether the search for a layer's descriptor is strict: an option, or `"strict-lookup": true` in a file."""

from __future__ import annotations

import os

from decoder.errors import KeyFileError, PayloadError, quoted
from decoder.formats import wire
from decoder.keys.file import read_key_file

_NAME = "strict-lookup"


def is_strict(file: str) -> bool:
    """Read the setting.

    Args:
        file: the configuration of keyproviders, or ""; it need not exist.

    Raises:
        PayloadError: the file cannot be read, so the setting is unknown.
    """
    if not file or not os.path.lexists(file):
        return False
    try:
        data = read_key_file(file)
        if _NAME.encode() not in data and rb"\u" not in data:
            return False  # nothing is parsed where the setting cannot be
        value = wire.parse_object(data).get(_NAME, False)
    except (KeyFileError, ValueError) as error:
        raise PayloadError(f"{_NAME} cannot be read from {quoted(file)}: {error}") from error
    if not isinstance(value, bool):
        raise PayloadError(f"{_NAME} in {quoted(file)} is neither true nor false")
    return value
