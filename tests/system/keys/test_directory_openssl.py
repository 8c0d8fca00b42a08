"""Keys of a directory that openssl describes."""

from __future__ import annotations

from decoder.keys.keyring import Keyring
from tests.support.keywrap.layers import pem, rsa_key

RSA = pem(rsa_key())


def test_a_description_names_type_size_and_fingerprint() -> None:
    import hashlib
    import subprocess

    keys = Keyring()
    keys.add("k", RSA)
    public = subprocess.run(
        ["openssl", "pkey", "-pubout", "-outform", "der"], input=RSA, capture_output=True, check=True
    )
    assert keys.private[0].describe() == f"k (RSA 2048, sha256:{hashlib.sha256(public.stdout).hexdigest()})"
