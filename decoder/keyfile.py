"""Private keys: told apart by their first bytes, parsed only when a wrapped key asks for them."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Literal, NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.bindings._rust import openssl
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from decoder import limits
from decoder.errors import KeyFileError, quoted

if TYPE_CHECKING:
    PrivateKeyObject = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
    Form = Literal["pem", "der", "jwk"]

PEM_BEGIN = b"-----BEGIN "
PEM_END = b"-----END "
_PRIVATE_LABELS = (b"PRIVATE KEY", b"RSA PRIVATE KEY", b"EC PRIVATE KEY", b"ENCRYPTED PRIVATE KEY")


class PrivateKey:
    """A private key, parsed by `load` when it is first needed.

    Args:
        name: where it came from, for messages: `privkeys[0]` or the name of a file.
        form: how `data` is written.
        data: one PEM block, DER (PKCS#1, PKCS#8, SEC1), or one JWK (RFC 7517).
        password: opens an encrypted key; not looked at for any other.
    """

    def __init__(self, name: str, form: Form, data: bytes, password: bytes) -> None:
        self.name = name
        self._form = form
        self._data = data
        self._password = password
        self._loaded: PrivateKeyObject | KeyFileError | None = None

    def load(self) -> PrivateKeyObject:
        """Parse the key.

        Raises:
            KeyFileError: it is malformed, a public key, neither RSA nor EC, or its password is wrong or missing.
        """
        if self._loaded is None:
            try:
                self._loaded = self._parse()
            except KeyFileError as error:
                self._loaded = error
        if isinstance(self._loaded, KeyFileError):
            raise self._loaded
        return self._loaded

    def describe(self) -> str:
        """Name the key for a message: where it came from, its type, size and fingerprint."""
        try:
            key = self.load()
        except KeyFileError:
            return self.name
        return f"{self.name} ({key_type(key)}, {fingerprint(key)})"

    def _parse(self) -> PrivateKeyObject:
        key = _parse_jwk(self._data) if self._form == "jwk" else _parse(self._form, self._data, self._password)
        if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
            raise KeyFileError("it is neither an RSA nor an EC key")
        return key


class KeyMaterial(NamedTuple):
    """A certificate, an OpenPGP key or a PKCS#11 key file as it came; its scheme parses it.

    Attributes:
        name: where it came from, for messages: `x509s[0]` or the name of a file.
        data: one certificate in PEM or DER, OpenPGP secret keys (binary or armoured), or YAML.
        password: opens an encrypted key; not looked at for any other.
    """

    name: str
    data: bytes
    password: bytes = b""

    def describe(self) -> str:
        """Name it for a message."""
        return self.name


def read_key_file(path: str) -> bytes:
    """Read a file of at most KEY_FILE_BYTES without waiting for it.

    Raises:
        KeyFileError: it cannot be opened, is not a regular file, or is larger.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise KeyFileError("it is not a regular file")
            data = os.read(file, limits.KEY_FILE_BYTES + 1)
        finally:
            os.close(file)
    except OSError as error:
        raise KeyFileError(error.strerror or "it cannot be read") from None
    if len(data) > limits.KEY_FILE_BYTES:
        raise KeyFileError(f"it is larger than {limits.KEY_FILE_BYTES} bytes")
    return data


def split(name: str, data: bytes, password: bytes) -> list[PrivateKey]:
    """Find the private keys in a file.

    Raises:
        KeyFileError: there is none; the message says what there is instead.
    """
    if PEM_BEGIN in data:
        return _split_pem(name, data, password)
    if data.lstrip()[:1] == b"{":
        return [PrivateKey(name, "jwk", data, password)]
    if _is_der_private_key(data):
        return [PrivateKey(name, "der", data, password)]
    raise KeyFileError("it is not a private key in PEM, DER or JWK form" if data else "it is empty")


def key_type(key: PrivateKeyObject) -> str:
    """Name the type and the size: `RSA 2048`, `EC secp256r1`."""
    return f"RSA {key.key_size}" if isinstance(key, rsa.RSAPrivateKey) else f"EC {key.curve.name}"


def fingerprint(key: PrivateKeyObject) -> str:
    """SHA-256 of the public half, as `openssl pkey -pubout -outform der | sha256sum` prints it."""
    import hashlib

    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"sha256:{hashlib.sha256(public).hexdigest()}"


def _split_pem(name: str, data: bytes, password: bytes) -> list[PrivateKey]:
    blocks = [PEM_BEGIN + block for block in data.split(PEM_BEGIN)[1:]]
    private = [block for block in blocks if _label(block) in _PRIVATE_LABELS]
    if not private:
        others = sorted({_label(block).decode("ascii", "replace") for block in blocks})
        raise KeyFileError(f"it holds no private key but {quoted(', '.join(others))}")
    if len(private) == 1:
        return [PrivateKey(name, "pem", private[0], password)]
    return [PrivateKey(f"{name}#{number}", "pem", block, password) for number, block in enumerate(private, 1)]


def _label(block: bytes) -> bytes:
    return block[len(PEM_BEGIN) :].partition(b"-----")[0]


def _is_der_private_key(data: bytes) -> bool:
    """Tell a SEQUENCE that starts with a version (PKCS#1, PKCS#8, SEC1) or is encrypted PKCS#8."""
    if data[:1] != b"\x30" or len(data) < 8:
        return False
    header = 2 + (data[1] & 0x7F if data[1] & 0x80 else 0)
    return data[header : header + 2] == b"\x02\x01" or data[header : header + 1] == b"\x30"


def _parse(form: Form, data: bytes, password: bytes) -> object:
    """Parse PEM or DER; the password counts only where the key is encrypted."""
    try:
        return _load(form, data, None)
    except TypeError:  # it is encrypted
        if not password:
            raise KeyFileError("it is encrypted, and no password was given") from None
    except ValueError:
        raise KeyFileError("it cannot be parsed as a private key") from None
    except UnsupportedAlgorithm:
        raise KeyFileError("it is of a type that cannot be used") from None
    try:
        return _load(form, data, password)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise KeyFileError("it is encrypted, and the password does not open it") from None


def _load(form: Form, data: bytes, password: bytes | None) -> object:
    """Load without the 36 ms that validating an RSA key takes.

    Whoever runs this program, or the client that sent the key, vouches for it, and the authenticated
    decryption that follows exposes a key that computes nonsense.
    """
    load = openssl.keys.load_pem_private_key if form == "pem" else openssl.keys.load_der_private_key
    return load(data, password, None, unsafe_skip_rsa_key_validation=True)


def _parse_jwk(data: bytes) -> object:
    from jwcrypto.common import JWException
    from jwcrypto.jwk import JWK

    try:
        key = JWK.from_json(data.decode())
        if not key.has_private or key.get("kty") not in ("RSA", "EC"):
            raise KeyFileError("it is a JWK, but not an RSA or EC private key")
        return _load("pem", key.export_to_pem(private_key=True, password=None), None)
    except (JWException, ValueError, TypeError, UnsupportedAlgorithm):
        raise KeyFileError("it cannot be parsed as a JWK") from None
