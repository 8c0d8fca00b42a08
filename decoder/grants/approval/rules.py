"""Rules, which accept nodes by the names in a certificate that one of the owner's CAs has issued for the node's key.

They use nothing else in a request, because its name and image are claims of the node, for people to read.
"""

from __future__ import annotations

import time
import warnings
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import verification

from decoder import limits
from decoder.errors import KeyFileError, UsageError, quoted
from decoder.formats.certificates import UNREADABLE
from decoder.grants.errors import StatementError
from decoder.keys.file import read_key_file
from decoder.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterable

    from decoder.grants.statements import Request


class Rule(Record):
    """A rule.

    Attributes:
        repositories: shell patterns for repositories.
        authorities: the CAs whose certificates are accepted.
        names: shell patterns; a name in the certificate must match one of them.
        days: how long a grant is valid.
    """

    repositories: tuple[str, ...]
    authorities: tuple[x509.Certificate, ...]
    names: tuple[str, ...]
    days: int


class Accepted(Record):
    """The result of a rule: the name that matched, and the end of the grant, in seconds since 1970."""

    name: str
    expires: int


class Validated(Record):
    """A valid certificate: its names, and when it expires, in seconds since 1970."""

    names: list[str]
    until: int


def read_authorities(option: str, path: str) -> tuple[x509.Certificate, ...]:
    """Read the certificates of CAs.

    Args:
        option: the option's name, for messages.
        path: the path of a PEM file.

    Raises:
        UsageError: the file has no certificate.
    """
    try:
        return tuple(x509.load_pem_x509_certificates(read_key_file(path)))
    except (KeyFileError, *UNREADABLE) as error:
        raise UsageError(f"{option} {quoted(path)} has no certificates of CAs in PEM form: {error}") from error


def accepting(rules: Iterable[Rule], request: Request) -> Accepted:
    """Apply the first rule that accepts a request. A grant never outlives the certificate.

    Raises:
        StatementError: no rule accepts it; the text has the reason for each rule.
    """
    reasons = []
    cause: StatementError | None = None
    for rule in rules:
        if not any(fnmatchcase(request.repository, pattern) for pattern in rule.repositories):
            continue
        try:
            found = validate(request, rule.authorities)
        except StatementError as error:
            cause = error
            reasons.append(str(error))
            continue
        for name in found.names:
            if any(fnmatchcase(name, pattern) for pattern in rule.names):
                return Accepted(name, min(found.until, int(time.time()) + rule.days * limits.DAY_SECONDS))
        named = quoted(", ".join(found.names))
        reasons.append(f"no name in the certificate, {named}, matches {' or '.join(rule.names)}")
    raise StatementError("; ".join(dict.fromkeys(reasons)) or "no rule is about this repository") from cause


def validate(request: Request, authorities: Iterable[x509.Certificate]) -> Validated:
    """Validate the certificate in a request.

    The chain, the validity, the key usage and the extended key usage, which must include client authentication, are
    checked as in RFC 5280 §6 and the CA/Browser Forum's baseline requirements. But the certificate needs no alternative
    names, because kubelets' certificates have only a common name, and private CAs need no key usage.

    Raises:
        StatementError: the certificate is missing, not valid, or for another key.
    """
    if not request.certificates:
        raise StatementError("the request has no certificate")
    try:
        leaf, *others = map(load_certificate, request.certificates)
        if _spki(leaf.public_key()) != _spki(request.key):
            raise StatementError("the certificate is of another key than the request")
        verified = _verifier(list(authorities)).verify(leaf, others)
        leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
        subject = leaf.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    except (verification.VerificationError, *UNREADABLE) as error:
        raise StatementError(f"the certificate is not accepted: {quoted(str(error))}") from error
    names = [name.value for name in verified.subjects or () if isinstance(name, x509.DNSName)]
    names = names or [str(attribute.value) for attribute in subject]
    return Validated(names, int(leaf.not_valid_after_utc.timestamp()))


def load_certificate(data: bytes) -> x509.Certificate:
    """Parse an untrusted certificate. Warnings are suppressed, because the validation finds the problems.

    Raises:
        Exception: one of UNREADABLE.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return x509.load_der_x509_certificate(data)


def _verifier(authorities: list[x509.Certificate]) -> verification.ClientVerifier:
    leaf = verification.ExtensionPolicy.webpki_defaults_ee().may_be_present(
        x509.SubjectAlternativeName, verification.Criticality.AGNOSTIC, None
    )
    # RFC 5280 §4.2.1.3: without the extension a key has every usage. `openssl req -x509` leaves it out.
    authority = verification.ExtensionPolicy.webpki_defaults_ca().may_be_present(
        x509.KeyUsage, verification.Criticality.AGNOSTIC, _check_authority_usage
    )
    return (
        verification.PolicyBuilder()
        .store(verification.Store(authorities))
        .time(datetime.fromtimestamp(time.time(), UTC))
        .extension_policies(ca_policy=authority, ee_policy=leaf)
        .build_client_verifier()
    )


def _check_authority_usage(
    _policy: verification.Policy, _certificate: x509.Certificate, usage: x509.KeyUsage | None
) -> None:
    if usage and not usage.key_cert_sign:
        raise ValueError("the key of a CA may not sign certificates (keyUsage without keyCertSign)")


def _spki(key: object) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined,no-any-return]
