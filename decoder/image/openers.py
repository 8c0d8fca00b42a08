"""Keys as the command line names them: `FILE[:pass=…|:file=…|:fd=…]`, `provider:NAME[:PARAM]`, and certificates."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from decoder import limits
from decoder.errors import KeyFileError, UsageError, quoted
from decoder.image.recipients import split_provider
from decoder.keys.file import read_key_file
from decoder.keys.keyring import DecryptConfig, Keyring
from decoder.keywrap.keyprovider import CONFIG_VARIABLE

_PROVIDER = "provider:"
_NO_PARAMETER = b"Enabled"  # as clients write a keyprovider without a parameter
_WITH_PASSWORD = re.compile(r"(.+?):(pass|file|fd)=(.*)", re.DOTALL)


def read_keys(keys: Sequence[str], certificates: Sequence[str], provider_config: str = "") -> DecryptConfig:
    """Read what opens layers.

    Args:
        keys: the values of --key. Keyproviders are asked only if one is named.
        certificates: the values of --dec-recipient, with `pkcs7:` before them or without.
        provider_config: the file that configures keyproviders, "" for that of the environment.

    Raises:
        UsageError: a file or password cannot be read, or holds no key.
    """
    keyring = Keyring()
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
    return DecryptConfig(keyring, parameters, config_file if parameters else "", deny_config=config_file)


def _add(keyring: Keyring, option: str, path: str, password: bytes = b"") -> None:
    from decoder.keys.file import recognise

    try:
        keyring.extend(recognise(path, read_key_file(path), password))
    except KeyFileError as error:
        raise UsageError(f"{option} {quoted(path)}: {error}") from error


def _split_password(text: str) -> tuple[str, bytes]:
    """Split a file from its password; no message has the text, which may hold one."""
    match = _WITH_PASSWORD.fullmatch(text)
    if not match:
        return text, b""
    path, kind, value = match.groups()
    if kind == "pass":
        return path, value.encode()
    if kind == "fd" and not value.isdecimal():
        raise UsageError(f"--key {quoted(path)}: fd= wants the number of a descriptor")
    try:
        # A password file is often /dev/stdin or a pipe of the shell's, so it need not be a regular one.
        with open(int(value) if kind == "fd" else value, "rb") as file:
            password = file.read(limits.PASSWORD_BYTES + 1)
    except OSError as error:
        raise UsageError(f"--key {quoted(path)}: its password cannot be read: {error.strerror}") from error
    if len(password) > limits.PASSWORD_BYTES:
        raise UsageError(f"--key {quoted(path)}: its password is longer than {limits.PASSWORD_BYTES} bytes")
    return path, password.removesuffix(b"\n").removesuffix(b"\r")
