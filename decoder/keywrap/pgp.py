"""OpenPGP (RFC 9580): private options wrapped to the public keys of certificates.

Accepted, before any key is looked at: session keys for RSA and ECDH (version 3), then data with integrity
protection (SEIPD version 1 with its MDC), and nothing after it.

Certificates, whose expiry, revocation and user IDs are a matter of signatures, are left to a library. What
GnuPG, the reference and skopeo wrap is opened here: that library refuses what Go's openpgp writes, which is
lengths that count leading zero bits (RFC 9580 §3.2) and first parts below 512 bytes (§4.2.1.4).
"""

from __future__ import annotations

import hashlib
import os
import time
from binascii import Error as Base64Error
from binascii import a2b_base64
from collections.abc import Iterator, Sequence
from hmac import compare_digest
from typing import TYPE_CHECKING, NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap

from decoder import limits
from decoder.errors import KeyFileError, WrappedKeyError, quoted

if TYPE_CHECKING:
    from types import ModuleType

    from pysequoia import Cert

    from decoder.keyfile import KeyMaterial
    from decoder.keys import Keys
    from decoder.keywrap import Refused

# Packet types (RFC 9580 §5).
_PKESK, _SIGNATURE, _SKESK, _ONE_PASS_SIGNATURE, _SECRET_KEY, _PUBLIC_KEY, _SECRET_SUBKEY = range(1, 8)
_COMPRESSED, _SED, _MARKER, _LITERAL, _USER_ID = 8, 9, 10, 11, 13
_SEIPD, _GNUPG_AEAD, _PADDING = 18, 20, 21
_WITH_PARTIAL_LENGTHS = (_COMPRESSED, _SED, _LITERAL, _SEIPD, _GNUPG_AEAD)

# Algorithms (RFC 9580 §9): RSA for both uses and for encryption; curves and their names; ciphers, with the
# sizes of their keys; hashes.
_RSA = (1, 2)
_ECDH = 18
_CURVE25519 = bytes.fromhex("2b060104019755010501")
_NIST_CURVES: dict[bytes, ec.EllipticCurve] = {
    bytes.fromhex("2a8648ce3d030107"): ec.SECP256R1(),
    bytes.fromhex("2b81040022"): ec.SECP384R1(),
    bytes.fromhex("2b81040023"): ec.SECP521R1(),
}
_KEY_BYTES = {2: 24, 3: 16, 7: 16, 8: 24, 9: 32}
_TRIPLE_DES, _CAST5 = 2, 3
_HASHES = {2: "sha1", 8: "sha256", 9: "sha384", 10: "sha512", 11: "sha224"}

_HIDDEN = bytes(8)
_GNU_STUB = 101


class _Packet(NamedTuple):
    """One packet: its type, its body with partial lengths joined, and all of it as it came."""

    tag: int
    body: bytes
    raw: bytes


class _Share(NamedTuple):
    """A session key for one recipient: the key ID that it asks for, the algorithm, and the encrypted rest."""

    wanted: bytes
    algorithm: int
    encrypted: bytes


class _Message(NamedTuple):
    """The session keys of a message and its encrypted data."""

    shares: list[_Share]
    data: bytes

    def shares_for(self, key: _SecretKey) -> list[_Share]:
        """List the session keys that a key may open: its own, and those for hidden recipients."""
        return [
            share
            for share in self.shares
            if share.wanted in (key.key_id, _HIDDEN) and (share.algorithm in _RSA) == (key.algorithm in _RSA)
        ]

    def wanted(self) -> str:
        """Name the key IDs for a message."""
        return ", ".join(sorted({share.wanted.hex().upper() for share in self.shares}))


class _SecretKey:
    """A secret key or subkey of version 4 that can decrypt, out of a file that may hold several.

    Args:
        material: the file.
        body: of the key packet (RFC 9580 §5.5.3).

    Raises:
        ValueError: it is malformed.
    """

    def __init__(self, material: KeyMaterial, body: bytes) -> None:
        self.material = material
        self.algorithm = body[5]
        if self.algorithm in _RSA:
            self.numbers, end = _mpis(body, 6, 2)
        else:
            self.curve = _part(body, 7, _byte(body, 6))
            (self.point,), at = _mpis(body, 7 + len(self.curve), 1)
            self.kdf = _part(body, at, 1 + _byte(body, at))
            end = at + len(self.kdf)
        self.public, self.secret = body[:end], body[end:]
        self.fingerprint = _fingerprint(self.public)
        self.key_id = self.fingerprint[-8:]

    def describe(self) -> str:
        """Name the key for a message: where it came from, its type and key ID."""
        if self.algorithm in _RSA:
            kind = f"RSA {8 * len(self.numbers[0])}"
        elif self.curve in _NIST_CURVES:
            kind = f"ECDH {_NIST_CURVES[self.curve].name}"
        else:
            kind = "ECDH Curve25519" if self.curve == _CURVE25519 else "ECDH of another curve"
        return f"{self.material.name} ({kind}, key ID {self.key_id.hex().upper()})"


class _DoesNotFitError(Exception):
    """This key does not open this message; the text says why."""


def wrap(options: bytes, recipients: Sequence[bytes]) -> bytes:
    """Wrap private options to certificates: one message for all of them, neither signed nor compressed.

    Args:
        options: the private options.
        recipients: OpenPGP certificates, binary or armoured, one each; `select` finds them.

    Raises:
        KeyFileError: a recipient is no certificate, has no key to encrypt to, has expired or been revoked,
            or asks for a form that `unwrap` and the reference do not read.
        WrappedKeyError: the library is not installed.
    """
    library = _library()
    certificates = [_usable_certificate(recipient) for recipient in recipients]
    try:
        wrapped = bytes(library.encrypt(options, certificates, armor=False))
        _message(list(_packets(wrapped, limits.PGP_PACKETS)))
    except RuntimeError:
        raise KeyFileError("a certificate has no key that encryption is allowed with") from None
    except ValueError:
        raise KeyFileError("a certificate is for newer programs only (RFC 9580, version 6 or AEAD)") from None
    return wrapped


def unwrap(wrapped: bytes, keys: Keys, refused: Refused) -> bytes | None:
    """Open a message with the first secret key that fits one of its recipients.

    Args:
        wrapped: the message, binary, at most PGP_BYTES.
        keys: `keys.pgp` is tried in its order; only a key that the message names, or every key if it
            has a hidden recipient. Expired and revoked keys open what was encrypted to them.
        refused: told of each key or file that does not open it, and why.

    Returns:
        The private options, or None.

    Raises:
        WrappedKeyError: it is malformed, not encrypted, without integrity protection, or opens to more than
            PRIVATE_OPTIONS_BYTES.
    """
    message = _parse(wrapped)
    for material in keys.pgp:
        try:
            found = _secret_keys(material)
        except ValueError as error:
            refused(material, str(error))
            continue
        candidates = [(key, shares) for key in found if (shares := message.shares_for(key))]
        if not candidates:
            refused(material, f"it holds no secret key with a key ID that the message asks for: {message.wanted()}")
        for key, shares in candidates:
            try:
                return _open(key, shares, message.data)
            except _DoesNotFitError as error:
                refused(key, str(error))
    return None


def select(keyring: bytes, wanted: str) -> bytes:
    """Find the one usable certificate in a keyring.

    Args:
        keyring: OpenPGP certificates, binary or armoured, at most PGP_KEYRING_BYTES.
        wanted: e-mail address, name or whole text of a user ID that the certificate vouches for; or the
            fingerprint (40 hexadecimal digits) or key ID (16) of the primary key.

    Raises:
        KeyFileError: none fits, or more than one does.
        WrappedKeyError: the library is not installed.
    """
    digits = wanted.replace(" ", "").removeprefix("0x").lower()
    by_number = len(digits) in (16, 40) and set(digits) <= set("0123456789abcdef")
    problem = f"the keyring holds no OpenPGP certificate for {quoted(wanted)}"
    found: dict[bytes, bytes] = {}
    text = wanted.lower().encode()
    if not text:
        raise KeyFileError(problem)
    for packets in _certificates(keyring):
        fingerprint = _fingerprint(packets[0].body)
        if by_number and digits not in (fingerprint.hex(), fingerprint.hex()[-16:]):
            continue
        if not by_number and not any(packet.tag == _USER_ID and text in packet.body.lower() for packet in packets):
            continue
        raw = b"".join(packet.raw for packet in packets)
        try:
            if by_number or _has_user_id(_certificate(raw), wanted):
                _usable_certificate(raw)
                found[fingerprint] = raw
        except KeyFileError as error:
            problem = f"{fingerprint.hex().upper()}: {error}" if by_number else problem
    if len(found) > 1:
        names = ", ".join(fingerprint.hex().upper() for fingerprint in found)
        raise KeyFileError(f"several certificates fit {quoted(wanted)}; choose by fingerprint: {names}")
    if not found:
        raise KeyFileError(problem)
    return next(iter(found.values()))


def gnupg_keyring(home: str | None = None, program: str = "gpg") -> bytes:
    """Export the public keys of a GnuPG home.

    Args:
        home: the directory; None for GnuPG's own choice.
        program: name or path of gpg.

    Returns:
        Binary certificates, at most PGP_KEYRING_BYTES.

    Raises:
        KeyFileError: gpg is not installed, fails, takes longer than GPG_SECONDS or exports more.
    """
    import subprocess

    # As one word, a directory whose name begins with a dash is not taken for an option.
    directory = [f"--homedir={os.path.abspath(home)}"] if home else []
    command = [program, "--batch", "--no-tty", "--quiet", *directory, "--export"]
    try:
        process = subprocess.Popen(  # noqa: S603  # no shell, and nothing but an absolute path to pass
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    except OSError as error:
        raise KeyFileError(f"{program} cannot be run: {error.strerror}") from None
    with process:
        assert process.stdout is not None  # noqa: S101  # for the type checker
        keyring = _read(process.stdout.fileno(), limits.PGP_KEYRING_BYTES, limits.GPG_SECONDS)
        if keyring is None or len(keyring) > limits.PGP_KEYRING_BYTES:
            process.kill()
            raise KeyFileError(
                f"{program} exports more than {limits.PGP_KEYRING_BYTES} bytes "
                f"or takes longer than {limits.GPG_SECONDS:.0f} seconds"
            )
    if process.returncode:
        raise KeyFileError(f"{program} --export fails with status {process.returncode}")
    return keyring


def _parse(wrapped: bytes) -> _Message:
    """Check the structure of a message (RFC 9580 §10.3), as far as it is not encrypted."""
    if len(wrapped) > limits.PGP_BYTES:
        raise WrappedKeyError(f"it is longer than {limits.PGP_BYTES} bytes")
    try:
        return _message(list(_packets(wrapped, limits.PGP_PACKETS)))
    except ValueError as error:
        raise WrappedKeyError(f"it is not an acceptable OpenPGP message: {error}") from None


def _message(packets: list[_Packet]) -> _Message:
    if not packets:
        raise ValueError("it is empty")
    shares = []
    for packet in packets[:-1]:
        if packet.tag == _PKESK and packet.body[:1] == b"\3":
            shares.append(_Share(_part(packet.body, 1, 8), _byte(packet.body, 9), packet.body[10:]))
        elif packet.tag not in (_PKESK, _SKESK, _MARKER, _PADDING):
            raise ValueError(_why_not(packet.tag))
    data = packets[-1]
    if data.tag != _SEIPD:
        raise ValueError(_why_not(data.tag))
    if data.body[:1] != b"\1":
        raise ValueError("its encrypted data is not of version 1 (GnuPG's and the reference's), but of another")
    if not shares:
        raise ValueError("it is not encrypted to any public key")
    if len(shares) > limits.PGP_RECIPIENTS:
        raise ValueError(f"it has more than {limits.PGP_RECIPIENTS} recipients")
    return _Message(shares, data.body[1:])


def _why_not(tag: int) -> str:
    if tag in (_LITERAL, _COMPRESSED, _SIGNATURE, _ONE_PASS_SIGNATURE):
        return "it is not encrypted"
    if tag == _SED:
        return "its encrypted data has no integrity protection"
    if tag == _GNUPG_AEAD:
        return "its encrypted data is in GnuPG's own form; `gpg --rfc4880` writes the standard one"
    return f"a packet of type {tag} is out of place"


def _open(key: _SecretKey, shares: list[_Share], data: bytes) -> bytes:
    """Try a key on every session key that may be its own."""
    secret = _unlock(key)
    for share in shares:
        try:
            content = _decrypt(_session_key(key, secret, share), data)
        except (ValueError, InvalidUnwrap, UnsupportedAlgorithm):
            # One reason for them all: nobody may learn whether RSA, the padding or the MDC failed.
            continue
        try:
            return _literal(content)
        except ValueError as error:
            raise WrappedKeyError(f"it opens to something other than private options: {error}") from None
    raise _DoesNotFitError("it does not open this wrapped key")


def _unlock(key: _SecretKey) -> list[bytes]:
    """Decrypt the secret numbers of a key (RFC 9580 §5.5.3)."""
    try:
        usage = _byte(key.secret, 0)
        if usage == 0:
            return _checked_numbers(key, key.secret[1:], hashed=False)
        if usage in (254, 255) and _byte(key.secret, 2) == _GNU_STUB:
            raise _DoesNotFitError("its secret part is not in this file, but elsewhere or on a card")
        if usage not in (254, 255) or _byte(key.secret, 1) not in _KEY_BYTES:
            raise _DoesNotFitError("its passphrase protects it in a way that is not supported")
        if not key.material.password:
            raise _DoesNotFitError("it is protected by a passphrase, and none was given")
        cipher = key.secret[1]
        secret, at = _from_passphrase(key.secret, key.material.password, _KEY_BYTES[cipher])
        size = _block_bytes(cipher)
        plain = _cfb(cipher, secret, _part(key.secret, at, size), key.secret[at + size :])
    except (ValueError, UnsupportedAlgorithm):
        raise _DoesNotFitError("its secret part is malformed") from None
    try:
        return _checked_numbers(key, plain, hashed=usage == 254)
    except ValueError:
        raise _DoesNotFitError("it is protected by a passphrase, and the one that was given is wrong") from None


def _checked_numbers(key: _SecretKey, plain: bytes, *, hashed: bool) -> list[bytes]:
    numbers, end = _mpis(plain, 0, 4 if key.algorithm in _RSA else 1)
    checksum = hashlib.sha1(plain[:end], usedforsecurity=False).digest() if hashed else _sum(plain[:end])
    if not compare_digest(checksum, plain[end:]):
        raise ValueError("a wrong checksum")
    return numbers


def _from_passphrase(secret: bytes, passphrase: bytes, size: int) -> tuple[bytes, int]:
    """Derive a key of `size` bytes by the specifier at offset 2 (RFC 9580 §3.7.1), and tell where that ends."""
    kind, name = _byte(secret, 2), _HASHES.get(_byte(secret, 3))
    if kind not in (0, 1, 3) or name is None:
        raise _DoesNotFitError("its passphrase protects it in a way that is not supported")
    salt = b"" if kind == 0 else _part(secret, 4, 8)
    end = 4 + len(salt)
    text = salt + passphrase
    count = len(text)
    if kind == 3:
        coded = _byte(secret, end)
        count, end = max(count, (16 + (coded & 15)) << ((coded >> 4) + 6)), end + 1
    repeated = text * (65536 // len(text) + 1)
    derived = b""
    for zeros in range(size):
        digest = hashlib.new(name, bytes(zeros), usedforsecurity=False)
        for _ in range(count // len(repeated)):
            digest.update(repeated)
        digest.update(repeated[: count % len(repeated)])
        derived += digest.digest()
        if len(derived) >= size:
            break
    return derived[:size], end


def _session_key(key: _SecretKey, secret: list[bytes], share: _Share) -> bytes:
    """Decrypt a session key, cipher in front and checksum behind (RFC 9580 §5.1.3, §5.1.5)."""
    decrypt = _decrypt_rsa if key.algorithm in _RSA else _decrypt_ecdh
    plain = decrypt(key, secret, share.encrypted)
    if len(plain) < 3 or _sum(plain[1:-2]) != plain[-2:] or _KEY_BYTES.get(plain[0]) != len(plain) - 3:
        raise ValueError("no session key")
    return plain[:-2]


def _decrypt_rsa(key: _SecretKey, secret: list[bytes], encrypted: bytes) -> bytes:
    (number,), _ = _mpis(encrypted, 0, 1)
    modulus, exponent = map(int.from_bytes, key.numbers)
    # OpenPGP has the inverse of p modulo q, others that of q modulo p: p and q change places.
    d, q, p, inverse = map(int.from_bytes, secret)
    public = rsa.RSAPublicNumbers(exponent, modulus)
    numbers = rsa.RSAPrivateNumbers(p, q, d, rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), inverse, public)
    # Validation would take 36 ms; the MDC exposes a key that computes nonsense.
    private = numbers.private_key(unsafe_skip_rsa_key_validation=True)
    return private.decrypt(number.rjust((private.key_size + 7) // 8, b"\0"), padding.PKCS1v15())


def _decrypt_ecdh(key: _SecretKey, secret: list[bytes], encrypted: bytes) -> bytes:
    """RFC 9580 §11.4, with the padding of §11.5."""
    (point,), at = _mpis(encrypted, 0, 1)
    name, size = _HASHES.get(_byte(key.kdf, 2)), _KEY_BYTES.get(_byte(key.kdf, 3))
    if name is None or size is None:
        raise ValueError("an unknown hash or cipher")
    curve = bytes([len(key.curve)]) + key.curve
    parameters = curve + bytes([_ECDH]) + key.kdf + b"Anonymous Sender    " + key.fingerprint
    kek = hashlib.new(name, b"\0\0\0\1" + _shared_secret(key, secret[0], point) + parameters).digest()[:size]
    plain = aes_key_unwrap(kek, _part(encrypted, at + 1, _byte(encrypted, at)))
    return plain[: -plain[-1]]


def _shared_secret(key: _SecretKey, secret: bytes, point: bytes) -> bytes:
    if key.curve == _CURVE25519:
        from cryptography.hazmat.primitives.asymmetric import x25519

        private = x25519.X25519PrivateKey.from_private_bytes(secret.rjust(32, b"\0")[::-1])
        return private.exchange(x25519.X25519PublicKey.from_public_bytes(point[1:]))
    if key.curve not in _NIST_CURVES:
        raise ValueError("an unknown curve")
    curve = _NIST_CURVES[key.curve]
    ephemeral = ec.EllipticCurvePublicKey.from_encoded_point(curve, point)
    return ec.derive_private_key(int.from_bytes(secret), curve).exchange(ec.ECDH(), ephemeral)


def _decrypt(session_key: bytes, data: bytes) -> bytes:
    """Decrypt integrity-protected data, version 1, and check its MDC (RFC 9580 §5.13.1)."""
    cipher = session_key[0]
    size = _block_bytes(cipher)
    plain = _cfb(cipher, session_key[1:], bytes(size), data)
    if len(plain) < size + 2 + 22 or plain[-22:-20] != b"\xd3\x14":
        raise ValueError("no MDC")
    if not compare_digest(hashlib.sha1(plain[:-20], usedforsecurity=False).digest(), plain[-20:]):
        raise ValueError("a wrong MDC")
    return plain[size + 2 : -22]


def _cfb(cipher: int, key: bytes, iv: bytes, data: bytes) -> bytes:
    from cryptography.hazmat.decrepit.ciphers.algorithms import CAST5, TripleDES
    from cryptography.hazmat.decrepit.ciphers.modes import CFB
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.algorithms import AES

    algorithm = {_TRIPLE_DES: TripleDES, _CAST5: CAST5}.get(cipher, AES)(key)
    decryptor = Cipher(algorithm, CFB(iv)).decryptor()
    return decryptor.update(data) + decryptor.finalize()


def _block_bytes(cipher: int) -> int:
    return 8 if cipher in (_TRIPLE_DES, _CAST5) else 16


def _literal(content: bytes, depth: int = 0) -> bytes:
    """Find the literal data in a decrypted message (RFC 9580 §5.9), signed or compressed as it may be."""
    skipped = (_SIGNATURE, _ONE_PASS_SIGNATURE, _MARKER, _PADDING)
    packets = [packet for packet in _packets(content, limits.PGP_PACKETS) if packet.tag not in skipped]
    if len(packets) != 1:
        raise ValueError("it holds no data, or several")
    tag, body, _ = packets[0]
    if tag == _COMPRESSED and depth < limits.PGP_NESTING:
        return _literal(_decompressed(body), depth + 1)
    if tag != _LITERAL:
        raise ValueError(f"a packet of type {tag} is out of place")
    start = 2 + _byte(body, 1) + 4
    if not limits.PRIVATE_OPTIONS_BYTES >= len(body) - start >= 0:
        raise ValueError(f"it is cut short, or longer than {limits.PRIVATE_OPTIONS_BYTES} bytes")
    return body[start:]


def _decompressed(body: bytes) -> bytes:
    """Decompress at most twice PRIVATE_OPTIONS_BYTES, for there may be signatures (RFC 9580 §5.6)."""
    import bz2
    import zlib

    most = 2 * limits.PRIVATE_OPTIONS_BYTES
    algorithm = _byte(body, 0)
    if algorithm == 0:
        return body[1:]
    if algorithm not in (1, 2, 3):
        raise ValueError("it is compressed in an unknown way")
    # ZIP is ZLIB without header and checksum.
    decompressor = bz2.BZ2Decompressor() if algorithm == 3 else zlib.decompressobj(-15 if algorithm == 1 else 15)
    try:
        plain = decompressor.decompress(body[1:], most + 1)
    except (zlib.error, OSError):
        raise ValueError("it is compressed, and damaged") from None
    if len(plain) > most:
        raise ValueError(f"it is longer than {most} bytes")
    if not decompressor.eof:
        raise ValueError("it is compressed, and cut short")
    return plain


def _secret_keys(material: KeyMaterial) -> list[_SecretKey]:
    """Find the keys in a file that can decrypt, subkeys first, for a primary key seldom does.

    Raises:
        ValueError: there is none, or it is malformed; the message says which.
    """
    if len(material.data) > limits.KEY_FILE_BYTES:
        raise ValueError(f"it is larger than {limits.KEY_FILE_BYTES} bytes")
    found: dict[int, list[_SecretKey]] = {_SECRET_SUBKEY: [], _SECRET_KEY: []}
    try:
        for tag, body, _ in _packets(_dearmoured(material.data), limits.PGP_PACKETS):
            if tag in found and body[:1] == b"\4" and _byte(body, 5) in (*_RSA, _ECDH):
                found[tag].append(_SecretKey(material, body))
    except ValueError as error:
        raise ValueError(f"it is not an OpenPGP key: {error}") from None
    if not any(found.values()):
        raise ValueError("it holds no OpenPGP secret key that can decrypt (RSA or ECDH, version 4)")
    return found[_SECRET_SUBKEY] + found[_SECRET_KEY]


def _mpis(data: bytes, at: int, number: int) -> tuple[list[bytes], int]:
    """Read numbers (RFC 9580 §3.2), without the leading zeros that Go writes, and tell where they end."""
    found = []
    for _ in range(number):
        size = (int.from_bytes(_part(data, at, 2)) + 7) // 8
        found.append(_part(data, at + 2, size).lstrip(b"\0"))
        at += 2 + size
    return found, at


def _sum(data: bytes) -> bytes:
    return (sum(data) & 0xFFFF).to_bytes(2)


def _fingerprint(public: bytes) -> bytes:
    """Compute the fingerprint of a public key, version 4 (RFC 9580 §5.5.4)."""
    return hashlib.sha1(b"\x99" + len(public).to_bytes(2) + public, usedforsecurity=False).digest()


def _certificates(keyring: bytes) -> Iterator[list[_Packet]]:
    """Split a keyring into certificates, primary key first, without the secret ones."""
    if len(keyring) > limits.PGP_KEYRING_BYTES:
        raise KeyFileError(f"the keyring is larger than {limits.PGP_KEYRING_BYTES} bytes")
    certificate: list[_Packet] = []
    try:
        for packet in _packets(_dearmoured(keyring), limits.PGP_KEYRING_PACKETS):
            if packet.tag in (_PUBLIC_KEY, _SECRET_KEY):
                if certificate and certificate[0].tag == _PUBLIC_KEY:
                    yield certificate
                certificate = []
            certificate.append(packet)
    except ValueError as error:
        raise KeyFileError(f"it is not an OpenPGP keyring: {error}") from None
    if certificate and certificate[0].tag == _PUBLIC_KEY:
        yield certificate


def _certificate(data: bytes) -> Cert:
    library = _library()
    try:
        certificate: Cert = library.Cert.from_bytes(data)
    except RuntimeError:
        raise KeyFileError("it is not an OpenPGP certificate") from None
    return certificate


def _usable_certificate(data: bytes) -> Cert:
    certificate = _certificate(data)
    try:
        expiration = certificate.expiration
    except RuntimeError:
        raise KeyFileError("it has no self-signature that is accepted") from None
    if certificate.is_revoked:
        raise KeyFileError("it has been revoked")
    if expiration and expiration.timestamp() <= time.time():
        raise KeyFileError(f"it expired on {expiration:%Y-%m-%d}")
    return certificate


def _has_user_id(certificate: Cert, wanted: str) -> bool:
    try:
        user_ids = [str(user_id) for user_id in certificate.user_ids]
    except RuntimeError:
        return False
    for user_id in user_ids:
        name, _, address = user_id.rpartition("<")
        name = name.partition("(")[0].strip()
        if wanted in (user_id, name) or wanted.lower() == address.removesuffix(">").lower():
            return True
    return False


def _library() -> ModuleType:
    try:
        import pysequoia
    except ImportError:
        raise WrappedKeyError("OpenPGP needs a library: pip install ctd-decoder[pgp]") from None
    return pysequoia


def _packets(data: bytes, most: int) -> Iterator[_Packet]:
    """Split into packets (RFC 9580 §4.2), at most so many; ValueError tells what is wrong."""
    at = number = 0
    while at < len(data):
        number += 1
        if number > most:
            raise ValueError(f"it has more than {most} packets")
        start, first = at, data[at]
        if not first & 0x80:
            raise ValueError("there is something that is no packet")
        if first & 0x40:
            tag = first & 0x3F
            body, at = _new_body(data, at + 1, tag in _WITH_PARTIAL_LENGTHS)
        else:
            tag = first >> 2 & 0x0F
            body, at = _old_body(data, at + 1, first & 3)
        yield _Packet(tag, body, data[start:at])


def _new_body(data: bytes, at: int, partial: bool) -> tuple[bytes, int]:
    """RFC 9580 §4.2.1."""
    parts = []
    while True:
        first = _byte(data, at)
        if first < 192:
            size, at = first, at + 1
        elif first < 224:
            size, at = ((first - 192) << 8) + _byte(data, at + 1) + 192, at + 2
        elif first == 255:
            size, at = int.from_bytes(_part(data, at + 1, 4)), at + 5
        elif partial:
            size, at = 1 << (first & 0x1F), at + 1
        else:
            raise ValueError("a packet has a partial length that its type must not have")
        parts.append(_part(data, at, size))
        at += size
        if not 224 <= first < 255:
            return b"".join(parts), at


def _old_body(data: bytes, at: int, kind: int) -> tuple[bytes, int]:
    """RFC 9580 §4.2.2; a length that is not stated ends with the data."""
    if kind == 3:
        return data[at:], len(data)
    width = 1 << kind
    size = int.from_bytes(_part(data, at, width))
    return _part(data, at + width, size), at + width + size


def _part(data: bytes, at: int, size: int) -> bytes:
    part = data[at : at + size]
    if size < 0 or len(part) != size:
        raise ValueError("it ends too early")
    return part


def _byte(data: bytes, at: int) -> int:
    return _part(data, at, 1)[0]


def _dearmoured(data: bytes) -> bytes:
    """Join what the ASCII armour in a file holds (RFC 9580 §6.2); a file without any is binary.

    The checksum may be absent there, and is not looked at here.
    """
    if data[:1] >= b"\x80" or b"-----BEGIN PGP " not in data:
        return data
    joined = b""
    for block in data.replace(b"\r", b"").split(b"-----BEGIN PGP ")[1:]:
        text = block.partition(b"\n-----END PGP ")[0].partition(b"\n\n")[2]
        try:
            joined += a2b_base64(text.partition(b"\n=")[0].replace(b"\n", b""), strict_mode=True)
        except Base64Error:
            raise ValueError("its armour holds something other than base64") from None
    return joined


def _read(descriptor: int, most: int, seconds: float) -> bytes | None:
    """Read to the end, or one byte more than `most`; None if that takes too long."""
    import select as polling

    poll = polling.poll()
    poll.register(descriptor, polling.POLLIN)
    deadline = time.monotonic() + seconds
    data = bytearray()
    while len(data) <= most:
        if not poll.poll(max(0, deadline - time.monotonic()) * 1000):
            return None
        chunk = os.read(descriptor, min(65536, most + 1 - len(data)))
        if not chunk:
            break
        data += chunk
    return bytes(data)
