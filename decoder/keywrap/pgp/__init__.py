"""OpenPGP (RFC 9580): private options wrapped to the public keys of certificates.

The structure of a message is checked before any key is used: session keys for RSA and ECDH (version 3), then data with
integrity protection (SEIPD version 1 with its MDC), and nothing after that.

The library pysequoia reads certificates and encrypts. The code here decrypts, because that library rejects messages of
Go's openpgp: lengths that count leading zero bits (RFC 9580 §3.2), and first parts below 512 bytes (§4.2.1.4).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from decoder import limits
from decoder.errors import KeyFileError, WrappedKeyError
from decoder.keywrap.pgp.message import decrypt_data, literal_data, parse_message
from decoder.keywrap.pgp.secretkey import find_secret_keys, unlock
from decoder.keywrap.pgp.sessionkey import decrypt_session_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from decoder.keys.file import KeyMaterial
    from decoder.keys.keyring import DecryptConfig
    from decoder.keywrap import Refused
    from decoder.keywrap.pgp.message import Message
    from decoder.keywrap.pgp.secretkey import SecretKey
    from decoder.keywrap.recipient import KeyName, RecipientRules


def suits(text: str, data: bytes) -> bool:
    """Check whether a recipient is an e-mail address; see `keywrap.Scheme`."""
    if b"-----BEGIN PGP PUBLIC KEY" in data:
        advice = f"choose from it with --gpg-keyring {text} --recipient pgp:EMAIL"
        raise KeyFileError(f"it holds OpenPGP certificates; {advice}")
    return not data and "@" in text and "/" not in text


def read_recipient(value: str, rules: RecipientRules) -> list[bytes]:
    """Find a certificate by user ID, fingerprint or key ID; see `keywrap.Scheme`."""
    from decoder.keywrap.pgp.keyring import select
    from decoder.keywrap.pgp.recipient import check_message
    from decoder.keywrap.publickeys import check_size

    certificate = select(rules.read_keyring(), value)
    for bits in check_message(wrap(b"", [certificate]), [certificate]):
        check_size(bits, rules)
    return [certificate]


def wrap(options: bytes, recipients: Sequence[bytes]) -> bytes:
    """Wrap private options to certificates: one message for all of them, neither signed nor compressed.

    Args:
        options: the private options.
        recipients: OpenPGP certificates, binary or armoured, one each; `keyring.select` finds them.

    Raises:
        KeyFileError: a recipient is not a certificate, has no key to encrypt to, has expired or been revoked,
            or asks for a form that `unwrap` and the reference do not read; or together they have more than
            PGP_RECIPIENTS keys to encrypt to.
        WrappedKeyError: the library is not installed.
    """
    from decoder.keywrap.pgp.keyring import library, usable_certificate
    from decoder.keywrap.pgp.recipient import check_message, key_kinds

    certificates = [usable_certificate(recipient) for recipient in recipients]
    try:
        wrapped = bytes(library().encrypt(options, certificates, armor=False))
        check_message(wrapped, recipients)
    except RuntimeError as error:
        raise KeyFileError(
            "a certificate has no key that encryption is allowed with; its keys are of the types "
            f"{key_kinds(recipients)} (`gpg --quick-add-key FINGERPRINT rsa3072 encr` adds one)"
        ) from error
    except ValueError as error:
        raise KeyFileError(f"the certificates ask for a message that would not be opened: {error}") from error
    return wrapped


def unwrap(wrapped: bytes, config: DecryptConfig, refused: Refused) -> bytes | None:
    """Open a message with the first secret key that fits one of its recipients.

    Args:
        wrapped: the message, binary, at most PGP_BYTES.
        config: the keys of `keyring.pgp` are tried in their order: those that the message names, or all if it has a
            hidden recipient. Expired and revoked keys are tried, too.
        refused: is called with each key or file that does not open it, and the reason.

    Returns:
        The private options, or None.

    Raises:
        WrappedKeyError: it is malformed, not encrypted, without integrity protection, or its content is longer than
            PRIVATE_OPTIONS_BYTES.
    """
    message = _parse(wrapped)
    for material in config.keyring.pgp:
        try:
            candidates = _candidates(message, material)
        except KeyFileError as error:
            refused(material, str(error))
            continue
        for key in candidates:
            try:
                return _open(message, key, config.spend)
            except KeyFileError as error:
                refused(key, str(error))
    return None


def names_key(wrapped: bytes, config: DecryptConfig) -> bool:
    """Check whether a recipient has the key ID of a secret key; see `keywrap.Scheme`."""
    key_ids = {share.key_id for share in _parse(wrapped).session_keys}
    for material in config.keyring.pgp:
        with suppress(KeyFileError):
            if any(key.key_id in key_ids for key in find_secret_keys(material)):
                return True
    return False


def recipients(wrapped: bytes, subjects: Mapping[bytes, str]) -> list[KeyName]:
    """Name the recipients by their key IDs; see `keywrap.Scheme`."""
    from decoder.keywrap.pgp.naming import key_names

    _parse(wrapped)
    return key_names(wrapped)


def keep(wrapped: bytes, numbers: Collection[int]) -> bytes:
    """Keep only some recipients; see `keywrap.Scheme`."""
    from decoder.keywrap.pgp.naming import keep_recipients

    _parse(wrapped)
    return keep_recipients(wrapped, numbers)


def _parse(wrapped: bytes) -> Message:
    if len(wrapped) > limits.PGP_BYTES:
        raise WrappedKeyError(f"it is longer than {limits.PGP_BYTES} bytes")
    try:
        return parse_message(wrapped)
    except ValueError as error:
        raise WrappedKeyError(f"it is not an acceptable OpenPGP message: {error}") from error


def _candidates(message: Message, material: KeyMaterial) -> list[SecretKey]:
    """Return the keys in a file that the message may be encrypted to, without unlocking them."""
    found = find_secret_keys(material)
    candidates = [key for key in found if any(share.may_be_for(key) for share in message.session_keys)]
    if not candidates:
        raise KeyFileError(f"it holds no secret key with a key ID that the message asks for: {message.wanted()}")
    return candidates


def _open(message: Message, key: SecretKey, spend: Callable[[], None]) -> bytes:
    """Try a key on every session key that may be encrypted to it."""
    spend()
    secret = unlock(key)
    for session_key in message.session_keys:
        if not session_key.may_be_for(key):
            continue
        spend()
        try:
            content = decrypt_data(decrypt_session_key(key, secret, session_key.encrypted), message.data)
        except ValueError:
            # One reason for all: an attacker must not learn whether RSA, the padding or the MDC failed.
            continue
        try:
            return literal_data(content)
        except ValueError as error:
            raise WrappedKeyError(f"it opens to something other than private options: {error}") from error
    raise KeyFileError("it does not open this wrapped key")
