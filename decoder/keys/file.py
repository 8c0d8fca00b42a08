"""Key files: their content is recognized by its first bytes, and parsed only when a key is needed."""

from __future__ import annotations

import os
import stat

from decoder import limits
from decoder.errors import KeyFileError, quoted
from decoder.formats import wire
from decoder.keys.formats import pem
from decoder.keys.kept import Kept
from decoder.keys.privatekey import PrivateKey
from decoder.record import Record

PASSWORD_SUFFIX = ".pass"  # noqa: S105 - a part of a file name

_PRIVATE_LABEL = b"PRIVATE KEY"  # with or without RSA, EC, ENCRYPTED, OPENSSH, … before it; the content decides
_PUBLIC_LABEL = b"PUBLIC KEY"
_CERTIFICATE_LABELS = (b"CERTIFICATE", b"X509 CERTIFICATE")
_PGP_LABEL = b"PGP PRIVATE KEY BLOCK"
_PGP_PUBLIC_LABEL = b"PGP PUBLIC KEY BLOCK"
_SEQUENCE, _INTEGER, _BIT_STRING, _OCTET_STRING, _EXPLICIT_0 = 0x30, 0x02, 0x03, 0x04, 0xA0
# What private keys begin with: SEC1, PKCS#8, plain and encrypted; PKCS#1 has nine numbers.
_PRIVATE_TAGS = ([_INTEGER, _OCTET_STRING], [_INTEGER, _SEQUENCE, _OCTET_STRING], [_SEQUENCE, _OCTET_STRING])
_PKCS1_TAGS = [_INTEGER] * 9
_PKCS12_VERSION = b"\x03"
_PUBLIC = "it holds a public key; a private key is needed"
_SECRET_KEY_PACKETS = (0x94, 0x95, 0x96, 0x97, 0xC5)  # RFC 9580 §4.2: tag 5, old and new header
_PUBLIC_KEY_PACKETS = (0x98, 0x99, 0x9A, 0x9B, 0xC6)  # tag 6
_JKS_MAGIC = b"\xfe\xed\xfe\xed"


class KeyMaterial(Record):
    """A certificate, an OpenPGP key or a PKCS#11 key file, not parsed yet: its scheme does that.

    Attributes:
        name: its origin, for messages: `x509s[0]` or the name of a file.
        data: one certificate in PEM or DER, OpenPGP secret keys (binary or armoured), or YAML.
        password: the password of an encrypted key; ignored for others.
        file: the path of the key file that it was read from, or "".
        kept: what earlier processes kept; it may have the parsed key already.
        advice: how a missing password is given, for messages, or "".
    """

    name: str
    data: bytes
    password: bytes = b""
    file: str = ""
    kept: Kept = Kept()
    advice: str = ""

    def describe(self) -> str:
        """Return its name for messages."""
        return self.name


class KeyFile:
    """The contents of one file or payload entry.

    Attributes:
        private: RSA and EC private keys.
        certificates: X.509 certificates.
        pgp: OpenPGP secret keys.
        pkcs11: key files that point to keys on tokens.
    """

    def __init__(self) -> None:
        self.private: list[PrivateKey] = []
        self.certificates: list[KeyMaterial] = []
        self.pgp: list[KeyMaterial] = []
        self.pkcs11: list[KeyMaterial] = []

    def extend(self, other: KeyFile) -> None:
        """Add the contents of another file."""
        self.private += other.private
        self.certificates += other.certificates
        self.pgp += other.pgp
        self.pkcs11 += other.pkcs11

    def came_from(self, file: str, kept: Kept) -> None:
        """Set the path of the file that all these keys come from, and what earlier processes have kept."""
        for key in self.private:
            key.file, key.kept = file, kept
        self.pgp = [key._replace(file=file, kept=kept) for key in self.pgp]

    def advise(self, advice: str) -> None:
        """Set what messages advise if the password of these keys is missing."""
        for key in self.private:
            key.advice = advice
        self.pgp = [key._replace(advice=advice) for key in self.pgp]


def recognise(name: str, data: bytes, password: bytes = b"") -> KeyFile:
    """Recognize the keys and certificates in a file, and sort them by their kind.

    Args:
        name: the file's origin, for messages.
        data: the content, at most KEY_FILE_BYTES.
        password: the password of everything in it that is encrypted.

    Raises:
        KeyFileError: it has no key that this program can use; the message says what it has instead.
    """
    start = data.lstrip()[:1]
    if pem.BEGIN in data:
        found = _in_pem(name, data, password)
    elif start == b"{":
        found = _in_json(name, data, password)
    elif data[:1] == bytes([_SEQUENCE]):
        found = _in_der(name, data, password)
    else:
        found = KeyFile()
        if data[:1] and (data[0] in _SECRET_KEY_PACKETS or _has_secret_key_behind(data)):
            found.pgp.append(KeyMaterial(name, data, password))
        elif data.startswith(b"pkcs11:") or b"\npkcs11:" in data:
            found.pkcs11.append(KeyMaterial(name, data))
        elif other := _known_otherwise(data):
            raise KeyFileError(other)
    if not (found.private or found.certificates or found.pgp or found.pkcs11):
        raise KeyFileError("it holds no key of a known form" if data else "it is empty")
    return found


def read_key_file(path: str, private: bool = False) -> bytes:
    """Read a regular file of at most KEY_FILE_BYTES; never wait for a pipe or device.

    Args:
        path: the file.
        private: whether to reject a file that its group or others may read. A file of root may be readable for the
            group of this process.

    Raises:
        KeyFileError: it cannot be read, is not a regular file, is larger, or is not private.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode):
                raise KeyFileError("it is not a regular file")
            if private and status.st_mode & _too_open(status):
                raise KeyFileError("its group or others can read it: chmod 600")
            if status.st_size > limits.KEY_FILE_BYTES:
                raise KeyFileError(f"it is larger than {limits.KEY_FILE_BYTES} bytes")
            return os.read(file, status.st_size)
        finally:
            os.close(file)
    except OSError as error:
        raise KeyFileError(error.strerror or "it cannot be read") from error


def is_inside(path: str, directory: str) -> bool:
    """Check whether a path leads to a place below a directory when links are followed."""
    return os.path.realpath(path).startswith(os.path.join(os.path.realpath(directory), ""))


def _too_open(status: os.stat_result) -> int:
    """Return the mode bits that a private file must not have; Kubernetes mounts Secrets as root, with our group."""
    if status.st_uid == 0 and os.geteuid() != 0:
        return stat.S_IWGRP | stat.S_IXGRP | stat.S_IRWXO
    return stat.S_IRWXG | stat.S_IRWXO


def _in_pem(name: str, data: bytes, password: bytes) -> KeyFile:
    """Sort PEM blocks (RFC 7468); a file may hold keys and certificates of every kind, one per block.

    A private key counts under any label, even that of a certificate: tools are wrong, and the reference reads it.
    """
    found = KeyFile()
    blocks = [pem.BEGIN + rest for rest in data.split(pem.BEGIN)[1:]]
    labels = [block[len(pem.BEGIN) :].partition(b"-----")[0].strip() for block in blocks]
    for number, (label, block) in enumerate(zip(labels, blocks, strict=True), 1):
        part = name if len(blocks) == 1 else f"{name}#{number}"
        if label == _PGP_LABEL:
            found.pgp.append(KeyMaterial(part, block, password))
        elif label.endswith(_PRIVATE_LABEL) or _holds_private_key(block):
            found.private.append(PrivateKey(part, "pem", block, password))
        elif label in _CERTIFICATE_LABELS:
            found.certificates.append(KeyMaterial(part, block))
    if not (found.private or found.certificates or found.pgp):
        raise KeyFileError(_what_else(labels))
    return found


def _holds_private_key(block: bytes) -> bool:
    """Check whether a PEM block holds a private key by the tags in it, whatever its label says."""
    try:
        data = pem.split(block)[0].data()
    except ValueError:
        return False
    if data[:1] != bytes([_SEQUENCE]):
        return False
    tags: list[int] = []
    at = _element(data, 0)[1]
    while len(tags) < len(_PKCS1_TAGS) and at < len(data):
        tag, _, at = _element(data, at)
        tags.append(tag)
    return tags == _PKCS1_TAGS or any(tags[: len(form)] == form for form in _PRIVATE_TAGS)


def _what_else(labels: list[bytes]) -> str:
    """Return a message about what a PEM file holds instead of a key."""
    if all(label.endswith(_PUBLIC_LABEL) for label in labels):
        return _PUBLIC
    if all(label == _PGP_PUBLIC_LABEL for label in labels):
        return "it holds an OpenPGP public key; a secret key is needed"
    return f"it holds no key but {quoted(b', '.join(sorted(set(labels))).decode('ascii', 'replace'))}"


def _in_json(name: str, data: bytes, password: bytes) -> KeyFile:
    """Sort a JWK or JWK Set (RFC 7517), or PKCS#11 YAML in its JSON form."""
    found = KeyFile()
    try:
        value = wire.parse_object(data)
    except ValueError as error:
        raise KeyFileError(str(error)) from error
    if "pkcs11" in value:
        found.pkcs11.append(KeyMaterial(name, data))
        return found
    keys = value.get("keys")
    if not isinstance(keys, list):
        found.private.append(PrivateKey(name, "jwk", data, password, str(value.get("kid", ""))))
        return found
    for number, key in enumerate(keys, 1):
        if isinstance(key, dict):
            text = wire.build_json(key)
            found.private.append(PrivateKey(f"{name}#{number}", "jwk", text, password, str(key.get("kid", ""))))
    return found


def _in_der(name: str, data: bytes, password: bytes) -> KeyFile:
    """Distinguish the DER forms by the tags at their start."""
    found = KeyFile()
    _, inside, end = _element(data, 0)
    if not data[end:].strip():
        data = data[:end]  # editors and shells add a line break
    first, first_inside, first_end = _element(data, inside)
    second = _element(data, first_end)[0]
    if first == _INTEGER and data[first_inside:first_end] == _PKCS12_VERSION:
        found.private += _in_pkcs12(name, data, password)
    elif first == _INTEGER and second == _INTEGER and _element(data, _element(data, first_end)[2])[0] == -1:
        raise KeyFileError(_PUBLIC)  # PKCS#1: only modulus and exponent
    elif first == _INTEGER:  # the version of PKCS#1, PKCS#8 or SEC1
        found.private.append(PrivateKey(name, "der", data, password))
    elif first == _SEQUENCE and _element(data, first_inside)[0] in (_EXPLICIT_0, _INTEGER):  # version or serial number
        found.certificates.append(KeyMaterial(name, data))
    elif first == _SEQUENCE and second == _OCTET_STRING:  # encrypted PKCS#8
        found.private.append(PrivateKey(name, "der", data, password))
    elif first == _SEQUENCE and second == _BIT_STRING:
        raise KeyFileError(_PUBLIC)
    return found


def _in_pkcs12(name: str, data: bytes, password: bytes) -> list[PrivateKey]:
    """List every key of a PKCS#12 file, as PKCS#8, or the file as a whole if only the library can open it."""
    from decoder.keys.formats.pkcs12 import private_keys

    keys = private_keys(data, password)
    if len(keys) < 2:
        return [PrivateKey(name, "pkcs12", data, password)]
    return [PrivateKey(f"{name}#{number}", "der", key, password) for number, key in enumerate(keys, 1)]


def _has_secret_key_behind(data: bytes) -> bool:
    """Check whether a secret key follows OpenPGP public keys, in packets of definite length (RFC 9580 §4.2)."""
    at = 0
    if data[0] not in _PUBLIC_KEY_PACKETS:
        return False
    while 0 <= at < len(data) and data[at] & 0x80:
        if data[at] in _SECRET_KEY_PACKETS:
            return True
        at = _end_of_packet(data, at)
    return False


def _end_of_packet(data: bytes, at: int) -> int:
    """Return where an OpenPGP packet ends, or -1 if its length is not definite."""
    first, second = data[at], data[at + 1 : at + 2] or b"\0"
    if not first & 0x40:
        width = 1 << (first & 3)
        return at + 1 + width + int.from_bytes(data[at + 1 : at + 1 + width]) if width < 8 else -1
    if second < b"\xc0":
        return at + 2 + second[0]
    if second < b"\xe0":
        return at + 3 + ((second[0] - 192) << 8) + 192 + int.from_bytes(data[at + 2 : at + 3])
    return at + 6 + int.from_bytes(data[at + 2 : at + 6]) if second == b"\xff" else -1


def _known_otherwise(data: bytes) -> str:
    """Return a message about a common kind of file that people mistake for a key; "" for any other file."""
    if data[0:1] and data[0] in _PUBLIC_KEY_PACKETS:
        return "it holds an OpenPGP public key; a secret key is needed"
    if data.startswith(_JKS_MAGIC):
        return "it is a Java keystore in the form JKS: keytool -importkeystore -deststoretype pkcs12 converts it"
    if data.startswith(b"PuTTY-User-Key-File"):
        return "it is a key of PuTTY: puttygen -O private-openssh converts it"
    if data.startswith((b"ssh-", b"ecdsa-sha2-")):
        return _PUBLIC
    return ""


def _element(data: bytes, at: int) -> tuple[int, int, int]:
    """Return the tag of a DER element, where its content starts, and where it ends; tag -1 past the end."""
    header = data[at : at + 6]
    if len(header) < 2:
        return -1, at, at
    length_bytes = header[1] & 0x7F if header[1] & 0x80 else 0
    inside = at + 2 + length_bytes
    length = int.from_bytes(header[2 : 2 + length_bytes]) if length_bytes else header[1]
    return header[0], inside, inside + length
