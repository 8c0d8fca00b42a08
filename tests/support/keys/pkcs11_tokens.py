"""SoftHSM tokens made for a test, in a directory of their own, and key files that point to them."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from functools import cache
from pathlib import Path
from urllib.parse import quote

from decoder.keys.file import KeyMaterial
from decoder.keys.keyring import DecryptConfig, Keyring

PIN = "2468-secret"
SO_PIN = "1357-secret"
_MODULES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/lib/pkcs11/libsofthsm2.so",
)
_SECONDS = 60
# What a token object of SoftHSM 2 keeps its flags under (CKA_OS_TOKENFLAGS), before a kind and eight bytes.
_FLAGS_ATTRIBUTE = bytes.fromhex("000000008000534b0000000000000002")


@cache
def softhsm() -> str:
    """Find SoftHSM's module; where it is not installed, which unit tests allow, return where it would be."""
    return next((path for path in _MODULES if Path(path).exists()), _MODULES[0])


class TokenStore:
    """A directory of SoftHSM tokens.

    Args:
        directory: an empty one; it also takes what openssl makes.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.configuration = directory / "softhsm2.conf"
        self._tokens = directory / "tokens"
        self._tokens.mkdir()
        self.configuration.write_text(f"directories.tokendir = {self._tokens}\nlog.level = ERROR\n")

    def run(self, *arguments: str | Path) -> str:
        """Run a program that sees these tokens."""
        environment = {**os.environ, "SOFTHSM2_CONF": str(self.configuration)}
        done = subprocess.run(arguments, env=environment, check=True, capture_output=True, timeout=_SECONDS)
        return done.stdout.decode()

    def add_token(self, label: str, pin: str = PIN) -> None:
        self.run("softhsm2-util", "--init-token", "--free", "--label", label, "--pin", pin, "--so-pin", SO_PIN)

    def add_key(self, token: str, label: str, key_id: str, bits: int, *options: str) -> None:
        """Have openssl make an RSA key, LABEL.pem and LABEL.pub.pem, and import it; with options of softhsm2-util."""
        private = self.directory / f"{label}.pem"
        self.run("openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", f"rsa_keygen_bits:{bits}", "-out", private)
        self.run("openssl", "pkey", "-in", private, "-pubout", "-out", self.directory / f"{label}.pub.pem")
        self.run(
            "softhsm2-util",
            "--import",
            private,
            "--token",
            token,
            "--pin",
            PIN,
            "--label",
            label,
            "--id",
            key_id,
            *options,
        )

    def public(self, label: str) -> bytes:
        return (self.directory / f"{label}.pub.pem").read_bytes()

    def encrypt(self, label: str, text: bytes, hash_name: str) -> bytes:
        """Have openssl encrypt with RSA-OAEP."""
        return self._pkeyutl("-encrypt", "-pubin", f"{label}.pub.pem", text, _oaep(hash_name))

    def decrypt(self, label: str, blob: bytes, hash_name: str) -> bytes:
        """Have openssl decrypt with RSA-OAEP."""
        return self._pkeyutl("-decrypt", "-decrypt", f"{label}.pem", blob, _oaep(hash_name))

    def decrypt_bare(self, label: str, blob: bytes) -> bytes:
        """Have openssl do the bare RSA operation, which leaves the padding."""
        return self._pkeyutl("-decrypt", "-decrypt", f"{label}.pem", blob, ["rsa_padding_mode:none"])

    def _pkeyutl(self, operation: str, kind: str, key: str, data: bytes, options: list[str]) -> bytes:
        (self.directory / "in").write_bytes(data)
        arguments = [part for option in options for part in ("-pkeyopt", option)]
        files = ("-inkey", self.directory / key, "-in", self.directory / "in", "-out", self.directory / "out")
        self.run("openssl", "pkeyutl", operation, kind, *map(str, files), *arguments)
        return (self.directory / "out").read_bytes()

    def flags(self, label: str) -> int:
        """Read the flags of a token (PKCS#11 §3.2, CK_TOKEN_INFO) from where SoftHSM keeps them."""
        data = self._file(label).read_bytes()
        at = data.index(_FLAGS_ATTRIBUTE) + len(_FLAGS_ATTRIBUTE)
        return int.from_bytes(data[at : at + 8])

    def set_flags(self, label: str, flags: int) -> None:
        """Put the token into a state that takes several wrong PINs on other tokens; SoftHSM never locks by itself."""
        data = self._file(label).read_bytes()
        at = data.index(_FLAGS_ATTRIBUTE) + len(_FLAGS_ATTRIBUTE)
        self._file(label).write_bytes(data[:at] + flags.to_bytes(8) + data[at + 8 :])

    def serial(self, label: str) -> str:
        lines = self.run("softhsm2-util", "--show-slots").splitlines()
        at = next(number for number, line in enumerate(lines) if line.split() == ["Label:", label])
        return next(line.split()[-1] for line in reversed(lines[:at]) if "Serial number" in line)

    def slot(self, label: str) -> str:
        lines = self.run("softhsm2-util", "--show-slots").splitlines()
        at = next(number for number, line in enumerate(lines) if line.split() == ["Label:", label])
        return next(line.split()[1] for line in reversed(lines[:at]) if line.startswith("Slot "))

    def yaml(self, path: str, query: str | None = None) -> bytes:
        """Write a key file; without a query it has SoftHSM's module-path and the PIN."""
        if query is None:
            query = f"module-path={softhsm()}&pin-value={quote(PIN)}"
        uri = f"pkcs11:{path}" + (f"?{query}" if query else "")
        return f'pkcs11:\n  uri: "{uri}"\nmodule:\n  env:\n    SOFTHSM2_CONF: {self.configuration}\n'.encode()

    def _file(self, label: str) -> Path:
        padded = label.encode().ljust(32)
        return next(path for path in self._tokens.glob("*/token.object") if padded in path.read_bytes())


def keys_of(*key_files: bytes, config: bytes | None = None) -> DecryptConfig:
    """Make the keys that a payload brings."""
    keyring = Keyring()
    keyring.pkcs11 = [KeyMaterial(f"pkcs11-yamls[{number}]", data) for number, data in enumerate(key_files)]
    return DecryptConfig(keyring, {} if config is None else {"pkcs11-config": [config]})


def wrapped_to_nobody() -> bytes:
    """Write a wrapped key of the right form, whose key nobody has."""
    blob = base64.b64encode(bytes(256)).decode()
    return json.dumps({"version": 0, "recipients": [{"version": 0, "blob": blob, "hash": "sha256"}]}).encode()


def _oaep(hash_name: str) -> list[str]:
    return ["rsa_padding_mode:oaep", f"rsa_oaep_md:{hash_name}", f"rsa_mgf1_md:{hash_name}"]
