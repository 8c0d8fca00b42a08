"""A GnuPG home of its own, for keys and messages that gpg makes."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

_SECONDS = 120
_SUBKEYS = {"rsa": "rsa2048", "cv": "cv25519"}


class GnupgHome:
    """A temporary GnuPG home; its path is short, for the agent's socket has its place there."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="gnupg-"))
        # Few rounds for the passphrases: by default there are so many that each takes 0.1 s or more.
        (self.path / "gpg-agent.conf").write_text("s2k-count 65536\n")

    def close(self) -> None:
        """End the agent and remove the home."""
        subprocess.run(["gpgconf", "--homedir", self.path, "--kill", "all"], check=True, timeout=_SECONDS)
        shutil.rmtree(self.path, onerror=_fail_unless_gone)

    def run(self, *arguments: str, stdin: bytes = b"") -> bytes:
        """Run gpg and return its output."""
        command = ["gpg", f"--homedir={self.path}", "--batch", "--pinentry-mode=loopback", "--trust-model=always"]
        result = subprocess.run([*command, *arguments], input=stdin, capture_output=True, timeout=_SECONDS, check=False)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def make_key(self, user_id: str, kind: str, passphrase: str = "", *options: str, expires: str = "never") -> str:
        """Make a key that certifies and signs, with a subkey that encrypts, and return its fingerprint."""
        primary = "ed25519" if kind == "cv" else "rsa2048"
        options = (*options, f"--passphrase={passphrase}")
        self.run(*options, "--quick-gen-key", user_id, primary, "cert,sign", expires)
        fingerprint = self.fingerprints(user_id)[0]
        self.run(*options, "--quick-add-key", fingerprint, _SUBKEYS[kind], "encr", expires)
        return fingerprint

    def fingerprints(self, wanted: str) -> list[str]:
        """List the fingerprints of a key, its subkeys' behind its own."""
        lines = self.run("--with-colons", "--list-keys", wanted).decode().splitlines()
        return [line.split(":")[9] for line in lines if line.startswith("fpr:")]

    def revoke(self, fingerprint: str) -> None:
        """Revoke a key with the certificate that gpg writes beside it, as its text says: without the colon."""
        path = self.path / "openpgp-revocs.d" / f"{fingerprint}.rev"
        self.run("--import", stdin=path.read_bytes().replace(b":-----BEGIN", b"-----BEGIN"))

    def public(self, *wanted: str) -> bytes:
        """Export public keys."""
        return self.run("--export", *wanted)

    def secret(self, wanted: str, *options: str, passphrase: str = "") -> bytes:
        """Export secret keys."""
        return self.run(f"--passphrase={passphrase}", *options, "--export-secret-keys", wanted)

    def encrypt(self, plaintext: bytes, recipient: str, *options: str) -> bytes:
        """Encrypt to a recipient; `--hidden-recipient` may be among the options instead."""
        chosen = [] if "--hidden-recipient" in options else ["--recipient", recipient]
        return self.run(*options, *chosen, "--encrypt", stdin=plaintext)


def _fail_unless_gone(_: object, __: str, error: tuple[type[BaseException], BaseException, object]) -> None:
    """Do not mind that the agent removes its sockets while it ends."""
    if not isinstance(error[1], FileNotFoundError):
        raise error[1]
