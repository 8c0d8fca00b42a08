"""PKCS#7, today CMS (RFC 5652, 5083): private options wrapped to the RSA keys of certificates.

The algorithms are checked before any key is used. Accepted are RSA PKCS#1 v1.5, and OAEP with SHA-1 to SHA-512;
AES-GCM, with the parameters of RFC 5084 or with those of the reference; AES-CBC, 3DES-CBC and DES-CBC; EnvelopedData
and AuthEnvelopedData.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES

from decoder import limits
from decoder.errors import KeyFileError, WrappedKeyError
from decoder.formats import ber
from decoder.keywrap.pkcs7 import cms
from decoder.keywrap.pkcs7.content import (
    AES_128_GCM,
    GCM_KEY_BYTES,
    GCM_NONCE_BYTES,
    GCM_TAG_BYTES,
    Content,
    acceptable_content,
    open_cbc,
    open_gcm,
    reference_parameters,
)
from decoder.keywrap.unproven import Unproven
from decoder.record import Record

if TYPE_CHECKING:
    from decoder.keys.keyring import DecryptConfig, Keyring
    from decoder.keys.privatekey import PrivateKey, PrivateKeyObject
    from decoder.keywrap import Refused
    from decoder.keywrap.recipient import KeyName, RecipientRules


_RSAES_OAEP = bytes.fromhex("2a864886f70d010107")  # 1.2.840.113549.1.1.7
_MGF1 = bytes.fromhex("2a864886f70d010108")  # 1.2.840.113549.1.1.8
_SPECIFIED = bytes.fromhex("2a864886f70d010109")  # 1.2.840.113549.1.1.9
_SHA2 = bytes.fromhex("6086480165030402")  # 2.16.840.1.101.3.4.2
_SHA1 = bytes.fromhex("2b0e03021a")  # 1.3.14.3.2.26
_HASHES: dict[bytes, type[hashes.HashAlgorithm]] = {
    _SHA1: hashes.SHA1,
    _SHA2 + b"\x04": hashes.SHA224,
    _SHA2 + b"\x01": hashes.SHA256,
    _SHA2 + b"\x02": hashes.SHA384,
    _SHA2 + b"\x03": hashes.SHA512,
}


class _Recipient(Record):
    """A recipient whose algorithm is accepted."""

    identifier: bytes
    padding: padding.AsymmetricPadding
    encrypted_key: bytes


class _DoesNotFitError(Exception):
    """The key opens no recipient's wrapped key; the text says whether the key was tried."""


def suits(_text: str, data: bytes) -> bool:
    """Check whether a file holds a certificate; see `keywrap.Scheme`."""
    if b"-----BEGIN CERTIFICATE-----" in data:
        return True
    if data[:1] != b"\x30" or len(data) > limits.CERTIFICATE_BYTES:
        return False
    from cryptography.x509 import load_der_x509_certificate

    from decoder.formats.certificates import UNREADABLE

    try:
        load_der_x509_certificate(data)
    except UNREADABLE:
        return False
    return True


def read_recipient(value: str, rules: RecipientRules) -> list[bytes]:
    """Read the certificates in a file; see `keywrap.Scheme`."""
    from decoder.keywrap.publickeys import read_public_keys

    return [public.certificate for public in read_public_keys(rules.read_file(value), rules, certified=True)]


def wrap(options: bytes, recipients: Sequence[bytes]) -> bytes:
    """Wrap private options to certificates, in the only form that the reference reads.

    That is EnvelopedData with RSA PKCS#1 v1.5 and AES-128-GCM with parameters that follow no standard.

    Args:
        options: the private options.
        recipients: 1 to CMS_RECIPIENTS X.509 certificates in PEM or DER, with RSA keys of WEAK_RSA_BITS or
            more.

    Raises:
        KeyFileError: a recipient is not such a certificate, or there are too few or too many.
    """
    if not 1 <= len(recipients) <= limits.CMS_RECIPIENTS:
        raise KeyFileError(f"PKCS#7 is for 1 to {limits.CMS_RECIPIENTS} recipients, not {len(recipients)}")
    key, nonce = os.urandom(GCM_KEY_BYTES[AES_128_GCM]), os.urandom(GCM_NONCE_BYTES)
    encryptor = Cipher(AES(key), modes.GCM(nonce)).encryptor()
    ciphertext = encryptor.update(options) + encryptor.finalize() + encryptor.tag
    transports = [_key_transport(recipient, key) for recipient in recipients]
    _check_names(recipients)
    algorithm = cms.Algorithm(AES_128_GCM, reference_parameters(nonce))
    wrapped = cms.build_envelope(transports, algorithm, ciphertext)
    _check_written(wrapped, ciphertext, transports)
    return wrapped


def unwrap(wrapped: bytes, config: DecryptConfig, refused: Refused) -> bytes | Unproven | None:
    """Open CMS enveloped data with the first private key that fits one of its recipients.

    If a recipient's certificate is at hand, only the key of that certificate is tried on it; otherwise every key of the
    right size.

    Args:
        wrapped: BER or PEM, at most CMS_BYTES.
        config: the keys of `keyring.private` are tried in their order, but those with a recipient's certificate first.
        refused: is called with each key that does not open it, each certificate that does not help, and the reason.

    Returns:
        The private options, or None. With CBC, which has no authentication, the result is `Unproven` once any key was
        tried; then every key is tried, and `refused` is called with none of them.

    Raises:
        WrappedKeyError: it is malformed, its algorithm is not accepted, or there is no private key to try.
    """
    try:
        envelope = cms.parse_envelope(wrapped)
        content = acceptable_content(envelope)
        recipients = _acceptable_recipients(envelope.recipients)
    except ValueError as error:
        raise WrappedKeyError(f"it is not usable CMS: {error}") from error
    keys = config.keyring
    if not keys.private:
        raise WrappedKeyError("there is no private key to try")
    moduli = _certified_moduli(recipients, keys, refused)
    certified = set().union(*moduli.values())
    found: Unproven | None = None
    for key in sorted(keys.private, key=lambda key: _modulus(key) not in certified) if certified else keys.private:
        try:
            opened = _open(content, _candidates(recipients, moduli, _modulus(key)), key.load(), config.spend)
        except (KeyFileError, _DoesNotFitError) as error:
            refused(key, str(error))
            continue
        if isinstance(opened, bytes):
            return opened
        # No early end: with CBC, the time must not show which key opened it (see `keywrap.unproven`).
        found = found if found and found.opened else opened
    return found


def names_key(wrapped: bytes, config: DecryptConfig) -> bool:
    """Check whether a certificate in the keyring is a recipient's; see `keywrap.Scheme`."""
    identifiers = {recipient.identifier for recipient in cms.parse_envelope(wrapped).recipients}
    for material in config.keyring.certificates:
        with suppress(ValueError):
            certificate = cms.parse_certificate(material.data)
            if identifiers & {certificate.issuer_and_serial, certificate.key_identifier}:
                return True
    return False


def recipients(wrapped: bytes, subjects: Mapping[bytes, str]) -> list[KeyName]:
    """Name the recipients by their certificates; see `keywrap.Scheme`."""
    from decoder.keywrap.pkcs7.naming import key_name

    return [key_name(each.identifier, subjects) for each in cms.parse_envelope(wrapped).recipients]


def keep(wrapped: bytes, numbers: Collection[int]) -> bytes:
    """Keep only some recipients; see `keywrap.Scheme`."""
    envelope = cms.parse_envelope(wrapped)
    left = [each for number, each in enumerate(envelope.recipients) if number in numbers]
    # `build_envelope` writes only EnvelopedData whose recipients are named by issuer and serial number.
    if envelope.mac is not None or any(each.identifier[0] != ber.SEQUENCE for each in left):
        raise WrappedKeyError("this PKCS#7 wrapped key has other recipients, too, and its form cannot be rewritten")
    return cms.build_envelope(left, envelope.algorithm, envelope.ciphertext)


def _check_names(recipients: Sequence[bytes]) -> None:
    """Check that decoders can tell the recipients apart: the reference tries only the first of an issuer and serial.

    Raises:
        KeyFileError: two certificates with different keys have the same issuer and serial number.
    """
    certificates = [cms.parse_certificate(recipient) for recipient in recipients]
    keys = {(each.issuer_and_serial, each.rsa_numbers()) for each in certificates}
    if len(keys) > len({name for name, _ in keys}):
        raise KeyFileError(
            "two of the certificates have the same issuer and serial number, so decoders cannot tell them apart; "
            "create one of them again"
        )


def _check_written(wrapped: bytes, ciphertext: bytes, transports: list[cms.Recipient]) -> None:
    """Check that `unwrap` can read the result, and finds an encrypted key of the right size for every recipient."""
    try:
        envelope = cms.parse_envelope(wrapped)
        content = acceptable_content(envelope)
        found = {(each.identifier, len(each.encrypted_key)) for each in _acceptable_recipients(envelope.recipients)}
    except ValueError as error:
        raise KeyFileError(f"what was wrapped could not be opened: {error}") from error
    expected = {(each.identifier, len(each.encrypted_key)) for each in transports}
    if found != expected or len(content.ciphertext) + GCM_TAG_BYTES != len(ciphertext):
        raise KeyFileError("a recipient could not open what was wrapped to it")


def _acceptable_recipients(recipients: list[cms.Recipient]) -> list[_Recipient]:
    """Return the recipients whose algorithms are accepted; no key is used for this.

    Raises:
        ValueError: there is no such recipient.
    """
    accepted = []
    problem = ValueError("it has no recipient with an RSA key")
    for recipient in recipients:
        try:
            rsa_padding = _padding(recipient.algorithm)
        except ValueError as error:
            problem = error
        else:
            accepted.append(_Recipient(recipient.identifier, rsa_padding, recipient.encrypted_key))
    if not accepted:
        raise problem
    return accepted


def _padding(algorithm: cms.Algorithm) -> padding.AsymmetricPadding:
    if algorithm.oid == cms.RSA_ENCRYPTION:
        if algorithm.parameters and algorithm.parameters.tag != ber.NULL:
            raise ValueError("the key algorithm has parameters that it must not have")
        return padding.PKCS1v15()
    if algorithm.oid == _RSAES_OAEP:
        return _oaep(algorithm.parameters)
    raise ValueError(f"the key algorithm {ber.dotted(algorithm.oid)} is not accepted")


def _oaep(parameters: ber.Element | None) -> padding.OAEP:
    """Read the parameters of RSAES-OAEP (RFC 4055 §4.1)."""
    if parameters is None or parameters.tag != ber.SEQUENCE:
        raise ValueError("the key algorithm lacks its OAEP parameters")
    fields = ber.Reader(parameters.value)
    digest = mask_digest = _HASHES[_SHA1]()
    label = b""
    if given := fields.optional(ber.EXPLICIT):
        digest = _hash(cms.take_algorithm(ber.Reader(given.value)))
    if given := fields.optional(ber.EXPLICIT | 1):
        mask = cms.take_algorithm(ber.Reader(given.value))
        if mask.oid != _MGF1 or mask.parameters is None:
            raise ValueError("the mask generation of OAEP is not MGF1")
        mask_digest = _hash(cms.take_algorithm(ber.Reader(mask.parameters.encoded)))
    if given := fields.optional(ber.EXPLICIT | 2):
        source = cms.take_algorithm(ber.Reader(given.value))
        if source.oid != _SPECIFIED or source.parameters is None:
            raise ValueError("the label of OAEP is not given in its parameters")
        label = ber.take_octets(ber.Reader(source.parameters.encoded))
    fields.end()
    return padding.OAEP(padding.MGF1(mask_digest), digest, label)


def _hash(algorithm: cms.Algorithm) -> hashes.HashAlgorithm:
    if algorithm.oid not in _HASHES:
        raise ValueError(f"the hash {ber.dotted(algorithm.oid)} is not accepted")
    return _HASHES[algorithm.oid]()


def _certified_moduli(recipients: list[_Recipient], keys: Keyring, refused: Refused) -> dict[bytes, set[int]]:
    """Return the RSA moduli of recipients whose certificate is in the keyring, by the recipient's identifier."""
    identifiers = {recipient.identifier for recipient in recipients}
    moduli: dict[bytes, set[int]] = {}
    for material in keys.certificates:
        try:
            certificate = cms.parse_certificate(material.data)
            named = identifiers & {certificate.issuer_and_serial, certificate.key_identifier}
            modulus = certificate.rsa_numbers()[0] if named else 0
        except ValueError as error:
            refused(material, f"it cannot be parsed as a certificate: {error}")
            continue
        for identifier in named:
            moduli.setdefault(identifier, set()).add(modulus)
        if not named:
            refused(material, "it is not the certificate of any recipient")
        elif modulus not in map(_modulus, keys.private):
            refused(material, "it is the certificate of a recipient, but no private key that was given matches it")
    return moduli


def _modulus(key: PrivateKey) -> int:
    """Return the modulus of an RSA key, or 0 if the key is not usable."""
    try:
        loaded = key.load()
    except KeyFileError:
        return 0
    return loaded.public_key().public_numbers().n if isinstance(loaded, rsa.RSAPrivateKey) else 0


def _candidates(recipients: list[_Recipient], moduli: dict[bytes, set[int]], modulus: int) -> list[_Recipient]:
    """Return the recipients that a key may open, those with the key's certificate first."""
    own = [recipient for recipient in recipients if modulus in moduli.get(recipient.identifier, ())]
    return own + [recipient for recipient in recipients if recipient.identifier not in moduli]


def _open(
    content: Content, candidates: list[_Recipient], key: PrivateKeyObject, spend: Callable[[int], None]
) -> bytes | Unproven:
    if not isinstance(key, rsa.RSAPrivateKey):
        raise _DoesNotFitError("it is not an RSA key, which PKCS#7 requires")
    fitting = [each for each in candidates if len(each.encrypted_key) == (key.key_size + 7) // 8]
    if not fitting:
        raise _DoesNotFitError("it is not a recipient's key: the certificates or its size differ")
    if isinstance(content.mode, modes.CBC):
        # Every recipient is tried, for the same reason as every key in `unwrap`.
        spend(len(fitting))
        opened = [open_cbc(content, content.mode, _content_key(each, key, content.key_bytes)) for each in fitting]
        return Unproven(next(filter(None, opened), b""))
    for recipient in fitting:
        spend(1)
        try:
            return open_gcm(content, content.mode, _content_key(recipient, key, content.key_bytes))
        except (ValueError, InvalidTag):
            continue
    raise _DoesNotFitError("it does not open this wrapped key")


def _content_key(recipient: _Recipient, key: rsa.RSAPrivateKey, key_bytes: int) -> bytes:
    """Decrypt the content key; return a random one if that fails, to hide the failure (RFC 3218 §2.3.2)."""
    substitute = os.urandom(key_bytes)
    try:
        content_key = key.decrypt(recipient.encrypted_key, recipient.padding)
    except (ValueError, UnsupportedAlgorithm):
        return substitute
    return content_key if len(content_key) == key_bytes else substitute


def _key_transport(recipient: bytes, content_key: bytes) -> cms.Recipient:
    """Encrypt the content key to a certificate."""
    try:
        certificate = cms.parse_certificate(recipient)
        modulus, exponent = certificate.rsa_numbers()
    except ValueError as error:
        raise KeyFileError(f"it is not a certificate; PKCS#7 needs one, not only a public key: {error}") from error
    if 0 < modulus.bit_length() < limits.WEAK_RSA_BITS:
        raise KeyFileError(f"it is a certificate, but its RSA key has less than {limits.WEAK_RSA_BITS} bits")
    try:
        encrypted = rsa.RSAPublicNumbers(exponent, modulus).public_key().encrypt(content_key, padding.PKCS1v15())
    except ValueError as error:
        raise KeyFileError("it is a certificate, but its key is not a usable RSA key") from error
    return cms.Recipient(certificate.issuer_and_serial, cms.Algorithm(cms.RSA_ENCRYPTION, None), encrypted)
