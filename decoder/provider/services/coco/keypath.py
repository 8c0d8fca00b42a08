"""The files of `keypath`: one key per file, which can be created while an image is encrypted."""

from __future__ import annotations

import os
from contextlib import suppress
from tempfile import NamedTemporaryFile

from decoder import limits
from decoder.errors import KeyFileError, quoted
from decoder.keys.file import is_inside, read_key_file
from decoder.provider.errors import ProviderError


def read_key(keypath: str, directory: str | None, create: bool) -> bytes:
    """Read a key; create it first if `create` is set and the file does not exist.

    All layers of an image get the same key, even if separate processes encrypt them, and so do later images that use
    this file.

    Args:
        keypath: the file; relative to `directory` if there is one.
        directory: the directory that the file must be below; "" allows no file, None allows any.
        create: create the file if it does not exist.

    Raises:
        ProviderError: the file is not allowed, cannot be read or created, or does not have 32 bytes.
    """
    path = _inside(keypath, directory)
    if create and not os.path.lexists(path):
        _make(path)
    try:
        key = read_key_file(path)
    except KeyFileError as error:
        raise ProviderError(f"the keypath {quoted(keypath)}: {error}") from error
    if len(key) != limits.SYMMETRIC_KEY_BYTES:
        raise ProviderError(f"the keypath {quoted(keypath)} has {len(key)} bytes, not {limits.SYMMETRIC_KEY_BYTES}")
    return key


def _inside(keypath: str, directory: str | None) -> str:
    if directory is None:
        return keypath
    if not directory:
        raise ProviderError("the key spec has keypath, but this server reads no files: its option keys allows them")
    path = os.path.realpath(os.path.join(directory, keypath))
    if not is_inside(path, directory):
        raise ProviderError(f"the keypath {quoted(keypath)} is not below the directory that the option keys names")
    return path


def _make(path: str) -> None:
    try:
        with suppress(FileExistsError):  # another layer was faster, and its key counts
            write_new(path, os.urandom(limits.SYMMETRIC_KEY_BYTES))
    except OSError as error:
        raise ProviderError(f"the keypath {quoted(path)} cannot be created: {error.strerror}") from error


def write_new(path: str, data: bytes) -> None:
    """Write a file that only its owner may read; it appears complete, and never replaces another file.

    Raises:
        FileExistsError: a file of this name exists.
        OSError: the file cannot be written.
    """
    directory = os.path.dirname(path) or "."
    with NamedTemporaryFile(dir=directory, prefix=".new-key-") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        os.link(file.name, path)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
