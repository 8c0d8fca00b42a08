"""PKCS#11 key files and wrapped keys that are damaged."""

from __future__ import annotations

import os
import random

import pytest

from decoder import limits
from decoder.errors import WrappedKeyError
from decoder.keywrap import pkcs11
from decoder.keywrap.pkcs11 import oaep as pkcs11_oaep
from tests.support.keys.pkcs11_tokens import PIN, TokenStore
from tests.support.keywrap.pkcs11_parts import SMALL, reason, recipient, unwrap, wrapped_json

# Bad input.


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no pkcs11 uri"),
        (b"pkcs11: {}", "no pkcs11 uri"),
        (b'pkcs11: {uri: "pkcs11:?pin-value=\\ud800"}', "no pkcs11 uri"),
        (b'{pkcs11: {uri: "pkcs11:"}, module: {env: {A: "\\ud800"}}}', "something other than NAME: text"),
        (b"pkcs11: text", "its pkcs11 is not a mapping"),
        (b"pkcs11: {uri: [a]}", "no pkcs11 uri"),
        (b"- a", "its content is not a mapping"),
        (b"[" * 10_000, "more than 256 brackets"),
        (b"[" * 256, "not YAML"),
        (b"\xff\xfe\xff", "not YAML"),
        (b"- " * 8000, "not YAML"),
        (b"? [a]\n: b", "not YAML"),
        (b"a: *b", "not YAML"),
        (b"!!python/object/apply:os.system [id]", "its content is not a mapping"),
        (b"pkcs11: {uri: a}\n#" + b"x" * limits.PKCS11_YAML_BYTES, "longer than 16384 bytes"),
        (b"pkcs11: {uri: 'http:'}", "does not start with pkcs11:"),
        (b"pkcs11: {uri: 'pkcs11:token'}", "malformed or occurs twice"),
        (b"pkcs11: {uri: 'pkcs11:token=a;token=b'}", "malformed or occurs twice"),
        (b"pkcs11: {uri: 'pkcs11:token=%4'}", "broken percent-encoding"),
        (b"pkcs11: {uri: 'pkcs11:token=%zz'}", "broken percent-encoding"),
        (b"pkcs11: {uri: 'pkcs11:token=%ff'}", "not UTF-8"),
        (b"pkcs11: {uri: 'pkcs11:token=%00'}", "NUL"),
        (b"pkcs11: {uri: 'pkcs11:slot-id=-1'}", "slot-id in its URI is not a number"),
        (b"pkcs11: {uri: 'pkcs11:slot-id=" + b"9" * 5000 + b"'}", "slot-id in its URI is not a number"),
        (b"pkcs11: {uri: 'pkcs11:?pin-value=1&pin-source=/a'}", "both a pin-value and a pin-source"),
        (b"{pkcs11: {uri: 'pkcs11:'}, module: {env: [a]}}", "its module env is not a mapping"),
        (b"{pkcs11: {uri: 'pkcs11:'}, module: {env: {A: [b]}}}", "something other than NAME: text"),
        (b"{pkcs11: {uri: 'pkcs11:'}, module: {env: {A=B: c}}}", "something other than NAME: text"),
        (b"{pkcs11: {uri: 'pkcs11:'}, module: {env: {LD_PRELOAD: /a.so}}}", "dynamic loader"),
    ],
)
def test_bad_key_files(small_sha1: bytes, content: bytes, message: str) -> None:
    assert message in reason(small_sha1, content)


def test_one_usable_recipient_is_enough(store: TokenStore) -> None:
    usable = recipient(store.encrypt("small", b"options", "sha1"))
    wrapped = wrapped_json(recipient(b""), {"blob": "?"}, recipient(bytes(SMALL), "md5"), usable)
    assert unwrap(wrapped, store.yaml("token=layers;object=small")) == (b"options", [])


def test_mutations(store: TokenStore) -> None:
    """Every mutation is refused or not opened; a sample of those that are well-formed gets as far as the token."""
    original = pkcs11.wrap(b"options", [store.public("small"), store.public("large")])
    key_file = store.yaml("token=layers;object=small")
    seeded = random.Random(11)
    outcomes: dict[str, list[bytes]] = {"malformed": [], "well-formed": []}
    for _ in range(10_000):
        mutated = _mutated(original, seeded)
        try:
            opened, reasons = unwrap(mutated, b"{}")  # a key file that points nowhere
        except WrappedKeyError:
            outcomes["malformed"].append(mutated)
        else:
            outcomes["well-formed"].append(mutated)
            assert (opened, len(reasons)) == (None, 1)
    assert len(outcomes["malformed"]) > 3000
    assert len(outcomes["well-formed"]) > 1000
    for mutated in seeded.sample(outcomes["well-formed"], 30):
        opened, reasons = unwrap(mutated, key_file)
        assert opened == b"options" or len(reasons) == 1


def test_mutations_of_key_files(store: TokenStore, small_sha1: bytes) -> None:
    original = store.yaml(
        "token=layers;object=small;id=%01", f"module-name=softhsm2&pin-source=/nothing&pin-value={PIN}"
    )
    seeded = random.Random(12)
    for _ in range(1000):
        assert reason(small_sha1, _mutated(original, seeded), config=b"allowed-module-paths: [/nothing/]")


def _mutated(data: bytes, seeded: random.Random) -> bytes:
    at = seeded.randrange(len(data))
    other = seeded.randrange(len(data))
    match seeded.randrange(6):
        case 0:
            return data[:at]
        case 1:
            return data[:at] + bytes([seeded.randrange(256)]) + data[at + 1 :]
        case 2:
            return data[:at] + seeded.randbytes(3) + data[at:]
        case 3:
            return data[: min(at, other)] + data[max(at, other) :]
        case 4:
            return data.replace(b'"', b"", at % 4 + 1)
        case _:
            token = seeded.choice([b"null", b"0", b"-1", b"[]", b"{}", b'"sha256"', b"1e999", b"true"])
            parts = data.split(b":")
            parts[seeded.randrange(1, len(parts))] = token + b"}"
            return b":".join(parts)


@pytest.mark.parametrize(("hash_name", "size"), [("sha1", 20), ("sha256", 32)])
def test_oaep_padding_is_removed_only_when_it_is_whole(store: TokenStore, hash_name: str, size: int) -> None:
    """Encoded messages are what openssl's bare RSA operation gives; any changed bit of one must be refused."""
    for length in (0, 1, 100, SMALL - 2 * size - 2):
        text = os.urandom(length)
        encoded = store.decrypt_bare("small", store.encrypt("small", text, hash_name))
        assert pkcs11_oaep.unpad(encoded, hash_name) == text
        for at in range(0, len(encoded), 5):
            changed = encoded[:at] + bytes([encoded[at] ^ 1 << at % 8]) + encoded[at + 1 :]
            assert is_refused(changed, hash_name)
    for short in (b"", bytes(2 * size + 1), bytes(2 * size + 2), bytes(SMALL), b"\xff" * SMALL):
        assert is_refused(short, hash_name)


def is_refused(encoded: bytes, hash_name: str) -> bool:
    try:
        pkcs11_oaep.unpad(encoded, hash_name)
    except ValueError:
        return True
    return False
