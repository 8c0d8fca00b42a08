"""Keys on the command line: `FILE[:PASSWORD|:pass=…|:file=…|:fd=…]`, `provider:NAME[:PARAM]`, and certificates."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from decoder import limits
from decoder.errors import KeyFileError, UsageError, quoted
from decoder.image.recipients import split_provider
from decoder.keys.file import read_key_file, recognise
from decoder.keys.kept import Kept
from decoder.keys.keyring import DecryptConfig, Keyring
from decoder.keys.subject import Subject
from decoder.keywrap.asking import ask
from decoder.keywrap.keyprovider import CONFIG_VARIABLE
from decoder.provider.client.held import Held

if TYPE_CHECKING:
    from decoder.keys.kept import Provider
    from decoder.provider.client.config import Configured
    from decoder.provider.client.protocol import Operation
    from decoder.provider.keks import Keks

_PROVIDER = "provider:"
_NO_PARAMETER = b"Enabled"  # the parameter that clients send for a keyprovider without one
_ADVICE = "pass --key FILE:file=PASSWORDFILE"
_WITH_PASSWORD = re.compile(r"(.+?):(pass|file|fd)=(.*)", re.DOTALL)


def read_keys(
    keys: Sequence[str], certificates: Sequence[str], provider_config: str = "", image: str = ""
) -> DecryptConfig:
    """Read the keys that open layers.

    Args:
        keys: the values of --key. Keyproviders are asked only if one is named.
        certificates: the values of --dec-recipient, with or without `pkcs7:`.
        provider_config: the keyprovider configuration, "" for the file that the environment names.
        image: the reference of the image whose layers are opened, for the audit of keyprovider servers; "" for none.

    Raises:
        UsageError: a file or password cannot be read, or holds no key.
    """
    keyring = Keyring(KeptForOneRun())
    parameters: dict[str, list[bytes]] = {}
    config_file = provider_config or os.environ.get(CONFIG_VARIABLE, "")
    for text in keys:
        if text.startswith(_PROVIDER):
            name, parameter = split_provider(text.removeprefix(_PROVIDER))
            if not name:
                raise UsageError(f"--key {quoted(text)} names no keyprovider")
            parameters.setdefault(name, []).append(_NO_PARAMETER if parameter is None else parameter)
        else:
            path, password = _split_password(text)
            _add(keyring, "--key", path, password)
    for text in certificates:
        _add(keyring, "--dec-recipient", text.removeprefix("pkcs7:"))
    asked = config_file if parameters else ""
    return DecryptConfig(
        keyring,
        parameters,
        asked,
        deny_config=config_file,
        is_config_required=bool(provider_config),
        subject=lambda: Subject(image),
    )


class KeptForOneRun(Kept):
    """Clients of key services, connections and opened key-encryption keys, for all layers of one command."""

    def __init__(self) -> None:
        self._held: Held | None = None

    def ask(self, provider: Provider, operation: str, data: bytes, parameters: list[bytes]) -> bytes | None:
        """Ask a keyprovider, reusing clients and keys of earlier answers; see `Kept`."""
        if self._held is None:
            self._held = Held(limits.KEK_SECONDS, _keks())
        return ask(cast("Configured", provider), cast("Operation", operation), data, parameters, self._held)


def _keks() -> Keks | None:
    from decoder.provider.keks import Keks

    try:
        return Keks(limits.KEK_SECONDS)
    except OSError:  # this user cannot lock memory, so no key is kept: the key service is asked for every layer
        return None


def _add(keyring: Keyring, option: str, path: str, password: bytes = b"") -> None:
    try:
        found = recognise(path, read_key(path), password)
        found.advise(_ADVICE)
        keyring.extend(found)
    except KeyFileError as error:
        raise UsageError(f"{option} {quoted(path)}: {error}") from error


def read_key(path: str) -> bytes:
    """Read a key file, or a pipe such as /dev/stdin and the shell's process substitution (/dev/fd/N), to its end.

    Raises:
        KeyFileError: it cannot be read, or is larger than KEY_FILE_BYTES.
    """
    if not _is_pipe(path):
        return read_key_file(path)
    try:
        with open(path, "rb") as file:
            data = file.read(limits.KEY_FILE_BYTES + 1)
    except OSError as error:
        raise KeyFileError(error.strerror or "it cannot be read") from error
    if len(data) > limits.KEY_FILE_BYTES:
        raise KeyFileError(f"it is larger than {limits.KEY_FILE_BYTES} bytes")
    return data


def _is_pipe(path: str) -> bool:
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or (stat.S_ISCHR(mode) and path == "/dev/stdin")


def _split_password(text: str) -> tuple[str, bytes]:
    """Split a value of --key into the file and its password. Messages do not quote it, because it may hold a password.

    Raises:
        UsageError: the password cannot be read.
    """
    match = _WITH_PASSWORD.fullmatch(text)
    if not match:
        return _split_bare_password(text)
    path, kind, value = match.groups()
    if kind == "pass":
        return path, value.encode()
    if kind == "fd" and not value.isdecimal():
        raise UsageError(f"--key {quoted(path)}: fd= needs the number of a file descriptor")
    try:
        # A password file is often /dev/stdin or a pipe of the shell, so it need not be a regular file.
        with open(int(value) if kind == "fd" else value, "rb") as file:
            password = file.read(limits.PASSWORD_BYTES + 1)
    except OSError as error:
        raise UsageError(f"--key {quoted(path)}: its password cannot be read: {error.strerror}") from error
    if len(password) > limits.PASSWORD_BYTES:
        raise UsageError(f"--key {quoted(path)}: its password is longer than {limits.PASSWORD_BYTES} bytes")
    return path, password.removesuffix(b"\n").removesuffix(b"\r")


def _split_bare_password(text: str) -> tuple[str, bytes]:
    """Split FILE:PASSWORD, as ctr-enc and skopeo do; an existing file whose name has a colon is not split."""
    path, _, password = text.partition(":")
    if password and not os.path.exists(text) and os.path.exists(path):
        return path, password.encode()
    return text, b""
