"""Private keys of owners and publishers: in a file, on a token, or wrapped by a keyprovider.

`ctd-decoder grants wrap-key` writes the file of a wrapped key. It works with every keyprovider, because the provider
wraps a random key, which looks like the key of a layer. The private key is encrypted with it (AES-256-GCM).

    {"format":"ctd-wrapped-key/1","annotation":BASE64,"iv":BASE64,"data":BASE64}
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from decoder import limits
from decoder.errors import KeyFileError, ProviderFailedError, UsageError, WrappedKeyError, quoted
from decoder.formats import wire
from decoder.grants.errors import StatementError, WrappingError
from decoder.grants.keys import FileKey, algorithms, only_key, read_password
from decoder.keys.file import read_key_file, recognise
from decoder.keys.keyring import DecryptConfig, Keyring
from decoder.keywrap.jwe import opening
from decoder.keywrap.jwe.message import parse
from decoder.keywrap.keyprovider import CONFIG_VARIABLE, KeyProvider
from decoder.keywrap.unproven import Unproven
from decoder.layer.annotations import PrivateOptions, build_private_options, parse_private_options
from decoder.layer.digest import digest_of

if TYPE_CHECKING:
    from decoder.grants.keys import OwnKey
    from decoder.keywrap.publickeys import PublicKeyObject

_FORMAT = "ctd-wrapped-key/1"
_PROVIDER = "provider:"
_IV_BYTES = 12


def open_own_key(option: str, text: str, password_file: str = "") -> OwnKey:
    """Open a private key.

    Args:
        option: the option's name, for messages.
        text: FILE, with a private key or the YAML of a PKCS#11 key; or `provider:NAME:FILE`, with a wrapped key.
        password_file: the file with the password of an encrypted key, or "".

    Raises:
        UsageError: the key cannot be used.
        WrappingError: a keyprovider failed.
    """
    path = text.removeprefix(_PROVIDER).partition(":")[2] if text.startswith(_PROVIDER) else text
    try:
        password = _password(option, password_file)
        data = read_key_file(path)
        if text.startswith(_PROVIDER):
            data = _unwrap(text.removeprefix(_PROVIDER).partition(":")[0], data)
        found = recognise(path, data, password)
        found.advise(f"name the file that holds it: {_password_option(option)}")
        return TokenKey(found.pkcs11[0].data) if found.pkcs11 else only_key(found)
    except ProviderFailedError as error:
        raise WrappingError(f"{option} {quoted(path)}: {error}") from error
    except (KeyFileError, WrappedKeyError) as error:
        raise UsageError(f"{option} {quoted(path)}: {error}") from error


def _password(option: str, path: str) -> bytes:
    try:
        return read_password(path) if path else b""
    except KeyFileError as error:
        raise UsageError(f"{_password_option(option)} {quoted(path)}: {error}") from error


def _password_option(option: str) -> str:
    """Return the name of the option for the password, or of the member in an approver's policy."""
    return "--password-file" if option.startswith("-") else "password-file"


def wrap_key(path: str, provider: str, password_file: str = "") -> bytes:
    """Wrap a private key with a keyprovider; see `open_own_key`.

    Args:
        path: the file of the private key. The result is not protected by its password.
        provider: `NAME[:PARAMETER]`, as after `provider:` in a recipient.
        password_file: the file with the password of an encrypted key, or "".

    Raises:
        UsageError: the key cannot be used, or no such keyprovider is configured.
        WrappingError: the keyprovider failed.
    """
    key = open_own_key("--key", path, password_file)
    if not isinstance(key, FileKey):
        raise UsageError("--key: a key on a token cannot be read, so it cannot be wrapped; use it directly")
    name, colon, parameter = provider.partition(":")
    symmetric, pem = os.urandom(limits.SYMMETRIC_KEY_BYTES), key.pem()
    options = PrivateOptions(symmetric, bytes(limits.NONCE_BYTES), digest_of(pem))
    try:
        annotation = KeyProvider(name).wrap(build_private_options(options), [parameter.encode()] if colon else [])
    except ProviderFailedError as error:
        raise WrappingError(str(error)) from error
    except WrappedKeyError as error:
        raise UsageError(f"--provider: {error}") from error
    iv = os.urandom(_IV_BYTES)
    members = {"annotation": annotation, "iv": iv, "data": AESGCM(symmetric).encrypt(iv, pem, _FORMAT.encode())}
    encoded = {name: wire.encode_base64(value) for name, value in members.items()}
    return json.dumps({"format": _FORMAT, **encoded}, separators=(",", ":")).encode() + b"\n"


def _unwrap(name: str, data: bytes) -> bytes:
    try:
        members = wire.parse_object(data)
        if members.get("format") != _FORMAT:
            raise KeyFileError("it was not written by `ctd-decoder grants wrap-key`")
        annotation, iv, encrypted = (wire.bytes_value(members.get(each)) for each in ("annotation", "iv", "data"))
        config = DecryptConfig(Keyring(), keyprovider_config=os.environ.get(CONFIG_VARIABLE, ""))
        opened = KeyProvider(name).unwrap(annotation, config, lambda _key, _reason: None)
        key = parse_private_options(opened.opened if isinstance(opened, Unproven) else opened).symmetric_key
        return AESGCM(key).decrypt(iv, encrypted, _FORMAT.encode())
    except (ValueError, InvalidTag) as error:
        raise KeyFileError("it was damaged, or wrapped by another keyprovider") from error


class TokenKey:
    """An RSA key on a PKCS#11 token; see `OwnKey`.

    Args:
        data: the YAML of the key file.

    Raises:
        KeyFileError: the key cannot be used.
        WrappedKeyError: a library is not installed.
    """

    def __init__(self, data: bytes) -> None:
        from decoder.keywrap import pkcs11
        from decoder.keywrap.pkcs11.config import node_config

        self._key = pkcs11.TokenKey(data, node_config())
        self.public: PublicKeyObject = self._key.public
        self.algorithm = algorithms(self.public)[-1]  # RS256, because fewer tokens support PSS

    def sign(self, data: bytes) -> bytes:
        """Sign; see `OwnKey`."""
        return self._key.sign(data)

    def open(self, wrapped: bytes) -> bytes:
        """Open a JWE; the token decrypts only the content key. See `OwnKey`."""
        try:
            message = parse(wrapped)
            recipients = opening.acceptable(message.recipients)
        except WrappedKeyError as error:
            raise StatementError(str(error)) from error
        reason = "no recipient has a key of this size"
        cause: Exception | None = None
        for recipient in recipients:
            try:
                if opening.could_fit(recipient, self.public):
                    digest = opening.RSA_HASHES[str(recipient.joined["alg"])]
                    content_key = self._key.decrypt(recipient.encrypted_key, digest().name)
                    return opening.open_content(message, recipient, content_key)
            except (KeyFileError, ValueError, InvalidTag) as error:
                reason, cause = str(error) or "it does not open the content", error
        raise StatementError(f"it is not encrypted to this key: {reason}") from cause
