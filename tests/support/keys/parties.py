"""Who can open an image: recipients and the options that decrypt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tests.support.keys.keypairs import KeyPair

EMAIL = "images@example.com"


class Party(NamedTuple):
    """The recipient to encrypt to, and for each program the options that decrypt."""

    recipient: str
    ours: list[str]
    skopeo: list[str]
    parameters: dict[str, list[bytes]]

    @classmethod
    def jwe(cls, pair: KeyPair) -> Party:
        """Return the party that has this key pair."""
        options = str(pair.private)
        parameters = {"privkeys": [pair.private.read_bytes()], "privkeys-passwords": [b""]}
        return cls(f"jwe:{pair.public}", ["--key", options], ["--decryption-key", options], parameters)

    @classmethod
    def pkcs7(cls, pair: KeyPair, certificate: Path) -> Party:
        """Return the party that has this key pair and a certificate for it."""
        private = str(pair.private)
        return cls(
            f"pkcs7:{certificate}",
            ["--key", private, "--dec-recipient", str(certificate)],
            ["--decryption-key", private, "--decryption-key", str(certificate)],
            {
                "privkeys": [pair.private.read_bytes()],
                "privkeys-passwords": [b""],
                "x509s": [certificate.read_bytes()],
            },
        )
