"""Private keys in all common forms, parsed only when a wrapped key needs them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm

# The public `load_der_private_key` first imports all key types and formats, which takes 30 ms.
from cryptography.hazmat.bindings._rust import openssl
from cryptography.hazmat.primitives.asymmetric import rsa

from decoder.errors import KeyFileError, NoPasswordError, quoted
from decoder.keys.formats import pem
from decoder.keys.kept import Kept

if TYPE_CHECKING:
    from typing import Literal

    from cryptography.hazmat.primitives.asymmetric import ec

    PrivateKeyObject = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
    Form = Literal["pem", "der", "jwk", "pkcs12"]

CURVE_NAMES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}

_OPENSSH_MAGIC = b"openssh-key-v1\0"
_NO_PASSWORD = "it is encrypted, and no password was given"  # noqa: S105 - a message
_INCORRECT_PASSWORD = "Incorrect password"  # noqa: S105 - a part of the library's message
_WRONG_PASSWORD = "it is encrypted, and the password does not open it"  # noqa: S105 - a message


class _NotAKeyError(KeyFileError):
    """The bytes are not a private key in a known form."""


class PrivateKey:
    """A private key, parsed by `load` when it is first needed.

    Args:
        name: its origin, for messages: `privkeys[0]` or the name of a file.
        form: the form of `data`.
        data: one PEM block or DER, which both hold PKCS#1, PKCS#8, SEC1 or an OpenSSH key; one JWK; or PKCS#12.
        password: the password of an encrypted key; ignored for others.
        kid: the key ID of a JWK, or "".

    Attributes:
        file: the path of the key file that it was read from, or "".
        kept: what earlier processes kept; it may have the parsed key already.
        advice: how a missing password is given, for messages, or "".
    """

    def __init__(self, name: str, form: Form, data: bytes, password: bytes, kid: str = "") -> None:
        self.name = name
        self.kid = kid
        self.file = ""
        self.kept = Kept()
        self.advice = ""
        self._form = form
        self._data = data
        self._password = password
        self._loaded: PrivateKeyObject | KeyFileError | None = None

    def load(self) -> PrivateKeyObject:
        """Return the key, parsed; a failure is remembered, too.

        Raises:
            KeyFileError: the key is malformed, its type, curve or cipher is not supported, or its password is wrong or
                missing.
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
        """Name the key for a message: its origin, type, size and fingerprint."""
        try:
            key = self.load()
        except KeyFileError:
            return self.name
        return f"{self.name} ({key_type(key)}, {fingerprint(key)})"

    def _parse(self) -> PrivateKeyObject:
        try:
            return _supported(self._load())
        except NoPasswordError as error:
            raise NoPasswordError(error.reason, self.advice) from error
        except (UnsupportedAlgorithm, NotImplementedError) as error:  # the OpenSSH reader raises either
            raise KeyFileError(f"it is of a kind that is not supported ({quoted(str(error))})") from error

    def _load(self) -> object:
        if self._form == "jwk":
            from decoder.keys.formats.jwk import parse_private

            return parse_private(self._data)
        if self._form == "pkcs12":
            return _load_pkcs12(self._data, self._password)
        if self._form == "pem":
            return _load_pem(self._data, self._password)
        return _load_der(self._data, self._password)


def key_type(key: PrivateKeyObject) -> str:
    """Return the type and the size, such as `RSA 2048` or `EC P-256`."""
    if isinstance(key, rsa.RSAPrivateKey):
        return f"RSA {key.key_size}"
    return f"EC {CURVE_NAMES.get(key.curve.name, key.curve.name)}"


def fingerprint(key: PrivateKeyObject) -> str:
    """Return the fingerprint of a key's public half."""
    return public_fingerprint(key.public_key())


def public_fingerprint(public: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> str:
    """Compute the SHA-256 of a public key, as `openssl pkey -pubout -outform der | sha256sum` prints it."""
    import hashlib

    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    data = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _supported(key: object) -> PrivateKeyObject:
    """Return the key if schemes use its type and curve.

    Raises:
        KeyFileError: they do not.
    """
    if isinstance(key, rsa.RSAPrivateKey):
        return key
    from cryptography.hazmat.primitives.asymmetric import ec  # imported here, because an RSA key does not need it: 1 ms

    if not isinstance(key, ec.EllipticCurvePrivateKey):
        kind = type(key).__name__.removesuffix("PrivateKey").strip("_")
        raise KeyFileError(f"it is a key of the type {quoted(kind)}; only RSA and EC private keys open layers")
    if key.curve.name not in CURVE_NAMES:
        raise KeyFileError(f"its curve {key.curve.name} is not supported ({', '.join(CURVE_NAMES.values())} are)")
    return key


def _load_pem(block: bytes, password: bytes) -> object:
    """Load the first PEM block by its content; its label does not count."""
    try:
        found = pem.split(block)[0]
        data = found.data()
    except (ValueError, IndexError) as error:
        raise KeyFileError("it cannot be parsed as a private key") from error
    if dek_info := found.headers.get("DEK-Info"):
        return _load_legacy(dek_info, data, password)
    return _load_der(data, password)


def _load_legacy(dek_info: str, ciphertext: bytes, password: bytes) -> object:
    from decoder.keys.formats import legacy_pem

    if not password:
        raise NoPasswordError(_NO_PASSWORD)
    try:
        return _load_der(legacy_pem.decrypt(dek_info, ciphertext, password), b"")
    except (ValueError, _NotAKeyError) as error:
        raise KeyFileError(_WRONG_PASSWORD) from error


def _load_der(data: bytes, password: bytes) -> object:
    """Load PKCS#1, PKCS#8, SEC1 or OpenSSH; the password counts only if the key is encrypted."""
    if data.startswith(_OPENSSH_MAGIC):
        return _load_openssh(data, password)
    try:
        return _load_with(data, None)
    except TypeError as error:  # the library's way to say that the key is encrypted
        if not password:
            raise NoPasswordError(_NO_PASSWORD) from error
    except ValueError as error:
        return _load_unusual(data, password, error)
    try:
        return _load_with(data, password)
    except (ValueError, TypeError) as error:
        if cipher := _unknown_cipher(error):
            raise KeyFileError(cipher) from error
        if _INCORRECT_PASSWORD in str(error):
            raise KeyFileError(_WRONG_PASSWORD) from error
        return _load_unusual_encrypted(data, password, error)


def _load_with(data: bytes, password: bytes | None) -> object:
    """Load a key without validating the numbers of RSA, which would take 36 ms.

    The key comes from the operator or from the client, so it is trusted; and if its numbers are inconsistent, the
    authenticated decryption that follows fails.
    """
    return openssl.keys.load_der_private_key(data, password, None, unsafe_skip_rsa_key_validation=True)


def _load_unusual(data: bytes, password: bytes, error: ValueError) -> object:
    """Load a key that the library rejects, or explain why it cannot be loaded."""
    from decoder.keys.formats.rsanumbers import parse_multi_prime

    if (alone := _first_element(data)) != data:
        return _load_der(alone, password)
    try:
        key = parse_multi_prime(data)
    except (ValueError, TypeError) as unusable:
        raise _NotAKeyError("it cannot be parsed as a private key") from unusable
    if key is None:
        raise _NotAKeyError("it cannot be parsed as a private key") from error
    return key


def _first_element(data: bytes) -> bytes:
    """Return a key without what follows it, which the reference ignores; what is malformed stays as it is."""
    from decoder.formats.ber import SEQUENCE, Reader

    try:
        return Reader(data).take(SEQUENCE).encoded
    except ValueError:
        return data


def _load_unusual_encrypted(data: bytes, password: bytes, error: Exception) -> object:
    """Load a key that the library decrypts but rejects, or explain why it cannot be loaded.

    With a wrong password decryption may yield random bytes, which the library rejects as well.
    """
    from decoder.keys.formats import pbes2

    try:
        plain = pbes2.decrypt(data, password)
    except ValueError:
        raise KeyFileError(f"{_WRONG_PASSWORD}, or the key in it is malformed or not supported") from error
    if not pbes2.is_sequence(plain):
        raise KeyFileError(_WRONG_PASSWORD) from error
    try:
        return _load_unusual(plain, b"", ValueError())
    except _NotAKeyError:
        raise KeyFileError("the password opens it, but the key in it is malformed or not supported") from error


def _load_openssh(data: bytes, password: bytes) -> object:
    """Load an OpenSSH key; a passphrase needs the package bcrypt."""
    from binascii import b2a_base64

    from cryptography.hazmat.primitives.serialization import load_ssh_private_key

    text = b"-----BEGIN OPENSSH PRIVATE KEY-----\n%s-----END OPENSSH PRIVATE KEY-----\n" % b2a_base64(data)
    try:
        try:
            return load_ssh_private_key(text, None, unsafe_skip_rsa_key_validation=True)
        except TypeError as error:
            if not password:
                raise NoPasswordError(_NO_PASSWORD) from error
            return load_ssh_private_key(text, password, unsafe_skip_rsa_key_validation=True)
    except (ValueError, TypeError) as error:
        raise KeyFileError(_WRONG_PASSWORD if password else "it cannot be parsed as a private key") from error


def _load_pkcs12(data: bytes, password: bytes) -> object:
    """Load the one key of a PKCS#12 file whose keys `pkcs12.private_keys` does not find."""
    import warnings

    from cryptography.hazmat.primitives.serialization.pkcs12 import load_key_and_certificates

    with warnings.catch_warnings():  # about BER instead of DER; standard error is for our one message
        warnings.simplefilter("ignore")
        for given in (None, password):
            try:
                key = load_key_and_certificates(data, given)[0]
            except (ValueError, TypeError) as error:
                failure = error
            else:
                if key is None:
                    raise KeyFileError("it holds no private key")
                return key
    if password:  # the key bag alone may fail with a better reason, such as an unknown cipher
        from decoder.keys.formats.pkcs12 import private_keys

        for inside in private_keys(data):
            return _load_der(inside, password)
    # PKCS#12 cannot distinguish a wrong password from damage.
    if not password:
        raise NoPasswordError("it cannot be opened without a password") from failure
    raise KeyFileError(_WRONG_PASSWORD) from failure


def _unknown_cipher(error: Exception) -> str:
    """Return a message about the cipher, key derivation or hash that the library does not know; "" for other errors."""
    _, found, identifier = str(error).partition("Unknown key encryption algorithm: ")
    if not found:
        return ""
    from decoder.keys.formats.ciphers import NAMES

    name = NAMES.get(identifier.strip(), identifier.strip())
    return f"it is encrypted with {quoted(name)[1:-1]}, which is not supported"
