"""The PKCS#11 modules that may be loaded: ocicrypt's configuration, and the search for a module."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from decoder.errors import KeyFileError, quoted
from decoder.keys.file import read_key_file
from decoder.keywrap.pkcs11.keyfile import is_text, mapping, parse_yaml
from decoder.record import Record

if TYPE_CHECKING:
    from decoder.keywrap.pkcs11.uri import Pkcs11Uri

FILE_NAME = "ocicrypt.conf"
SYSTEM_DIRECTORY = "/etc"


class Pkcs11Config(Record):
    """Directories to search for modules, and paths that may be loaded: files, or directories ending in a slash."""

    module_directories: tuple[str, ...] = ()
    allowed_module_paths: tuple[str, ...] = ()


def applicable_config(from_payload: Sequence[bytes]) -> Pkcs11Config:
    """Return the payload's configuration if there is one, otherwise the node's.

    Args:
        from_payload: YAML without an outer `pkcs11`; only the first is used, as in the reference.

    Raises:
        KeyFileError: the configuration that applies cannot be read or is malformed.
        WrappedKeyError: the YAML library is not installed.
    """
    if not from_payload:
        return node_config()
    return _parse(from_payload[0], "the payload's pkcs11-config")


def node_config() -> Pkcs11Config:
    """Read the node's configuration: $OCICRYPT_CONFIG, or else the user's file, or else the system's.

    Without any of them no module is allowed.

    Raises:
        KeyFileError: the file cannot be read, or is malformed.
        WrappedKeyError: the YAML library is not installed.
    """
    named = os.environ.get("OCICRYPT_CONFIG")
    if named == "internal":
        return _internal()
    if named:
        return read_config(named)
    for directory in _directories():
        path = os.path.join(directory, FILE_NAME)
        if os.path.lexists(path):
            return read_config(path)
    return Pkcs11Config()


def find_module(uri: Pkcs11Uri, config: Pkcs11Config) -> str:
    """Find the module that a URI names, without loading it.

    Returns:
        Its real path, so that the file that was checked is the one that is loaded.

    Raises:
        KeyFileError: there is no such module, or the configuration does not allow it.
    """
    if not config.allowed_module_paths:
        raise KeyFileError(
            f"no PKCS#11 module is allowed: list it in allowed-module-paths of {FILE_NAME} or $OCICRYPT_CONFIG"
        )
    refused = []
    for candidate in _candidates(uri, config):
        place = os.path.join(os.path.realpath(os.path.dirname(candidate)), os.path.basename(candidate))
        if _is_allowed(place, config.allowed_module_paths):
            return os.path.realpath(place)
        refused.append(place)
    if refused:
        raise KeyFileError(f"the module {quoted(refused[0])} is not among the allowed-module-paths")
    raise KeyFileError("no module with the requested name was found")


def _directories() -> Iterator[str]:
    """Yield the directories that may hold a configuration, the user's first. XDG says to ignore relative paths."""
    config_home = os.environ.get("XDG_CONFIG_HOME", "")
    if os.path.isabs(config_home):
        yield config_home
    home = os.environ.get("HOME", "")
    if os.path.isabs(home):
        yield os.path.join(home, ".config")
    yield SYSTEM_DIRECTORY


def _internal() -> Pkcs11Config:
    """Allow the directories where distributions install modules: Fedora and SUSE, Arch, local, Debian."""
    machine = os.uname().machine
    directories = (
        "/usr/lib64/pkcs11/",
        "/usr/lib/pkcs11/",
        "/usr/local/lib/pkcs11/",
        "/usr/lib/softhsm/",
        f"/usr/lib/{machine}-linux-gnu/",
    )
    return Pkcs11Config(directories, directories)


def read_config(path: str) -> Pkcs11Config:
    """Read a configuration file: YAML with an outer `pkcs11`.

    Raises:
        KeyFileError: it cannot be read, or is malformed.
        WrappedKeyError: the YAML library is not installed.
    """
    try:
        data = read_key_file(path)
    except KeyFileError as error:
        raise KeyFileError(f"the configuration {quoted(path)}: {error}") from error
    return _parse(data, f"the configuration {quoted(path)}", outer="pkcs11")


def _parse(data: bytes, name: str, outer: str | None = None) -> Pkcs11Config:
    try:
        content = parse_yaml(data)
        if outer:
            content = mapping(content.get(outer), outer)
        return Pkcs11Config(_paths(content, "module-directories"), _paths(content, "allowed-module-paths"))
    except KeyFileError as error:
        raise KeyFileError(f"{name}: {error}") from error


def _paths(content: dict[str, object], name: str) -> tuple[str, ...]:
    value = content.get(name) or []
    if not isinstance(value, list) or not all(map(is_text, value)):
        raise KeyFileError(f"its {name} is not a list of paths")
    return tuple(item for item in value if os.path.isabs(item))


def _candidates(uri: Pkcs11Uri, config: Pkcs11Config) -> Iterator[str]:
    """Yield the files that a URI may name by module-path, module-name, or both (RFC 7512 §2.4)."""
    path, name = uri.query.get("module-path"), uri.query.get("module-name")
    if path is not None and not os.path.isabs(path):
        raise KeyFileError("its module-path is not absolute")
    if path is not None and not os.path.isdir(path):
        if not os.path.isfile(path):
            raise KeyFileError(f"there is no module {quoted(path)}")
        yield path
    elif name:
        for directory in config.module_directories if path is None else (path,):
            yield from _named(directory, name.lower())
    else:
        raise KeyFileError("it names no module (module-path, module-name)")


def _named(directory: str, name: str) -> Iterator[str]:
    """Yield the files with the name NAME or libNAME and any suffix: `softhsm2` means libsofthsm2.so."""
    try:
        files = sorted(os.listdir(directory))
    except OSError:
        return
    wanted = name.removeprefix("lib")
    for file in files:
        stem = file.lower().removeprefix("lib")
        if stem == wanted or stem.startswith(wanted + "."):
            yield os.path.join(directory, file)


def _is_allowed(place: str, allowed: Sequence[str]) -> bool:
    """Compare real directories, so that no `..` and no link to a directory leads out of the allowed ones.

    A link in an allowed directory counts as a file there: distributions install modules as links (Debian's
    /usr/lib/softhsm), and a user who can create the link can also put a module there.
    """
    directory, real = os.path.dirname(place), os.path.realpath(place)
    return any(
        os.path.realpath(entry) == directory if entry.endswith("/") else os.path.realpath(entry) == real
        for entry in allowed
    )
