"""PKCS#11: private options wrapped with RSA-OAEP to keys on hardware or software tokens.

The form is ocicrypt's: `{"version":0,"recipients":[{"version":0,"blob":BASE64,"hash":"sha256"|"sha1"}]}`. An absent
hash means SHA-1. The label is empty, and MGF1 uses the same hash (RFC 8017 §7.1).
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from decoder import limits
from decoder.errors import KeyFileError, WrappedKeyError, quoted
from decoder.formats import wire
from decoder.keys.formats import pem
from decoder.keywrap.pkcs11.config import Pkcs11Config, applicable_config, find_module, node_config
from decoder.keywrap.pkcs11.keyfile import parse_key_file, read_pin
from decoder.record import Record

if TYPE_CHECKING:
    from decoder.keys.file import KeyMaterial
    from decoder.keys.keyring import DecryptConfig
    from decoder.keywrap import Refused
    from decoder.keywrap.recipient import KeyName, RecipientRules

_HASHES: dict[str, type[hashes.HashAlgorithm]] = {"sha1": hashes.SHA1, "sha256": hashes.SHA256}
_DEFAULT_READ = "sha1"  # if the hash is absent
_DEFAULT_WRITTEN = "sha256"
_VERSION = 0
_NO_PIN = "it has no PIN (pin-value or pin-source), and the private key needs one"
_RSA_BYTES = range(128, limits.PKCS11_BLOB_BYTES + 1)


class WrappedBlob(Record):
    """Private options, encrypted to one key, and the hash for OAEP."""

    hash_name: str
    blob: bytes


def suits(_text: str, data: bytes) -> bool:
    """Check whether a file names a key on a token; see `keywrap.Scheme`."""
    return data.startswith(b"pkcs11") or b"\npkcs11:" in data


def read_recipient(value: str, rules: RecipientRules) -> list[bytes]:
    """Read a file with public keys or certificates, or with the URI of a key on a token; see `keywrap.Scheme`."""
    from decoder.keywrap.publickeys import check_size, read_public_keys

    data = rules.read_file(value)
    if is_key_file(data):
        key, _ = _public_key(data, node_config())
        check_size(key.key_size, rules)
        return [data]
    return [public.spki() for public in read_public_keys(data, rules)]


def wrap(options: bytes, recipients: Sequence[bytes]) -> bytes:
    """Wrap private options with the modules and the hash that this node's configuration allows; see `wrap_with`."""
    needs_token = any(is_key_file(recipient) for recipient in recipients)
    return wrap_with(options, recipients, node_config() if needs_token else Pkcs11Config(), chosen_hash())


def wrap_with(options: bytes, recipients: Sequence[bytes], allowed: Pkcs11Config, hash_name: str | None) -> bytes:
    """Wrap private options to RSA keys: one blob for each.

    Args:
        options: the private options; RSA-2048 holds 190 bytes with SHA-256 and 214 with SHA-1.
        recipients: public keys or certificates in PEM or DER, or YAML key files, whose public key is on a token.
        allowed: the modules that may be loaded for key files.
        hash_name: the hash for OAEP, `sha1` or `sha256`. None means SHA-256, except for a key on a token that can only
            do SHA-1.

    Raises:
        KeyFileError: a recipient is not a usable RSA key, or too small for the options.
        WrappedKeyError: a library is not installed.
    """
    entries, sizes = [], []
    for recipient in recipients:
        key, default_hash = _public_key(recipient, allowed)
        blob = _encrypt(options, key, hash_name or default_hash)
        entries.append({"version": _VERSION, "blob": wire.encode_base64(blob), "hash": hash_name or default_hash})
        sizes.append((key.key_size + 7) // 8)
    wrapped = json.dumps({"version": _VERSION, "recipients": entries}, separators=(",", ":")).encode()
    # Check that `unwrap` can read the result, and finds a blob of the right size for every recipient.
    if [len(each.blob) for each in _parse(wrapped)] != sizes:
        raise KeyFileError("a recipient could not open what was wrapped to it")
    return wrapped


def unwrap(wrapped: bytes, config: DecryptConfig, refused: Refused) -> bytes | None:
    """Open private options with the modules that the payload's configuration, or else the node's, allows.

    See `unwrap_with`.
    """
    key_files = config.keyring.pkcs11
    try:
        allowed = applicable_config(config.parameters.get("pkcs11-config", ())) if key_files else Pkcs11Config()
    except KeyFileError as error:
        _parse(wrapped)
        for key_file in key_files:
            refused(key_file, str(error))
        return None
    return unwrap_with(wrapped, key_files, allowed, refused, config)


def unwrap_with(
    wrapped: bytes,
    key_files: Sequence[KeyMaterial],
    allowed: Pkcs11Config,
    refused: Refused,
    config: DecryptConfig | None = None,
) -> bytes | None:
    """Open private options with the first key file whose key, on its token, opens one of the blobs.

    Args:
        wrapped: the JSON, at most PKCS11_BYTES.
        key_files: YAML, tried in this order.
        allowed: the modules that may be loaded.
        refused: is called with each key file that does not open it, and the reason.
        config: the time and the attempts that are left for the layer; by default each token gets PKCS11_SECONDS.

    Returns:
        The private options, or None if no key opens them.

    Raises:
        WrappedKeyError: it is malformed or of another version or hash, a library is not installed, or the layer has
            used up its time or its attempts.
    """
    blobs = _parse(wrapped)
    for key_file in key_files:
        seconds = limits.PKCS11_SECONDS
        if config:
            config.spend(len(blobs))
            seconds = config.seconds(seconds)
        try:
            return _open(blobs, key_file, allowed, seconds)
        except KeyFileError as error:
            refused(key_file, str(error))
    return None


def is_key_file(data: bytes) -> bool:
    """Check whether a file is a key file with the URI of a key on a token, and not a public key or certificate."""
    if data.lstrip()[:1] == b"{":
        try:
            return "kty" not in (value := wire.parse_object(data)) and "keys" not in value
        except ValueError:
            return True
    return pem.BEGIN not in data and data[:1] != b"\x30"


def names_key(wrapped: bytes, config: DecryptConfig) -> bool:
    """Return False, because this form does not name keys; see `keywrap.Scheme`."""
    return False


def recipients(wrapped: bytes, subjects: Mapping[bytes, str]) -> list[KeyName]:
    """Name the recipients by size and hash, because the form has nothing else; see `keywrap.Scheme`."""
    from decoder.keywrap.recipient import KeyName, shown

    names = []
    for entry in map(wire.object_value, _parse_entries(wrapped)[1]):
        bits = 8 * len(wire.bytes_value(wire.member(entry, "blob")))
        hash_name = wire.member(entry, "hash") or _DEFAULT_READ
        names.append(KeyName(f"RSA {bits} OAEP {shown(hash_name)}", is_unique=False))
    return names


def keep(wrapped: bytes, numbers: Collection[int]) -> bytes:
    """Keep only some recipients; see `keywrap.Scheme`."""
    value, entries = _parse_entries(wrapped)
    left = [entry for number, entry in enumerate(entries) if number in numbers]
    others = {name: item for name, item in value.items() if name.lower() != "recipients"}
    return json.dumps({**others, "recipients": left}, separators=(",", ":")).encode()


def _parse_entries(wrapped: bytes) -> tuple[dict[str, object], list[object]]:
    """Parse the JSON; return it, and its list of recipients, which are not parsed yet."""
    if len(wrapped) > limits.PKCS11_BYTES:
        raise WrappedKeyError(f"it is longer than {limits.PKCS11_BYTES} bytes")
    try:
        value = wire.parse_object(wrapped)
        _check_version(value)
        entries = wire.list_value(wire.member(value, "recipients"))
    except ValueError as error:
        raise WrappedKeyError(f"it is not a PKCS#11 wrapped key: {error}") from error
    if len(entries) > limits.PKCS11_RECIPIENTS:
        raise WrappedKeyError(f"it has more than {limits.PKCS11_RECIPIENTS} recipients")
    return value, entries


def _parse(wrapped: bytes) -> list[WrappedBlob]:
    blobs = []
    problem: ValueError | None = None
    for entry in _parse_entries(wrapped)[1]:
        try:
            blobs.append(_parse_blob(entry))
        except ValueError as error:
            problem = error
    if not blobs:
        raise WrappedKeyError(f"it has no recipient that can be used: {problem or 'there is none'}") from problem
    return blobs


def _parse_blob(entry: object) -> WrappedBlob:
    value = wire.object_value(entry)
    _check_version(value)
    hash_name = wire.text_value(wire.member(value, "hash")) or _DEFAULT_READ
    if hash_name not in _HASHES:
        raise ValueError(f"the hash {quoted(hash_name)} is not accepted")
    blob = wire.bytes_value(wire.member(value, "blob"))
    if len(blob) not in _RSA_BYTES:
        raise ValueError("its blob does not have the length of an RSA key")
    return WrappedBlob(hash_name, blob)


def _check_version(value: dict[str, object]) -> None:
    version = wire.member(value, "version")
    if version is not None and (type(version) is not int or version != _VERSION):
        raise ValueError("its version is not 0")


def _open(blobs: list[WrappedBlob], material: KeyMaterial, allowed: Pkcs11Config, seconds: float) -> bytes:
    """Open one of the blobs. Everything that needs no token is checked first, so that no module is loaded in vain."""
    from decoder.keywrap.pkcs11.token import decrypt

    key_file = parse_key_file(material.data)
    module = find_module(key_file.uri, allowed)
    pin = read_pin(key_file.uri)
    if pin is None:
        raise KeyFileError(_NO_PIN)
    return decrypt(key_file, module, pin, blobs, seconds)


def find_key(data: bytes, allowed: Pkcs11Config) -> str:
    """Find the key of a key file on its token, without decrypting anything.

    The PIN is tried only if the token shows no public key without it, and never if a wrong one could lock the token.

    Args:
        data: the YAML of the key file.
        allowed: the modules that may be loaded.

    Returns:
        A few words for the user about the result.

    Raises:
        KeyFileError: the file, module, token, PIN or key cannot be used; the message says which.
        WrappedKeyError: a library is not installed.
    """
    from decoder.keywrap.pkcs11.token import is_found_with_pin

    key_file = parse_key_file(data)
    module = find_module(key_file.uri, allowed)
    pin = read_pin(key_file.uri)
    if pin is None:
        raise KeyFileError(_NO_PIN)
    used = is_found_with_pin(key_file, module, pin)
    return "the key is on the token" if used else "the key is on the token (the PIN was not tried)"


class TokenKey:
    """The RSA key on a token that a key file points to, for signing and decrypting.

    Args:
        data: the YAML of the key file.
        allowed: the modules that may be loaded.

    Attributes:
        public: the public key.

    Raises:
        KeyFileError: the file, module, token or key cannot be used; the message says which.
        WrappedKeyError: a library is not installed.
    """

    def __init__(self, data: bytes, allowed: Pkcs11Config) -> None:
        self._key_file = parse_key_file(data)
        self._module = find_module(self._key_file.uri, allowed)
        pin = read_pin(self._key_file.uri)
        if pin is None:
            raise KeyFileError(_NO_PIN)
        self._pin = pin
        self.public = _public_key(data, allowed)[0]

    def sign(self, data: bytes) -> bytes:
        """Sign with RSA PKCS #1 v1.5 and SHA-256; the errors are the same as for the class."""
        from decoder.keywrap.pkcs11.token import sign

        return sign(self._key_file, self._module, self._pin, data)

    def decrypt(self, blob: bytes, hash_name: str) -> bytes:
        """Decrypt RSA-OAEP with the hash `sha1` or `sha256`; the errors are the same as for the class."""
        from decoder.keywrap.pkcs11.token import decrypt

        return decrypt(self._key_file, self._module, self._pin, [(hash_name, blob)])


def _public_key(recipient: bytes, allowed: Pkcs11Config) -> tuple[rsa.RSAPublicKey, str]:
    """Parse a public key, or read it from its token; return it with the default hash for it."""
    if not is_key_file(recipient):
        return _parse_public_key(recipient), _DEFAULT_WRITTEN
    from decoder.keywrap.pkcs11.token import public_numbers

    key_file = parse_key_file(recipient)
    module = find_module(key_file.uri, allowed)
    numbers = public_numbers(key_file, module, read_pin(key_file.uri))
    try:
        key = rsa.RSAPublicNumbers(numbers.exponent, numbers.modulus).public_key()
    except ValueError as error:
        raise KeyFileError("the public key on the token is not a usable RSA key") from error
    return key, _DEFAULT_WRITTEN if numbers.does_sha256 else "sha1"


def _parse_public_key(data: bytes) -> rsa.RSAPublicKey:
    from decoder.keywrap.publickeys import parse_public_keys

    key = parse_public_keys(data)[0].key
    if not isinstance(key, rsa.RSAPublicKey):
        raise KeyFileError("it is not an RSA key")
    return key


def chosen_hash() -> str | None:
    """Return the hash that $OCICRYPT_OAEP_HASHALG names; None if it names neither `sha1` nor `sha256`."""
    name = os.environ.get("OCICRYPT_OAEP_HASHALG", "").lower()
    return name if name in _HASHES else None


def _encrypt(options: bytes, key: rsa.RSAPublicKey, hash_name: str) -> bytes:
    digest = _HASHES[hash_name]()
    room = (key.key_size + 7) // 8 - 2 * digest.digest_size - 2  # RFC 8017 §7.1.1
    if len(options) > room:
        raise KeyFileError(
            f"an RSA {key.key_size} key can wrap {max(0, room)} bytes with {hash_name}, but the private options have "
            f"{len(options)} bytes: use a larger key, or try OCICRYPT_OAEP_HASHALG=sha1"
        )
    return key.encrypt(options, padding.OAEP(padding.MGF1(digest), digest, None))
