"""Public keys of recipients: read from a file, selected if there are several, and checked.

The private half of a key that passes the checks can open the wrapped key. All other keys are rejected before anything
is written.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from decoder import limits
from decoder.errors import KeyFileError, quoted
from decoder.formats import ber, wire
from decoder.formats.certificates import UNREADABLE, is_issued_by
from decoder.keys.file import recognise
from decoder.keys.formats import jwk, pem
from decoder.keys.privatekey import CURVE_NAMES
from decoder.record import Record

if TYPE_CHECKING:
    from decoder.keywrap.recipient import RecipientRules

    PublicKeyObject = rsa.RSAPublicKey | ec.EllipticCurvePublicKey

_RSASSA_PSS = bytes.fromhex("2a864886f70d01010a")  # 1.2.840.113549.1.1.10
_PRIVATE = "it holds a private key; give only the public key or the certificate"
_NOT_A_KEY = "it is not a public key or certificate in PEM, DER or JWK form"
_ENCRYPTING = {"encrypt", "wrapKey", "deriveKey", "deriveBits"}


class PublicKey(Record):
    """A public key.

    Attributes:
        key: RSA or EC.
        certificate: the certificate that holds it, in DER, or b"".
        members: the members of the JWK that it was read from; empty for other forms.
    """

    key: PublicKeyObject
    certificate: bytes = b""
    members: Mapping[str, object] = MappingProxyType({})

    def spki(self) -> bytes:
        """Return the key as SubjectPublicKeyInfo, DER."""
        return self.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def read_public_keys(data: bytes, rules: RecipientRules, *, certified: bool = False) -> list[PublicKey]:
    """Read the public keys of recipients in a file.

    From a certificate chain only the leaf is taken; the order of the certificates does not matter.

    Args:
        data: PEM with any number of blocks, DER, a JWK or a JWK Set; at most KEY_FILE_BYTES.
        rules: which keys to accept.
        certified: whether to take certificates only.

    Raises:
        KeyFileError: the file has no key, it has several without `rules.all_keys`, or a key cannot or must not be used.
    """
    found = _distinct(parse_public_keys(data))
    if certified:
        found = [each for each in found if each.certificate]
        if not found:
            raise KeyFileError("it is only a public key, and PKCS#7 needs a certificate")
    if len(found) > 1 and not rules.all_keys:
        raise KeyFileError(f"it holds {len(found)} unrelated keys or certificates; --all-keys encrypts to all of them")
    for each in found:
        _check(each, rules)
    return found


def parse_public_keys(data: bytes) -> list[PublicKey]:
    """Parse every public key and certificate in a file; of a JWK Set, those that are meant for encryption.

    Raises:
        KeyFileError: the file has no public key, more than RECIPIENT_KEYS, or a private key.
    """
    if data.lstrip()[:1] == b"{":
        return _parse_json(data)
    if pem.BEGIN not in data:
        return [_parse_der(data)]
    blocks = pem.split(data)
    if len(blocks) > limits.RECIPIENT_KEYS:
        raise KeyFileError(f"it holds more than {limits.RECIPIENT_KEYS} keys or certificates")
    if any(block.label.endswith("PRIVATE KEY") for block in blocks):
        raise KeyFileError(_PRIVATE)
    try:
        return [_parse_der(block.data()) for block in blocks]
    except ValueError as error:
        raise KeyFileError(_NOT_A_KEY) from error


def check_size(bits: int, rules: RecipientRules) -> None:
    """Check that an RSA key is large enough.

    Raises:
        KeyFileError: it has fewer bits than the rules require.
    """
    if bits < (limits.WEAK_RSA_BITS if rules.allow_weak_keys else limits.RECIPIENT_RSA_BITS):
        hint = "" if bits < limits.WEAK_RSA_BITS else f"; --allow-weak-keys accepts {limits.WEAK_RSA_BITS}"
        raise KeyFileError(f"its RSA key has {bits} bits; at least {limits.RECIPIENT_RSA_BITS} are required{hint}")


def _parse_json(data: bytes) -> list[PublicKey]:
    try:
        value = wire.parse_object(data)
    except ValueError as error:
        raise KeyFileError(f"it is not a JWK: {error}") from error
    keys = value.get("keys")
    if not isinstance(keys, list):
        return [_parse_jwk(value)]
    if len(keys) > limits.RECIPIENT_KEYS:
        raise KeyFileError(f"it holds more than {limits.RECIPIENT_KEYS} keys")
    if any(isinstance(members, dict) and "d" in members for members in keys):
        raise KeyFileError(_PRIVATE)
    found = []
    problem: KeyFileError | str = "it is a JWK Set without a key"
    for members in keys:
        try:
            found.append(_parse_jwk(members if isinstance(members, dict) else {}))
        except KeyFileError as error:
            problem = error
    if not found:
        raise problem if isinstance(problem, KeyFileError) else KeyFileError(problem)
    return found


def _parse_jwk(members: dict[str, object]) -> PublicKey:
    """Parse a JWK, which must be for encryption (RFC 7517 §4.2, §4.3)."""
    if "d" in members:
        raise KeyFileError(_PRIVATE)
    use, operations = members.get("use"), members.get("key_ops")
    if use not in (None, "enc"):
        raise KeyFileError(f"it is a JWK whose use is {quoted(use)}, not for encryption")
    if operations is not None and not (
        isinstance(operations, list) and any(isinstance(each, str) and each in _ENCRYPTING for each in operations)
    ):
        raise KeyFileError("it is a JWK whose key_ops do not allow encryption")
    return PublicKey(jwk.parse_public(members), members=members)


def _parse_der(data: bytes) -> PublicKey:
    """Parse SubjectPublicKeyInfo, PKCS#1 or a certificate."""
    try:
        certificate = x509.load_der_x509_certificate(data)
    except x509.InvalidVersion as error:
        raise KeyFileError("it is a certificate of a version that does not exist") from error
    except ValueError:
        return PublicKey(_supported(data))
    try:
        if certificate.public_key_algorithm_oid == x509.PublicKeyAlgorithmOID.RSASSA_PSS:
            raise KeyFileError("it is an RSA-PSS key, which is for signatures only")
        return PublicKey(_supported_key(certificate.public_key()), data)
    except UNREADABLE as error:
        raise KeyFileError("it is a certificate whose key is not supported; RSA and EC keys are") from error


def _supported(data: bytes) -> PublicKeyObject:
    try:
        algorithm = ber.Reader(ber.Reader(data).take(ber.SEQUENCE).value).optional(ber.SEQUENCE)
        if algorithm and ber.Reader(algorithm.value).take(ber.OID).value == _RSASSA_PSS:
            raise KeyFileError("it is an RSA-PSS key, which is for signatures only")
        return _supported_key(load_der_public_key(data))
    except UnsupportedAlgorithm as error:
        raise KeyFileError("it is a public key of a type or curve that is not supported") from error
    except ValueError as error:
        raise KeyFileError(_PRIVATE if _is_private(data) else _NOT_A_KEY) from error


def _is_private(data: bytes) -> bool:
    try:
        return bool(recognise("", data).private)
    except KeyFileError:
        return False


def _supported_key(key: object) -> PublicKeyObject:
    if isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        return key
    kind = type(key).__name__.removesuffix("PublicKey").strip("_")
    raise KeyFileError(f"it is a key of the type {quoted(kind)}; only RSA and EC keys can be encrypted to")


def _distinct(found: list[PublicKey]) -> list[PublicKey]:
    """Leave out issuers' certificates and duplicate keys; of duplicates, keep the certificate that expires last."""
    certificates = {
        each.certificate: x509.load_der_x509_certificate(each.certificate) for each in found if each.certificate
    }
    issuers = {
        data
        for data, issuer in certificates.items()
        if any(is_issued_by(other, issuer) for name, other in certificates.items() if name != data)
    }
    leaves = [each for each in found if not each.certificate or each.certificate not in issuers]

    def lifetime(each: PublicKey) -> float:
        return certificates[each.certificate].not_valid_after_utc.timestamp() if each.certificate else 0.0

    by_key: dict[bytes, PublicKey] = {}
    for each in sorted(leaves, key=lifetime):
        by_key[each.spki()] = each
    return [each for each in leaves if by_key[each.spki()] is each]


def _check(each: PublicKey, rules: RecipientRules) -> None:
    if isinstance(each.key, rsa.RSAPublicKey):
        check_size(each.key.key_size, rules)
    else:
        check_curve(each.key)
    if each.certificate and not rules.allow_expired:
        _check_certificate(x509.load_der_x509_certificate(each.certificate), each.key)


def check_curve(key: ec.EllipticCurvePublicKey) -> None:
    """Check that decoders support the curve.

    Raises:
        KeyFileError: it is not P-256, P-384 or P-521.
    """
    if key.curve.name not in CURVE_NAMES:
        raise KeyFileError(f"its curve {key.curve.name} is not supported ({', '.join(CURVE_NAMES.values())} are)")


def _check_certificate(certificate: x509.Certificate, key: PublicKeyObject) -> None:
    """Check the validity (RFC 5280 §4.1.2.5) and the key usage (§4.2.1.3)."""
    now, hint = time.time(), "; --allow-expired accepts it"
    if certificate.not_valid_after_utc.timestamp() < now:
        raise KeyFileError(f"its certificate expired on {certificate.not_valid_after_utc:%Y-%m-%d}{hint}")
    if certificate.not_valid_before_utc.timestamp() > now:
        raise KeyFileError(f"its certificate is not valid before {certificate.not_valid_before_utc:%Y-%m-%d}{hint}")
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return
    except UNREADABLE as error:
        raise KeyFileError("the extensions of its certificate are malformed") from error
    allowed = usage.key_encipherment if isinstance(key, rsa.RSAPublicKey) else usage.key_agreement
    if not allowed:
        wanted = "key encipherment" if isinstance(key, rsa.RSAPublicKey) else "key agreement"
        raise KeyFileError(f"its certificate is not meant for {wanted} (key usage){hint}")
