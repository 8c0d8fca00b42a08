"""Wrap and unwrap with the scheme pgp, for tests."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, NamedTuple

from decoder.keys.file import KeyMaterial
from decoder.keys.keyring import DecryptConfig, Keyring
from decoder.keywrap import pgp
from tests.support.keywrap.layers import private_options

if TYPE_CHECKING:
    from decoder.errors import Describable
    from tests.support.keys.pgp_home import GnupgHome

ANNOTATION = "org.opencontainers.image.enc.keys.pgp"


OPTIONS = private_options()


PASSPHRASE = "correct horse \u00e9"


PASSWORDS = {"cv": PASSPHRASE, "rsa-locked": PASSPHRASE}


class Opened(NamedTuple):
    """What came out, and the keys that did not fit, as the error message would name them."""

    plaintext: bytes | None
    refusals: list[str]


def unwrap(wrapped: bytes, *materials: KeyMaterial) -> Opened:
    refusals: list[str] = []

    def refused(key: Describable, reason: str) -> None:
        refusals.append(f"{key.describe()}: {reason}")

    keys = Keyring()
    keys.pgp += materials
    return Opened(pgp.unwrap(wrapped, DecryptConfig(keys), refused), refusals)


def secret(home: GnupgHome, name: str, *options: str) -> KeyMaterial:
    password = PASSWORDS.get(name, "")
    data = home.secret(f"{name}@example.com", *options, passphrase=password)
    return KeyMaterial(f"{name}.gpg", data, password.encode())


def mutated(source: bytes, dice: random.Random) -> bytes:
    data = bytearray(source)
    for _ in range(dice.choice((1, 1, 2, 5))):
        at = dice.randrange(len(data) or 1)
        match dice.randrange(6) if data else 4:
            case 0 | 1:
                data[at] ^= 1 << dice.randrange(8)
            case 2:
                data[at] = dice.randrange(256)
            case 3:
                del data[at : at + dice.randrange(1, 9)]
            case 4:
                data[at:at] = dice.randbytes(dice.randrange(1, 9))
            case 5:
                del data[max(1, at) :]
    return bytes(data)
