"""The setting `"strict-lookup": true` in the keyprovider configuration, which an option can set as well."""

from __future__ import annotations

import os

from decoder.errors import KeyFileError, PayloadError, quoted
from decoder.formats import wire
from decoder.keys.file import read_key_file

_NAME = "strict-lookup"


def is_strict(file: str) -> bool:
    """Check whether the search for a layer's descriptor is to be strict.

    Args:
        file: the keyprovider configuration, or ""; it need not exist.

    Raises:
        PayloadError: the file cannot be read, so the setting is unknown.
    """
    if not file or not os.path.lexists(file):
        return False
    try:
        data = read_key_file(file)
        if _NAME.encode() not in data and rb"\u" not in data:
            return False  # the setting cannot be in the file, so parsing it would be a waste of time
        value = wire.parse_object(data).get(_NAME, False)
    except (KeyFileError, ValueError) as error:
        raise PayloadError(f"{_NAME} cannot be read from {quoted(file)}: {error}") from error
    if not isinstance(value, bool):
        raise PayloadError(f"{_NAME} in {quoted(file)} is neither true nor false")
    return value
