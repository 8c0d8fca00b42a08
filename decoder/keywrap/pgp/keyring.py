"""Certificates in keyrings: finding one, and checking that it can be encrypted to.

Expiry, revocation and user IDs depend on signatures, which pysequoia checks.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from decoder import limits
from decoder.errors import KeyFileError, WrappedKeyError, quoted
from decoder.extras import missing
from decoder.keywrap.pgp import packets
from decoder.keywrap.pgp.secretkey import fingerprint
from decoder.record import Record

if TYPE_CHECKING:
    from types import ModuleType

    from pysequoia import Cert


class KeyringEntry(Record):
    """One certificate of a keyring; no signature has been checked yet.

    Attributes:
        fingerprint: the fingerprint of the primary key, if that has version 4.
        packets: all packets of the certificate, the primary key first.
    """

    fingerprint: bytes
    packets: list[packets.Packet]

    def has_number(self, digits: str) -> bool:
        """Compare with a fingerprint or key ID in lower-case hexadecimal digits."""
        return digits in (self.fingerprint.hex(), self.fingerprint.hex()[-16:])

    def mentions(self, text: str) -> bool:
        """Search the user IDs, signed or not, without regard to case."""
        return any(text.lower() in user_id.lower() for user_id in self._user_ids())

    def names(self, wanted: str) -> bool:
        """Check whether a user ID, signed or not, is for a name or an e-mail address."""
        return any(_is_for(user_id, wanted) for user_id in self._user_ids())

    def _user_ids(self) -> list[str]:
        return [packet.body.decode(errors="replace") for packet in self.packets if packet.tag == packets.USER_ID]


def select(keyring: bytes, wanted: str) -> bytes:
    """Return the only usable certificate in a keyring that fits a name.

    Args:
        keyring: OpenPGP certificates, binary or armoured, at most PGP_KEYRING_BYTES.
        wanted: the e-mail address, the name or the whole text of a self-signed user ID; or the fingerprint (40
            hexadecimal digits) or the key ID (16) of the primary key.

    Raises:
        KeyFileError: no certificate fits, or more than one does.
        WrappedKeyError: the library is not installed.
    """
    digits = wanted.replace(" ", "").removeprefix("0x").lower()
    by_number = len(digits) in (16, 40) and set(digits) <= set("0123456789abcdef")
    problem = f"the keyring holds no OpenPGP certificate for {quoted(wanted)}"
    cause: KeyFileError | None = None
    found: dict[bytes, bytes] = {}
    if not wanted:
        raise KeyFileError(problem)
    for entry in certificates(keyring):
        # This check is much faster than the library, which therefore only gets certificates that can match.
        if not (entry.has_number(digits) if by_number else entry.mentions(wanted)):
            continue
        raw = b"".join(packet.raw for packet in entry.packets)
        try:
            usable = usable_certificate(raw)
            if by_number or _has_user_id(usable, wanted):
                found[entry.fingerprint] = raw
        except KeyFileError as error:
            # The library shows no user IDs of an expired certificate, so its packets have to identify it.
            if by_number or entry.names(wanted):
                cause = error
                problem = (
                    f"the certificate {entry.fingerprint.hex().upper()} for {quoted(wanted)} is not usable: {error}"
                )
    if len(found) > 1:
        names = ", ".join(number.hex().upper() for number in found)
        raise KeyFileError(f"several certificates fit {quoted(wanted)}; choose by fingerprint: {names}")
    if not found:
        hint = "; it holds secret keys, give it public ones (gpg --export)" if _has_secret_keys(keyring) else ""
        raise KeyFileError(problem + hint) from cause
    return next(iter(found.values()))


def _has_secret_keys(keyring: bytes) -> bool:
    """Check whether a keyring, which has been parsed before, holds secret keys."""
    split = packets.split(packets.dearmoured(keyring), limits.PGP_KEYRING_PACKETS)
    return any(packet.tag == packets.SECRET_KEY for packet in split)


def check_keyring(keyring: bytes) -> None:
    """Check that a keyring starts as one does, and is not too large.

    Raises:
        KeyFileError: it does not.
    """
    next(certificates(keyring), None)


def certificates(keyring: bytes) -> Iterator[KeyringEntry]:
    """Split a keyring into certificates; secret keys are left out.

    Args:
        keyring: binary or armoured, at most PGP_KEYRING_BYTES and PGP_KEYRING_PACKETS.

    Raises:
        KeyFileError: it is larger, or malformed; certificates before that place have been yielded.
    """
    if len(keyring) > limits.PGP_KEYRING_BYTES:
        raise KeyFileError(f"the keyring is larger than {limits.PGP_KEYRING_BYTES} bytes")
    entry: KeyringEntry | None = None
    try:
        for packet in packets.split(packets.dearmoured(keyring), limits.PGP_KEYRING_PACKETS):
            if packet.tag in (packets.PUBLIC_KEY, packets.SECRET_KEY):
                if entry:
                    yield entry
                entry = KeyringEntry(fingerprint(packet.body), []) if packet.tag == packets.PUBLIC_KEY else None
            if entry:
                entry.packets.append(packet)
    except ValueError as error:
        raise KeyFileError(f"it is not an OpenPGP keyring: {error}") from error
    if entry:
        yield entry


def usable_certificate(data: bytes) -> Cert:
    """Parse a certificate for encryption.

    Args:
        data: one certificate, binary or armoured.

    Raises:
        KeyFileError: it is malformed, revoked or expired, or has no accepted self-signature.
        WrappedKeyError: the library is not installed.
    """
    certificate = _certificate(data)
    try:
        expiration = certificate.expiration
    except RuntimeError as error:
        raise KeyFileError("it has no self-signature that is accepted") from error
    if certificate.is_revoked:
        raise KeyFileError("it has been revoked")
    if expiration and expiration.timestamp() <= time.time():
        raise KeyFileError(f"it expired on {expiration:%Y-%m-%d}")
    return certificate


def library() -> ModuleType:
    """Import pysequoia, which only encryption needs.

    Raises:
        WrappedKeyError: it is not installed.
    """
    try:
        import pysequoia
    except ImportError as error:
        raise WrappedKeyError(missing("pgp", error)) from error
    return pysequoia


def _certificate(data: bytes) -> Cert:
    try:
        certificate: Cert = library().Cert.from_bytes(data)
    except RuntimeError as error:
        raise KeyFileError("it is not an OpenPGP certificate") from error
    return certificate


def _has_user_id(certificate: Cert, wanted: str) -> bool:
    return any(_is_for(str(user_id), wanted) for user_id in certificate.user_ids)


def _is_for(user_id: str, wanted: str) -> bool:
    """Check whether a user ID, its name or its e-mail address is the wanted one."""
    name, _, address = user_id.rpartition("<")
    name = name.partition("(")[0].strip()
    return wanted in (user_id, name) or wanted.lower() == address.removesuffix(">").lower()
