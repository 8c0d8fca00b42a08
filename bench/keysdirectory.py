"""What each file of a keys directory costs, whether it can open the layer or not."""

from __future__ import annotations

import os
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from bench.compare import Row
from decoder.keys.directory import add_directory
from decoder.keys.keyring import DecryptConfig, Keyring
from decoder.keywrap import jwe

_FILES = 200
_KEYS = 20
_ROUNDS = 15


def rows() -> list[Row]:
    """Measure a directory of 200 files, 20 of them RSA-2048 keys, the fitting one last."""
    with TemporaryDirectory() as directory:
        private = _fill(Path(directory))
        public = private[-1].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        wrapped = jwe.wrap(os.urandom(200), [public])
        costs = [_costs(directory, wrapped) for _ in range(_ROUNDS)]
    reading, trying = (median(figures) * 1e3 for figures in zip(*costs, strict=True))
    alone = _rsa_operation(private) * 1e3
    return [
        Row("a file in the keys directory that is no key", "-", f"{reading:.3f} ms", "-", "at most 0.05 ms"),
        Row(
            f"a candidate RSA-2048 key there (its RSA operation alone: {alone:.2f} ms)",
            "-",
            f"{trying:.2f} ms",
            "-",
            "at most 0.7 ms",
        ),
    ]


def _fill(directory: Path) -> list[rsa.RSAPrivateKey]:
    for number in range(_FILES - _KEYS):
        (directory / f"a{number}.txt").write_text("not a key\n" * 100)
    keys = [rsa.generate_private_key(65537, 2048) for _ in range(_KEYS)]
    for number, key in enumerate(keys):
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (directory / f"z{number:02}.pem").write_bytes(pem)
    return keys


def _costs(directory: str, wrapped: bytes) -> tuple[float, float]:
    """Return the seconds that a file takes to be looked at, and a candidate key to be tried."""
    keys = Keyring()
    started = perf_counter()
    add_directory(keys, directory)
    read = perf_counter()
    opened = jwe.unwrap(wrapped, DecryptConfig(keys), lambda _key, _reason: None)
    tried = perf_counter()
    if opened is None or len(keys.private) != _KEYS:
        raise RuntimeError("the fitting key did not open the wrapped key")
    return (read - started) / _FILES, (tried - read) / _KEYS


def _rsa_operation(keys: list[rsa.RSAPrivateKey]) -> float:
    """Return the seconds of one bare private-key operation, on keys that were used before."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding

    oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)  # noqa: S303 - RFC 7518 §4.3
    ciphertexts = [key.public_key().encrypt(b"x", oaep) for key in keys]
    for _ in range(2):
        started = perf_counter()
        for key, ciphertext in zip(keys, ciphertexts, strict=True):
            key.decrypt(ciphertext, oaep)
        seconds = (perf_counter() - started) / len(keys)
    return seconds
