"""Keys of owners, publishers and nodes: identity, signatures and decryption."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from jwcrypto.jwk import JWK

from decoder import limits
from decoder.errors import KeyFileError, UsageError, WrappedKeyError, quoted
from decoder.formats import wire
from decoder.grants.errors import StatementError
from decoder.keys.file import read_key_file, recognise
from decoder.keywrap import jwe
from decoder.keywrap.jwe.message import parse
from decoder.keywrap.publickeys import read_public_keys
from decoder.keywrap.recipient import RecipientRules

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from decoder.keys.file import KeyFile
    from decoder.keys.privatekey import PrivateKey
    from decoder.keywrap.publickeys import PublicKey, PublicKeyObject

    Keys = Mapping[str, PublicKeyObject]
    """Trusted public keys, by their fingerprints."""

FINGERPRINT = "jwk-sha256:"
"""The prefix of displayed fingerprints, which distinguishes them from those of openssl."""

# RFC 7518 §3.4: one algorithm for each curve. Tokens often support only PKCS #1 v1.5, so RSA keys may use both.
_OF_CURVES: dict[str, tuple[str, type[hashes.HashAlgorithm]]] = {
    "secp256r1": ("ES256", hashes.SHA256),
    "secp384r1": ("ES384", hashes.SHA384),
    "secp521r1": ("ES512", hashes.SHA512),
}
_OF_RSA = ("PS256", "RS256")
_PSS = padding.PSS(padding.MGF1(hashes.SHA256()), hashes.SHA256.digest_size)


class OwnKey(Protocol):
    """The private key of an owner, publisher or node, in a file or on a token.

    Attributes:
        public: the public key.
        algorithm: the signature algorithm (RFC 7518 §3.1).
    """

    public: PublicKeyObject
    algorithm: str

    def sign(self, data: bytes) -> bytes:
        """Sign as JWS requires (RFC 7518 §3.4, §3.5).

        Raises:
            KeyFileError: the key cannot be used.
        """

    def open(self, wrapped: bytes) -> bytes:
        """Open a JWE that was encrypted to this key.

        Raises:
            StatementError: it is malformed, or for another key.
        """


class FileKey:
    """A private key that was read from a file.

    Args:
        key: the key.

    Raises:
        KeyFileError: the key cannot be used.
    """

    def __init__(self, key: PrivateKey) -> None:
        self._key = key
        self._private = key.load()
        self.public = self._private.public_key()
        self.algorithm = algorithms(self.public)[0]

    def pem(self) -> bytes:
        """Return the private key as PKCS #8 in PEM, without a password."""
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        return self._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def sign(self, data: bytes) -> bytes:
        """Sign; see `OwnKey`."""
        if isinstance(self._private, rsa.RSAPrivateKey):
            return self._private.sign(data, _PSS, hashes.SHA256())
        digest = _OF_CURVES[self._private.curve.name][1]
        pair = decode_dss_signature(self._private.sign(data, ec.ECDSA(digest())))
        length = (self._private.key_size + 7) // 8
        return b"".join(number.to_bytes(length) for number in pair)

    def open(self, wrapped: bytes) -> bytes:
        """Open a JWE; see `OwnKey`."""
        try:
            opened = jwe.unwrap_with(parse(wrapped), [self._key], lambda _key, _reason: None)
        except WrappedKeyError as error:
            raise StatementError(str(error)) from error
        if opened is None:
            raise StatementError("it is not encrypted to this key")
        return opened


def algorithms(key: PublicKeyObject) -> tuple[str, ...]:
    """Return the algorithms that are accepted for a key's signatures; a key in a file signs with the first.

    Args:
        key: the key; the readers of keys accept no other curves than P-256, P-384 and P-521.

    Raises:
        KeyFileError: the key is too small.
    """
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < limits.RECIPIENT_RSA_BITS:
            raise KeyFileError(
                f"its RSA key has {key.key_size} bits; at least {limits.RECIPIENT_RSA_BITS} are required"
            )
        return _OF_RSA
    return (_OF_CURVES[key.curve.name][0],)


def fingerprint(key: PublicKeyObject) -> str:
    """Return the JWK thumbprint of a key, SHA-256 in hexadecimal digits (RFC 7638)."""
    return wire.decode_base64url(JWK.from_pyca(key).thumbprint()).hex()


def read_own_key(path: str, password: bytes = b"", private: bool = False) -> FileKey:
    """Read the only private key in a file.

    Args:
        path: the file.
        password: the password of an encrypted key.
        private: whether to reject a file that others may read.

    Raises:
        KeyFileError: the file does not hold exactly one private key, or the key cannot be used.
    """
    return only_key(recognise(path, read_key_file(path, private), password))


def only_key(found: KeyFile) -> FileKey:
    """Return the only private key of a file.

    Raises:
        KeyFileError: the file does not hold exactly one private key, or the key cannot be used.
    """
    if len(found.private) != 1:
        raise KeyFileError(f"it holds {len(found.private)} RSA or EC private keys; exactly one is needed")
    return FileKey(found.private[0])


def read_password(path: str) -> bytes:
    """Read a password from a file, without a line break at its end.

    Raises:
        KeyFileError: the file cannot be read, or is longer than PASSWORD_BYTES.
    """
    password = read_key_file(path)
    if len(password) > limits.PASSWORD_BYTES:
        raise KeyFileError(f"the password is longer than {limits.PASSWORD_BYTES} bytes")
    return password.removesuffix(b"\n").removesuffix(b"\r")


def read_public_key(path: str) -> PublicKey:
    """Read the only public key in a file: PEM, DER, a JWK, or a certificate with its chain.

    Raises:
        KeyFileError: the file does not hold exactly one public key, or the key cannot be used.
    """
    public = read_public_keys(read_key_file(path), RecipientRules(bytes, allow_expired=True))[0]
    algorithms(public.key)
    return public


def read_pinned(option: str, paths: Iterable[str]) -> Keys:
    """Read trusted public keys.

    Args:
        option: the option's name, for messages.
        paths: files with one key each.

    Raises:
        UsageError: a file cannot be used.
    """
    found = {}
    for path in paths:
        try:
            key = read_public_key(path).key
        except KeyFileError as error:
            raise UsageError(f"{option} {quoted(path)}: {error}") from error
        found[fingerprint(key)] = key
    return found


def encrypt(content: bytes, readers: Iterable[PublicKeyObject]) -> bytes:
    """Encrypt to the keys of all readers; see `decoder.keywrap.jwe.wrap`.

    Raises:
        KeyFileError: a key cannot be encrypted to.
    """
    from decoder.keywrap.publickeys import PublicKey

    return jwe.wrap(content, [PublicKey(key).spki() for key in readers])
