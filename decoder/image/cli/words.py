"""Options of skopeo and ctr-enc, with hints to ours, and recipients without a protocol."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from decoder import keywrap
from decoder.errors import KeyFileError, UsageError, quoted
from decoder.image.recipients import PROTOCOLS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_VALUES_WITH_DASH = ("--layer",)
_OURS = {
    "--encryption-key": "--recipient",
    "--encrypt-layer": "--layer",
    "--decryption-key": "--key",
    "--privkey": "--key",
    "--gpg-recipient": "--recipient pgp:",
    "--src-creds": "--creds",
    "--dest-creds": "--creds",
    "--src-authfile": "--authfile",
    "--dest-authfile": "--authfile",
    "--src-tls-verify": "--tls-verify",
    "--dest-tls-verify": "--tls-verify",
    "--src-cert-dir": "a directory HOST[:PORT] in /etc/containers/certs.d",
    "--dest-cert-dir": "a directory HOST[:PORT] in /etc/containers/certs.d",
    "--all": "--all-platforms, which is the default",
    "--multi-arch": "--platform",
    "--insecure-policy": "nothing: no policy is read",
}


def joined(arguments: Sequence[str]) -> list[str]:
    """Join options with values that start with a dash, because argparse would take `-2..` for an option."""
    found: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        value = next(rest, None) if argument in _VALUES_WITH_DASH else None
        found.append(argument if value is None else f"{argument}={value}")
    return found


def with_hint(message: str) -> str:
    """Add to a message about an option of another program the name of ours, instead of the nearest spelling."""
    for theirs, ours in _OURS.items():
        if f"'{theirs}'" in message or message.endswith(theirs):
            return f"{message.partition(' (did you mean ')[0]}; here, use {ours}"
    return message


def with_protocol(text: str, read: Callable[[str], bytes]) -> tuple[str, str]:
    """Add the protocol to a recipient that was given without one.

    A public key or JWK is for JWE, a certificate for PKCS#7, a file about a token's key for PKCS#11; an e-mail address
    is for OpenPGP. A private key is passed to JWE, whose error says what is wrong.

    Args:
        text: the recipient on the command line.
        read: reads a file or a pipe, as `RecipientRules.read_file`.

    Returns:
        The recipient, and a line for the user if a protocol was added, otherwise "".

    Raises:
        UsageError: it is a file with an OpenPGP certificate, which is chosen by its address.
    """
    if text.partition(":")[0] in PROTOCOLS:
        return text, ""
    try:
        data = read(text) if os.path.exists(text) and not os.path.isdir(text) else b""
    except KeyFileError:
        return text, ""
    try:
        protocol = keywrap.scheme_for(text, data)
    except KeyFileError as error:
        raise UsageError(f"--recipient {quoted(text)}: {error}") from error
    if not protocol:
        return text, ""
    return f"{protocol}:{text}", f"--recipient {quoted(text)} is taken as {quoted(f'{protocol}:{text}')}"
