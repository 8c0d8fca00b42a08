"""A home of gpg, and keys from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.keys.pgp_home import GnupgHome
from tests.support.keywrap.pgp_parts import PASSPHRASE, secret

if TYPE_CHECKING:
    from collections.abc import Iterator

    from decoder.keys.file import KeyMaterial


@pytest.fixture(scope="module")
def home() -> Iterator[GnupgHome]:
    home = GnupgHome()
    try:
        home.make_key("Rsa Key (work) <rsa@example.com>", "rsa")
        home.make_key("rsa-locked@example.com", "rsa", PASSPHRASE)
        home.make_key("Curve Key <cv@example.com>", "cv", PASSPHRASE)
        home.make_key("cv-open@example.com", "cv")
        yield home
    finally:
        home.close()


@pytest.fixture(scope="module")
def rsa_secret(home: GnupgHome) -> KeyMaterial:
    return secret(home, "rsa")
