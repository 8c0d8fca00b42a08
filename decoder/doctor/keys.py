"""The keys directory: who can read it, and what opens in it."""

from __future__ import annotations

import os
import stat

from decoder.doctor.finding import Finding
from decoder.errors import KeyFileError
from decoder.keys.directory import add_directory
from decoder.keys.keyring import Keyring

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def examine(directory: str, findings: list[Finding]) -> None:
    """Look at a keys directory and at each key in it.

    Args:
        directory: what `--decryption-keys-path` names.
        findings: takes what was found.
    """
    subject = f"keys directory {directory}"
    try:
        status = os.stat(directory)
        os.listdir(directory)
    except FileNotFoundError:
        findings.append(Finding("warning", subject, "it does not exist", f"install -d -m 700 {directory}"))
        return
    except PermissionError as error:
        findings.append(Finding("error", subject, f"{error.strerror}", "run the doctor as root"))
        return
    except OSError as error:
        findings.append(Finding("error", subject, f"{error.strerror}", "name a directory"))
        return
    _check_access(directory, status, subject, findings)
    keys = Keyring()
    add_directory(keys, directory)
    _describe(keys, subject, findings)


def _check_access(directory: str, status: os.stat_result, subject: str, findings: list[Finding]) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid not in (0, os.geteuid()):
        text = f"it belongs to the user {status.st_uid}, who can put keys there"
        findings.append(Finding("error", subject, text, f"chown root {directory}"))
    if mode & _OTHERS:
        text = f"its mode is {mode:04o}: others can look into it"
        findings.append(Finding("error", subject, text, f"chmod 700 {directory}"))
    else:
        findings.append(Finding("ok", subject, f"mode {mode:04o}"))


def _describe(keys: Keyring, subject: str, findings: list[Finding]) -> None:
    for key in keys.private:
        try:
            key.load()
        except KeyFileError as error:
            findings.append(Finding("error", subject, f"{key.name} does not open: {error}", _remedy(str(error))))
        else:
            findings.append(Finding("ok", subject, key.describe()))
    kinds = (("certificate", keys.certificates), ("OpenPGP keys", keys.pgp), ("PKCS#11 key", keys.pkcs11))
    for kind, materials in kinds:
        findings.extend(Finding("ok", subject, f"{material.name} ({kind})") for material in materials)
    remedy = "remove it, if it is not meant to be a key"
    findings.extend(Finding("warning", subject, warning, remedy) for warning in keys.notes.warnings)
    if not (keys.private or keys.pgp or keys.pkcs11 or keys.notes.warnings):
        text = "no key is in it: layers open with a keyprovider, or a key that the client sends, alone"
        findings.append(Finding("warning", subject, text, "put a private key there, mode 600, unless that is meant"))


def _remedy(reason: str) -> str:
    if "password" in reason:
        return "put its passphrase beside it, in a file of its name and .pass, mode 600"
    return "see what `openssl pkey -noout -in FILE` says"
