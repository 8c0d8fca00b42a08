"""Key pairs, from openssl or from the library cryptography, and images that skopeo encrypts to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.support.image import images
from tests.support.image.command import run
from tests.support.image.images import Layout
from tests.support.keywrap.layers import ec_key, pem, public_pem, rsa_key

_GENERATE = {
    "rsa2048": ["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
    "rsa4096": ["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:4096"],
    "p256": ["ecparam", "-genkey", "-noout", "-name", "prime256v1"],  # a SEC1 file
    "p384": ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:secp384r1"],
    "p521": ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:secp521r1"],
}


class KeyPair(NamedTuple):
    """The files of a key pair, as openssl wrote them."""

    private: Path
    public: Path


Encrypt = Callable[[Layout, list[str]], Layout]


def make_pairs(directory: Path) -> dict[str, KeyPair]:
    """Let openssl write a key pair of each kind to a directory."""
    pairs = {}
    for name, arguments in _GENERATE.items():
        pair = pairs[name] = KeyPair(directory / f"{name}.pem", directory / f"{name}.pub.pem")
        run("openssl", *arguments, "-out", pair.private)
        run("openssl", "pkey", "-in", pair.private, "-pubout", "-out", pair.public)
    return pairs


def generate(directory: Path) -> dict[str, KeyPair]:
    """Write a key pair of each kind to a directory, without another program."""
    made: dict[str, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey] = {
        "rsa2048": rsa_key(2048),
        "rsa4096": rsa_key(4096),
        "p256": ec_key(ec.SECP256R1),
        "p384": ec_key(ec.SECP384R1),
        "p521": ec_key(ec.SECP521R1),
    }
    pairs = {}
    for name, key in made.items():
        pair = pairs[name] = KeyPair(directory / f"{name}.pem", directory / f"{name}.pub.pem")
        pair.private.write_bytes(pem(key))
        pair.public.write_bytes(public_pem(key))
    return pairs


def encrypt(layout: Layout, target: Path, public_keys: list[Path]) -> Layout:
    """Let skopeo encrypt an image to public keys."""
    options = [option for key in public_keys for option in ("--encryption-key", f"jwe:{key}")]
    run(
        "skopeo",
        "--insecure-policy",
        "copy",
        "--dest-oci-accept-uncompressed-layers",  # otherwise skopeo compresses them first
        *options,
        f"oci:{layout.directory}:{images.NAME}",
        f"oci:{target}:{images.NAME}",
    )
    return Layout(target)
