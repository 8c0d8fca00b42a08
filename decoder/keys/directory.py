"""The keys directory: every key file below it, and the passwords beside them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from decoder import limits
from decoder.errors import KeyFileError, quoted
from decoder.keys.file import PASSWORD_SUFFIX, is_inside, read_key_file

if TYPE_CHECKING:
    from decoder.keys.keyring import Keyring


def add_directory(keyring: Keyring, directory: str) -> None:
    """Add every key below a directory. Files that are not keys, or cannot be read, are skipped with a warning.

    Files are added in the order of their names, before those in subdirectories. Symbolic links within the
    directory are followed, because Kubernetes Secrets consist of them; each file counts once. The password
    of an encrypted key NAME is in the file NAME.pass beside it, which only its owner may be able to read, or in
    the systemd credential NAME.pass.

    Args:
        keyring: the keyring to add the keys to; its notes get the warnings.
        directory: its path. It need not exist. At most KEYS_DIRECTORY_FILES and KEYS_DIRECTORY_BYTES are read.
    """
    if not os.path.lexists(directory):
        keyring.notes.remarks.append(f"the keys directory {quoted(directory)} does not exist")
        return
    before = _secrets(keyring)
    walk = _walk(keyring, directory, os.path.realpath(directory), set())
    paths = dict.fromkeys(islice(walk, limits.KEYS_DIRECTORY_FILES))
    credentials = os.environ.get("CREDENTIALS_DIRECTORY", "")
    size = 0
    for path in paths:
        if size > limits.KEYS_DIRECTORY_BYTES:
            break
        if path.endswith(PASSWORD_SUFFIX) and path.removesuffix(PASSWORD_SUFFIX) in paths:
            continue
        name = quoted(path.removeprefix(directory).lstrip("/"))
        try:
            data = read_key_file(path)
        except KeyFileError as error:
            keyring.notes.skip(name, error)
        else:
            size += len(data)
            password = _password(keyring, path, path + PASSWORD_SUFFIX in paths, credentials)
            before_it = _secrets(keyring)
            keyring.add(name, data, password, path)
            if _secrets(keyring) > before_it:
                _warn_if_exposed(keyring, name, path)
    usable = _secrets(keyring) - before
    counted = f"holds {usable} private {'key' if usable == 1 else 'keys'}"
    state = counted if usable else "holds no private key" if paths else _why_empty(directory)
    keyring.notes.remarks.append(f"the keys directory {quoted(directory)} {state}")
    if size > limits.KEYS_DIRECTORY_BYTES or next(walk, None):
        keyring.notes.skip(
            f"the rest of {quoted(directory)}",
            f"more than {limits.KEYS_DIRECTORY_FILES} files or {limits.KEYS_DIRECTORY_BYTES} bytes",
        )


def _secrets(keyring: Keyring) -> int:
    return len(keyring.private) + len(keyring.pgp) + len(keyring.pkcs11)


def _warn_if_exposed(keyring: Keyring, name: str, path: str) -> None:
    """Warn of a secret of another user, and of one that its mode and those of all directories above let others read."""
    try:
        status = os.stat(path)
        if status.st_uid not in (0, os.geteuid()):
            keyring.notes.exposed(name, f"belongs to the user {status.st_uid}, who can change it: chown")
        is_open = status.st_mode & stat.S_IROTH
        directory = os.path.realpath(path)
        while is_open and directory != "/":
            directory = os.path.dirname(directory)
            is_open = os.stat(directory).st_mode & stat.S_IXOTH
    except OSError as error:
        keyring.notes.exposed(name, f"cannot be examined: {error.strerror}")
        return
    if is_open:
        mode = stat.S_IMODE(status.st_mode)
        keyring.notes.exposed(name, f"can be read by every user of this machine (mode {mode:04o}): chmod 600")


def _why_empty(directory: str) -> str:
    try:
        os.scandir(directory).close()
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return "is empty"


def _password(keyring: Keyring, path: str, is_beside: bool, credentials: str) -> bytes:
    """Find the password of a key file: beside it, or among the credentials that systemd passes."""
    if is_beside:
        password_path = path + PASSWORD_SUFFIX
    else:
        if not credentials:
            return b""
        password_path = os.path.join(credentials, os.path.basename(path) + PASSWORD_SUFFIX)
        if not os.path.exists(password_path):
            return b""
    try:
        # systemd protects credentials by their directory, not by the mode of each file.
        password = read_key_file(password_path, private=is_beside)
        if is_beside:
            _warn_if_exposed(keyring, quoted(os.path.basename(password_path)), password_path)
    except KeyFileError as error:
        keyring.notes.skip(quoted(os.path.basename(password_path)), error)
        return b""
    return password.removesuffix(b"\n").removesuffix(b"\r")


def _walk(keyring: Keyring, directory: str, root: str, seen: set[tuple[int, int]], depth: int = 0) -> Iterator[str]:
    """Yield every file below `directory` whose real path is below `root`, each once."""
    try:
        with os.scandir(directory) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
    except OSError as error:
        keyring.notes.skip(f"the directory {quoted(directory)}", error.strerror)
        return
    subdirectories = []
    for entry in entries:
        try:
            status = entry.stat()
            outside = entry.is_symlink() and not is_inside(entry.path, root)
        except OSError as error:
            keyring.notes.skip(quoted(entry.name), error.strerror)
            continue
        if outside:
            keyring.notes.skip(quoted(entry.name), "the link leads out of the keys directory")
        elif (identity := (status.st_dev, status.st_ino)) not in seen:
            seen.add(identity)
            if entry.is_dir():
                subdirectories.append(entry.path)
            else:
                yield entry.path
    for path in subdirectories:
        if depth < limits.KEYS_DIRECTORY_DEPTH:
            yield from _walk(keyring, path, root, seen, depth + 1)
        else:
            keyring.notes.skip(quoted(path), "it is nested too deeply")
