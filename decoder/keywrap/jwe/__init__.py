"""JWE (RFC 7516, 7518): private options wrapped to RSA and EC keys.

Accepted, before any key is used: RSA-OAEP, RSA-OAEP-256 and ECDH-ES+A128KW, A192KW, A256KW, with A128GCM, A192GCM,
A256GCM, A128CBC-HS256, A192CBC-HS384, A256CBC-HS512. Everything else is rejected: `zip`, `crit`, PBES2, direct
encryption.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from decoder import limits
from decoder.errors import KeyFileError, WrappedKeyError
from decoder.formats import wire
from decoder.keywrap.jwe import opening
from decoder.keywrap.jwe.message import Jwe, parse

if TYPE_CHECKING:
    from collections.abc import Callable

    from decoder.keys.keyring import DecryptConfig
    from decoder.keys.privatekey import PrivateKey
    from decoder.keywrap import Refused
    from decoder.keywrap.recipient import KeyName, RecipientRules


def suits(_text: str, data: bytes) -> bool:
    """Check whether a file holds a key; see `keywrap.Scheme`. A private one is refused when it is read."""
    is_pem = any(label in data for label in (b"PUBLIC KEY-----", b"PRIVATE KEY-----"))
    return is_pem or data.lstrip()[:1] == b"{" or data[:1] == b"\x30"


def read_recipient(value: str, rules: RecipientRules) -> list[bytes]:
    """Read the public keys in a file; see `keywrap.Scheme`."""
    from decoder.keywrap.jwe.publickey import material
    from decoder.keywrap.publickeys import read_public_keys

    return [material(public) for public in read_public_keys(rules.read_file(value), rules)]


def wrap(options: bytes, recipients: Sequence[bytes]) -> bytes:
    """Wrap private options to public keys: one JWE in JSON serialization for all of them, with A256GCM.

    Each recipient gets a `kid`: that of its JWK, or else the key's fingerprint, by which messages name keys.

    Args:
        options: the private options.
        recipients: 1 to JWE_RECIPIENTS public keys or certificates in PEM or DER, or JWKs. RSA gets RSA-OAEP and
            EC gets ECDH-ES+A256KW, except for a JWK whose `alg` is one of the five that are accepted.

    Raises:
        KeyFileError: a recipient is not a usable public key, or there are too few or too many.
    """
    from jwcrypto.jwe import JWE

    from decoder.keywrap.jwe.publickey import jwe_key

    if not 1 <= len(recipients) <= limits.JWE_RECIPIENTS:
        raise KeyFileError(f"JWE is for 1 to {limits.JWE_RECIPIENTS} recipients, not {len(recipients)}")
    keys = [jwe_key(recipient) for recipient in recipients]
    token = JWE(options, protected='{"enc":"A256GCM"}')
    for key in keys:
        token.add_recipient(key.jwk(), header=key.header())
    wrapped = str(token.serialize()).encode()
    written = opening.acceptable(parse(wrapped).recipients)
    if len(written) != len(keys) or not all(map(opening.could_fit, written, [key.key for key in keys])):
        raise KeyFileError("a recipient could not open what was wrapped to it")
    return wrapped


def unwrap(wrapped: bytes, config: DecryptConfig, refused: Refused) -> bytes | None:
    """Open a JWE with the first private key that fits one of its recipients; see `keywrap.Scheme`."""
    return unwrap_with(parse(wrapped), config.keyring.private, refused, config.spend)


def unwrap_with(
    jwe: Jwe, private: Sequence[PrivateKey], refused: Refused, spend: Callable[[], None] = lambda: None
) -> bytes | None:
    """Open a parsed JWE with the first private key that fits one of its recipients.

    Args:
        jwe: the result of `parse`.
        private: the keys to try, in this order; but keys whose key ID the JWE names come first.
        refused: is called with each key that does not open it, and the reason.
        spend: is called before each operation with a key.

    Returns:
        The content, or None if no key opens it.

    Raises:
        WrappedKeyError: it uses an algorithm that is not accepted, or `spend` does not allow more operations.
    """
    accepted = opening.acceptable(jwe.recipients)
    key_ids = [recipient.joined.get("kid") for recipient in accepted]
    for key in sorted(private, key=lambda key: key.kid not in key_ids):
        try:
            return opening.open_with(jwe, accepted, key.load(), spend)
        except (KeyFileError, opening.DoesNotFitError) as error:
            refused(key, str(error))
    return None


def names_key(wrapped: bytes, config: DecryptConfig) -> bool:
    """Check whether a recipient has the key ID or fingerprint of a private key; see `keywrap.Scheme`."""
    from decoder.keys.privatekey import fingerprint

    key_ids = {recipient.joined.get("kid") for recipient in parse(wrapped).recipients} - {None, ""}
    if any(key.kid in key_ids for key in config.keyring.private):
        return True
    for key in config.keyring.private if key_ids else ():
        try:
            if fingerprint(key.load()) in key_ids:
                return True
        except KeyFileError:
            continue
    return False


def recipients(wrapped: bytes, subjects: Mapping[bytes, str]) -> list[KeyName]:
    """Name the recipients by key ID, algorithm and curve; see `keywrap.Scheme`."""
    from decoder.keywrap.jwe.naming import key_name

    return [key_name(recipient.joined) for recipient in parse(wrapped).recipients]


def keep(wrapped: bytes, numbers: Collection[int]) -> bytes:
    """Keep only some recipients; only the general JSON form has several. See `keywrap.Scheme`."""
    value = parse(wrapped).value
    entries = value.get("recipients")
    if not isinstance(entries, list):
        raise WrappedKeyError("this JWE has only one recipient")
    left = [entry for number, entry in enumerate(entries) if number in numbers]
    return wire.build_json({**value, "recipients": left})
