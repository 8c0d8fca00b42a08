"""PKCS#7: inputs that were damaged, or made to hurt."""

from __future__ import annotations

import random
import tracemalloc
from contextlib import suppress
from typing import Any

import pytest

from decoder import limits
from decoder.errors import KeyFileError, WrappedKeyError
from decoder.keys.keyring import DecryptConfig
from decoder.keywrap import pkcs7
from decoder.keywrap.pkcs7 import cms
from decoder.keywrap.unproven import Unproven
from tests.support.keywrap import pkcs7_writer as writer
from tests.support.keywrap.pkcs7_parts import (
    OPTIONS,
    Somebody,
    keys_of,
    pem_of,
    somebody,
    unwrap,
)
from tests.support.keywrap.pkcs7_recipients import CMS, as_the_reference
from tests.support.keywrap.pkcs7_writer import der

# Whatever else comes.


STRUCTURE_BYTES = b"\0\1\2\4\5\6\x10\x20\x24\x30\x31\x7f\x80\x81\x82\xa0\xa1\xff"


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Change, cut, repeat or insert a few bytes, most often where the structure is."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        at = chance.randrange(len(changed) or 1)
        match chance.randrange(7):
            case 0 | 1:
                changed[at : at + 1] = chance.choice(STRUCTURE_BYTES).to_bytes()
            case 2:
                changed[at : at + 1] = chance.randbytes(1)
            case 3:
                del changed[at : at + chance.choice((1, 2, 20))]
            case 4:
                changed[at:at] = changed[at : at + chance.randrange(40)]
            case 5:
                changed[at:at] = chance.randbytes(chance.randrange(1, 4))
            case _:
                del changed[at : None if chance.random() < 0.3 else at + 1]
    return bytes(changed)


def small() -> Somebody:
    """A key of a size that makes many trials quick."""
    return somebody("small", 1024)


def seeds() -> dict[str, bytes]:
    key = small().key
    parts = writer.gcm_parts(key, OPTIONS)
    padded = OPTIONS + bytes([16 - len(OPTIONS) % 16]) * (16 - len(OPTIONS) % 16)
    oaep = writer.key_transport(key, bytes(32), key_algorithm=writer.oaep())
    return {
        "authenticated": writer.enveloped(parts),
        "indefinite": writer.indefinite(writer.enveloped(parts)),
        "PEM": pem_of(writer.enveloped(parts), "CMS"),
        "reference": writer.enveloped(as_the_reference(parts)),
        "CBC": writer.enveloped(writer.cbc_parts(key, padded)),
        "OAEP": writer.enveloped(parts._replace(recipients=(oaep, *parts.recipients))),
    }


@pytest.mark.parametrize("name", list(seeds()))
def test_mutations_never_crash(name: str) -> None:
    """Whatever they become: refused, not opened, or (only where it means the same) opened."""
    data = seeds()[name]
    keys = keys_of(small().key, certificates=(small().der,))
    chance = random.Random(name)
    refusals, unopened = [], 0
    for _ in range(4000):
        try:
            opened = pkcs7.unwrap(mutated(data, chance), DecryptConfig(keys), lambda _key, _reason: None)
        except WrappedKeyError as error:
            refusals.append(str(error))
            continue
        unopened += opened is None
        if isinstance(opened, Unproven):
            assert name == "CBC"
            unopened += not opened.opened
        else:
            assert opened in (None, OPTIONS)
    assert len(refusals) > 250
    assert unopened > 50
    assert all(reason.startswith("it is not usable CMS: ") for reason in refusals)


@pytest.mark.parametrize("data", [CMS, pkcs7.wrap(OPTIONS, [somebody().der])], ids=["RFC 5083", "reference"])
def test_truncations_never_open(data: bytes) -> None:
    for length in range(len(data)):
        with pytest.raises(WrappedKeyError):
            unwrap(data[:length], somebody().key)


def test_mutated_certificates_never_crash() -> None:
    chance = random.Random(3)
    recipients = pkcs7._acceptable_recipients(cms.parse_envelope(pkcs7.wrap(OPTIONS, [somebody().der])).recipients)
    told: list[str] = []
    for _ in range(5000):
        data = mutated(chance.choice((somebody().der, somebody().certificate)), chance)
        pkcs7._certified_moduli(recipients, keys_of(certificates=(data,)), lambda _key, reason: told.append(reason))
        with suppress(KeyFileError):
            assert pkcs7.wrap(OPTIONS, [data])
    assert len(told) == 5000
    assert 500 < sum("cannot be parsed" in reason for reason in told) < 5000


HEADERS = [b"\x04\x00", b"\x30\x00", b"\xa0\x80", b"\x30\x80\0\0", b"\x24\x82\x03\xe8", b"\x04\x82\xff\xff"]


@pytest.mark.parametrize("header", HEADERS, ids=[header.hex() for header in HEADERS])
def test_the_largest_inputs_take_little_memory(header: bytes) -> None:
    """Each place in turn is filled until the whole has CMS_BYTES."""
    parts = writer.gcm_parts(somebody().key, OPTIONS)
    many = header * ((limits.CMS_BYTES - len(writer.enveloped(parts)) - 100) // len(header))
    places: dict[str, Any] = {
        "originator": der(0xA0, many),
        "recipients": (der(0x30, many), *parts.recipients),
        "algorithm": der(0x30, many),
        "content": der(0xA0, many),
        "attributes": der(0xA1, many),
        "mac": der(0x24, many),
    }
    tracemalloc.start()
    try:
        for place, filling in places.items():
            wrapped = writer.enveloped(parts._replace(**{place: filling}))
            assert limits.CMS_BYTES - 1000 < len(wrapped) <= limits.CMS_BYTES
            with suppress(WrappedKeyError):
                assert unwrap(wrapped, somebody().key)[0] == (OPTIONS if place == "originator" else None)
        assert tracemalloc.get_traced_memory()[1] < 4 * limits.MIB
    finally:
        tracemalloc.stop()
