"""Check the keys directories: who can read them, and which keys in them can be used."""

from __future__ import annotations

import os
import shlex
import stat
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from decoder import limits
from decoder.doctor.finding import Finding
from decoder.errors import DecoderError, KeyFileError, NoPasswordError
from decoder.keys.file import PASSWORD_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from decoder.doctor.host import Host
    from decoder.keys.file import KeyMaterial
    from decoder.keys.keyring import Keyring
    from decoder.keys.privatekey import PrivateKey

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def check(node: Host) -> Iterator[Finding]:
    """Check each keys directory and each key in it."""
    for directory in node.keys_directories:
        yield from _examine(directory, node.place(directory), node.keys[directory])


def _examine(directory: str, place: str, keys: Keyring) -> Iterator[Finding]:
    subject = f"keys directory {directory}"
    try:
        status = os.stat(place)
        os.listdir(place)
    except FileNotFoundError:
        yield Finding("note", subject, "it does not exist", f"install -d -m 700 {shlex.quote(directory)}")
        return
    except PermissionError as error:
        yield Finding("error", subject, f"{error.strerror}", "run the doctor as root")
        return
    except OSError as error:
        yield Finding("error", subject, f"{error.strerror}", "name a directory")
        return
    yield from _check_access(directory, status, subject)
    yield from _check_files(directory, place, not status.st_mode & _OTHERS, subject)
    for key in keys.private:
        yield _try_private(key, subject)
    for material in keys.pgp:
        yield from _try_pgp(material, subject)
    for material in keys.pkcs11:
        yield _try_pkcs11(material, subject)
    for material in keys.certificates:
        yield _check_certificate(material, keys, subject)
    for warning in keys.notes.warnings:
        if "chmod" not in warning and "chown" not in warning:  # _check_files names the file
            yield Finding("warning", subject, warning, "remove the file, if it is not meant to be a key")


def _check_access(directory: str, status: os.stat_result, subject: str) -> Iterator[Finding]:
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid not in (0, os.geteuid()):
        text = f"it belongs to the user {status.st_uid}, who can put keys there"
        yield Finding("error", subject, text, f"chown root {shlex.quote(directory)}")
    if mode & _OTHERS:
        text = f"its mode is {mode:04o}: others can list it"
        yield Finding("error", subject, text, f"chmod 700 {shlex.quote(directory)}")
    else:
        yield Finding("ok", subject, f"mode {mode:04o}")


def _check_files(directory: str, place: str, is_closed: bool, subject: str) -> Iterator[Finding]:
    """Check who else can read the files; one that only the directory protects yields a note."""
    for folder, _, names in os.walk(place):
        for name in sorted(names):
            path = os.path.join(folder, name)
            shown = directory + path.removeprefix(place)
            try:
                status = os.stat(path)
                with open(path, "rb") as file:
                    is_secret = name.endswith(PASSWORD_SUFFIX) or b"PRIVATE KEY" in file.read(limits.KEY_FILE_BYTES)
            except OSError:
                continue
            if status.st_uid not in (0, os.geteuid()):
                text = f"{shown} belongs to the user {status.st_uid}"
                yield Finding("error", subject, text, f"chown root {shlex.quote(shown)}")
            mode = stat.S_IMODE(status.st_mode)
            if not mode & _OTHERS or not is_secret:
                continue
            remedy = f"chmod 600 {shlex.quote(shown)}"
            if name.endswith(PASSWORD_SUFFIX):
                text = f"the passphrase {shown} is not used: its mode is {mode:04o}, and others could read it"
                yield Finding("error", subject, text, remedy)
            elif is_closed:
                yield Finding(
                    "note", subject, f"only the directory keeps others from reading {shown} ({mode:04o})", remedy
                )
            else:
                yield Finding("error", subject, f"others can read the key {shown}: its mode is {mode:04o}", remedy)


def _try_private(key: PrivateKey, subject: str) -> Finding:
    try:
        key.load()
    except KeyFileError as error:
        return Finding("error", subject, f"{key.name} does not open: {_reason(error)}", _remedy(key, str(error)))
    return Finding("ok", subject, key.describe())


def _reason(error: KeyFileError) -> str:
    """Return why a key does not open, without the advice about its password, which the remedy of a finding gives."""
    return error.reason if isinstance(error, NoPasswordError) else str(error)


def _remedy(key: PrivateKey, reason: str) -> str:
    passphrase = shlex.quote(key.file + PASSWORD_SUFFIX) if key.file else f"FILE{PASSWORD_SUFFIX}"
    if os.path.exists(key.file + PASSWORD_SUFFIX) and "password" in reason:
        return f"correct the passphrase in {passphrase}, then chmod 600 {passphrase}"
    if "password" in reason:
        return f"write its passphrase into {passphrase}, then chmod 600 {passphrase}"
    return f"run openssl pkey -noout -in {shlex.quote(key.file)} to see why" if key.file else "replace the key"


def _try_pgp(material: KeyMaterial, subject: str) -> Iterator[Finding]:
    from decoder.keywrap.pgp.secretkey import find_secret_keys, unlock

    try:
        found = find_secret_keys(material)
    except KeyFileError as error:
        yield Finding("error", subject, f"{material.name} (OpenPGP): {error}", "export a secret key that can decrypt")
        return
    for key in found:
        try:
            unlock(key)
        except KeyFileError as error:
            passphrase = shlex.quote(material.file + PASSWORD_SUFFIX)
            remedy = f"write the right passphrase into {passphrase}, then chmod 600 {passphrase}"
            yield Finding("error", subject, f"{key.describe()} does not open: {_reason(error)}", remedy)
        else:
            yield Finding("ok", subject, f"{key.describe()}, OpenPGP")


def _try_pkcs11(material: KeyMaterial, subject: str) -> Finding:
    """Check the file and find its module; the token is not used, because wrong PINs may lock it."""
    from decoder.keywrap.pkcs11.config import find_module, node_config
    from decoder.keywrap.pkcs11.keyfile import parse_key_file

    try:
        module = find_module(parse_key_file(material.data).uri, node_config())
    except DecoderError as error:
        return Finding("error", subject, f"{material.name} (PKCS#11): {error}", "correct the file or ocicrypt.conf")
    return Finding("ok", subject, f"{material.name} (PKCS#11, module {module})")


def _check_certificate(material: KeyMaterial, keys: Keyring, subject: str) -> Finding:
    from cryptography import x509

    from decoder.formats.certificates import UNREADABLE
    from decoder.keys.formats import pem

    name = f"{material.name} (certificate)"
    try:
        load = x509.load_pem_x509_certificate if pem.BEGIN in material.data else x509.load_der_x509_certificate
        certificate = load(material.data)
        public, end = certificate.public_key(), certificate.not_valid_after_utc
    except UNREADABLE as error:
        return Finding("error", subject, f"{name} cannot be read: {error}", "replace it")
    if not any(public == _public(key) for key in keys.private):
        text = f"{name}: its private key is not in the directory, and without it the certificate opens nothing"
        return Finding("warning", subject, text, "put the private key beside it")
    if end < datetime.now(UTC):
        text = f"{name} expired on {end:%Y-%m-%d}: layers still open, but clients may refuse to encrypt for it"
        return Finding("warning", subject, text, "get a new certificate for the key")
    return Finding("ok", subject, f"{name}, valid until {end:%Y-%m-%d}")


def _public(key: PrivateKey) -> object:
    try:
        return key.load().public_key()
    except KeyFileError:
        return None
