"""Which wrapped keys are tried first, and how much time and work one layer takes in all."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from decoder import decrypt, keywrap, limits
from decoder.errors import DecoderError, NoKeyError, WrappedKeyError
from decoder.keys import budget as budgets
from decoder.keys.kept import Kept
from decoder.keys.keyring import DecryptConfig, Keyring
from decoder.keywrap import jwe, pkcs7
from decoder.keywrap.keyprovider import KeyProvider
from decoder.layer.payload import Descriptor
from tests.support.keywrap.layers import (
    MEDIA_TYPE,
    Layer,
    MemoryFile,
    encrypted,
    keys_directory,
    pem,
    private_options,
    public_pem,
    rsa_key,
    sink_of,
    source_of,
)
from tests.support.keywrap.pkcs7_parts import somebody
from tests.support.provider.client_parts import configuration, shell
from tests.support.provider.serving import write_key

PLAINTEXT = bytes(range(256)) * 100
OPTIONS = private_options()
OPENED = (PLAINTEXT, "")


class Lookup:
    """What a search in containerd's content store finds, the newest first."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.descriptors = [Descriptor(MEDIA_TYPE, each.descriptor["annotations"], "sha256:1") for each in layers]
        self.warnings: list[str] = []

    def __iter__(self) -> Any:
        return iter(self.descriptors)


def layer_with(**wrapped: list[bytes]) -> Layer:
    return encrypted(PLAINTEXT, {name.replace("_", "."): items for name, items in wrapped.items()})


def jwe_for(*keys: Any) -> bytes:
    return jwe.wrap(OPTIONS, [public_pem(key) for key in keys])


def look_up(layers: Sequence[Layer], directory: Path, config: str = "", kept: Kept | None = None) -> tuple[bytes, str]:
    """Decrypt a layer for which several descriptors are found; return what came out, and the failure."""
    settings = decrypt.Settings(
        str(directory), config, 65536, cast("Any", NotImplemented), lambda _: cast("Any", Lookup(layers))
    )
    sink = MemoryFile()
    try:
        decrypt.decrypt_layer(None, source_of(layers[0].ciphertext), sink_of(sink), settings, kept)
    except DecoderError as error:
        return sink.getvalue(), str(error)
    return sink.getvalue(), ""


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return keys_directory(tmp_path)


def noting(file: Path, then: str) -> dict[str, Any]:
    """A provider that notes each request, and then runs a command."""
    return {**shell(f"echo asked >> {file}; {then}"), "timeout": 5}


def asked(file: Path) -> int:
    return len(file.read_text().splitlines()) if file.exists() else 0


# Order.


def test_keys_on_this_machine_come_before_providers_of_other_descriptors(keys: Path, tmp_path: Path) -> None:
    config = configuration(tmp_path, {"slow": noting(tmp_path / "slow", "sleep 60")})
    layers = [layer_with(provider_slow=[b"%d" % number]) for number in range(3)] + [
        layer_with(jwe=[jwe_for(rsa_key())])
    ]
    assert look_up(layers, keys, config) == OPENED
    assert asked(tmp_path / "slow") == 0


def test_a_provider_whose_key_is_named_comes_first(tmp_path: Path) -> None:
    entry = {"native": "local", "key": str(write_key(tmp_path / "layers"))}
    config = configuration(tmp_path, {"local": entry, "slow": noting(tmp_path / "slow", "sleep 60")})
    wrapped = KeyProvider("local", config).wrap(OPTIONS, [])
    layers = [layer_with(provider_slow=[b"1"]), layer_with(provider_local=[wrapped])]
    assert look_up(layers, tmp_path / "none", config) == OPENED
    assert asked(tmp_path / "slow") == 0
    both = layer_with(provider_local=[wrapped], provider_a=[b"1"])
    config = configuration(tmp_path, {"local": entry, "a": noting(tmp_path / "slow", "sleep 60")})
    assert look_up([both], tmp_path / "none", config) == OPENED
    assert asked(tmp_path / "slow") == 0


def test_what_was_opened_before_comes_first(tmp_path: Path) -> None:
    class Remembering(Kept):
        def has_opened(self, provider: Any, data: bytes, parameters: list[bytes]) -> bool:
            return data == b"old"

    class Answering(Remembering):
        def ask(self, provider: Any, operation: str, data: bytes, parameters: list[bytes]) -> bytes | None:
            return OPTIONS if data == b"old" else None

    config = configuration(tmp_path, {"slow": noting(tmp_path / "slow", "sleep 60")})
    layers = [layer_with(provider_slow=[b"new", b"newer"]), layer_with(provider_slow=[b"new", b"old"])]
    assert look_up(layers, tmp_path / "none", config, Answering()) == OPENED
    assert asked(tmp_path / "slow") == 0


@pytest.mark.parametrize("scheme", ["jwe", "pkcs7"])
def test_a_wrapped_key_that_names_its_recipient_comes_first(
    scheme: str, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the attempts end before it."""
    ours = somebody()
    (keys / "key.pem").write_bytes(pem(ours.key))
    (keys / "certificate.pem").write_bytes(ours.certificate)
    if scheme == "jwe":
        foreign, right = [jwe_for(rsa_key())] * 9, [jwe_for(ours.key)]
    else:
        foreign = [pkcs7.wrap(OPTIONS, [somebody("second").certificate])] * 9
        right = [pkcs7.wrap(OPTIONS, [ours.certificate])]
    monkeypatch.setattr(limits, "UNWRAP_ATTEMPTS", 4)
    assert look_up([encrypted(PLAINTEXT, {scheme: foreign + right})], keys) == OPENED


def test_many_candidates_do_not_starve_the_oldest(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by their number nor by the attempts that each of them asks for."""
    many = limits.STORE_CANDIDATES + 6
    foreign = jwe_for(somebody().key)
    hostile = [layer_with(jwe=[foreign, b"%d" % number]) for number in range(many)]
    assert look_up([*hostile, layer_with(jwe=[jwe_for(rsa_key())])], keys) == OPENED
    greedy = layer_with(jwe=[foreign] * 40)
    monkeypatch.setattr(limits, "UNWRAP_ATTEMPTS", 40)
    monkeypatch.setattr(limits, "UNWRAP_FIRST_ATTEMPTS", 4)
    assert look_up([greedy, layer_with(jwe=[jwe_for(rsa_key())])], keys) == OPENED


# Time and work.


def test_operations_with_private_keys_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each recipient costs one, not each wrapped key."""
    from decoder.keywrap.jwe import opening

    done: list[str] = []

    def content_key(recipient: Any, key: Any) -> bytes:
        done.append(str(recipient.joined["alg"]))
        return b""

    monkeypatch.setattr(opening, "_content_key", content_key)
    monkeypatch.setattr(limits, "UNWRAP_ATTEMPTS", 10)
    keyring = Keyring()
    keyring.add("key", pem(rsa_key()))
    annotations = layer_with(jwe=[jwe_for(*[somebody().key] * 30)]).descriptor["annotations"]
    with pytest.raises(NoKeyError, match="given up: no key opened the layer in 10 attempts"):
        keywrap.unwrap_any(annotations, DecryptConfig(keyring))
    assert len(done) == 10


def test_a_provider_gets_no_more_than_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second call cannot exceed the time of the layer, which is that of the slowest provider and a little more."""
    monkeypatch.setattr(limits, "UNWRAP_EXTRA_SECONDS", 0.5)
    config = configuration(tmp_path, {"slow": {**shell("sleep 60"), "timeout": 1}})
    annotations = layer_with(provider_slow=[b"1", b"2", b"3"]).descriptor["annotations"]
    began = time.monotonic()
    with pytest.raises(NoKeyError) as failure:
        keywrap.unwrap_any(annotations, DecryptConfig(Keyring(), {}, config))
    assert 1.4 < time.monotonic() - began < 30
    text = str(failure.value)
    assert "it did not end within 1 seconds" in text
    assert "given up: no key opened the layer within 2 seconds" in text
    assert "did not end within 0 seconds" not in text


def test_a_call_gets_what_is_left_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(budgets, "monotonic", lambda: now[0])
    budget = budgets.Budget(lambda: 20.0)
    for passed, expected in ((0.0, 20.0), (10.0, 20.0), (10.5, 19.5), (29.9, 0.1)):
        now[0] = 100.0 + passed
        assert budget.seconds(20.0) == expected
    for passed in (29.97, 30.0, 31.0):
        now[0] = 100.0 + passed
        with pytest.raises(WrappedKeyError, match="no key opened the layer within 30 seconds"):
            budget.seconds(20.0)


def test_a_slow_candidate_leaves_time_for_those_that_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "UNWRAP_LEAST_SECONDS", 0.5)
    answer = json.dumps({"keyunwrapresults": {"optsdata": list(OPTIONS)}})
    ways = {"slow": {**shell("sleep 60"), "timeout": 3}, "good": {**shell(f"echo '{answer}'"), "timeout": 3}}
    monkeypatch.setattr(limits, "UNWRAP_EXTRA_SECONDS", 0.0)
    config = configuration(tmp_path, ways)
    layers = [layer_with(provider_slow=[b"%d" % number]) for number in range(3)] + [layer_with(provider_good=[b"1"])]
    assert look_up(layers, tmp_path / "none", config) == OPENED


def test_a_large_candidate_does_not_wait_in_memory(tmp_path: Path) -> None:
    config = configuration(tmp_path, {"bad": shell("exit 1")})
    large = [b"x" * limits.STORE_CANDIDATE_BYTES]
    text = look_up(
        [layer_with(provider_bad=large), layer_with(provider_bad=[*large, b"y"])], tmp_path / "none", config
    )[1]
    assert text.count("it ended with status 1") == 1
