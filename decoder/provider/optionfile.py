"""Files that options and configurations of keyproviders name."""

from __future__ import annotations

from decoder.errors import KeyFileError, quoted
from decoder.keys.file import read_key_file
from decoder.provider.errors import ProviderError


def read_option_file(path: str, what: str, private: bool = False) -> bytes:
    """Read a file; see `read_key_file`.

    Args:
        path: the file.
        what: what the file is, for the message: `the token-file`.
        private: whether to reject a file that its group or others may read.

    Raises:
        ProviderError: it cannot be read, or `read_key_file` does not accept it.
    """
    try:
        return read_key_file(path, private)
    except KeyFileError as error:
        raise ProviderError(f"{what} {quoted(path)}: {error}") from error
