"""Private keys in every form that people keep them in, parsed only when a wrapped key asks for them."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.bindings._rust import openssl
from cryptography.hazmat.primitives.asymmetric import rsa

from decoder.errors import KeyFileError, quoted
from decoder.keys import legacy_pem
from decoder.keys.kept import Kept

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

    PrivateKeyObject = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
    Form = Literal["pem", "der", "jwk", "openssh", "pkcs12"]

CURVE_NAMES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}


class PrivateKey:
    """A private key, parsed by `load` when it is first needed.

    Args:
        name: where it came from, for messages: `privkeys[0]` or the name of a file.
        form: how `data` is written.
        data: one PEM block, DER (PKCS#1, PKCS#8, SEC1), one JWK (RFC 7517), an OpenSSH key, or PKCS#12.
        password: opens an encrypted key; not looked at for any other.
        kid: the key ID that a JWK has, or "".

    Attributes:
        file: the path of the key file that it was read from, or "".
        kept: what earlier processes kept; it is asked before the key is parsed.
    """

    def __init__(self, name: str, form: Form, data: bytes, password: bytes, kid: str = "") -> None:
        self.name = name
        self.kid = kid
        self.file = ""
        self.kept = Kept()
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
                sources = [self._form.encode(), self._data, self._password]
                self._loaded = self.kept.parsed(self.file, sources, self._parse)
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
        try:
            key = _parse_jwk(self._data) if self._form == "jwk" else _open(self._form, self._data, self._password)
        except (UnsupportedAlgorithm, NotImplementedError) as error:  # the OpenSSH reader raises either
            raise KeyFileError(f"it is of a kind that cannot be read ({quoted(str(error))})") from None
        if isinstance(key, rsa.RSAPrivateKey):
            return key
        from cryptography.hazmat.primitives.asymmetric import ec  # 1 ms that an RSA key does not pay

        if isinstance(key, ec.EllipticCurvePrivateKey):
            return key
        raise KeyFileError("it is neither an RSA nor an EC private key")


def key_type(key: PrivateKeyObject) -> str:
    """Name the type and the size: `RSA 2048`, `EC P-256`."""
    if isinstance(key, rsa.RSAPrivateKey):
        return f"RSA {key.key_size}"
    return f"EC {CURVE_NAMES.get(key.curve.name, key.curve.name)}"


def fingerprint(key: PrivateKeyObject) -> str:
    """SHA-256 of the public half, as `openssl pkey -pubout -outform der | sha256sum` prints it."""
    import hashlib

    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"sha256:{hashlib.sha256(public).hexdigest()}"


def _open(form: Form, data: bytes, password: bytes) -> object:
    """Parse whatever may be encrypted; the password counts only where the key is."""
    try:
        return _load(form, data, None)
    except TypeError:  # that is how the library says that it is encrypted
        if not password:
            raise KeyFileError("it is encrypted, and no password was given") from None
    except ValueError:
        if form != "pkcs12":  # PKCS#12 does not tell a wrong password from damage
            raise KeyFileError("it cannot be parsed as a private key") from None
        if not password:
            raise KeyFileError("it cannot be opened without a password") from None
    try:
        return _load(form, data, password)
    except (ValueError, TypeError):
        raise KeyFileError("it is encrypted, and the password does not open it") from None


def _load(form: Form, data: bytes, password: bytes | None) -> object:
    """Load without the 36 ms that validating an RSA key takes.

    Whoever runs this program, or the client that sent the key, vouches for it, and the authenticated
    decryption that follows exposes a key that computes nonsense.
    """
    if form == "openssh":
        from cryptography.hazmat.primitives.serialization import load_ssh_private_key

        return load_ssh_private_key(data, password, unsafe_skip_rsa_key_validation=True)
    if form == "pkcs12":
        from cryptography.hazmat.primitives.serialization.pkcs12 import load_key_and_certificates

        with warnings.catch_warnings():  # about BER where DER belongs; standard error is for our one message
            warnings.simplefilter("ignore")
            return load_key_and_certificates(data, password)[0]
    if form == "pem" and password and (der := legacy_pem.decrypt_aes192(data, password)):
        return openssl.keys.load_der_private_key(der, None, None, unsafe_skip_rsa_key_validation=True)
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
    except (JWException, ValueError, TypeError):
        raise KeyFileError("it cannot be parsed as a JWK") from None
