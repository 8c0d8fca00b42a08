"""Wrapped keys without integrity protection: an attacker who changes them learns nothing from the failure."""

from __future__ import annotations

import json
import os
import random
import tempfile
from pathlib import Path
from typing import Any, cast

import pytest

from decoder import api, decrypt, keywrap
from decoder.errors import DecoderError, KeyProviderError, NoKeyError, StreamError
from decoder.formats import wire
from decoder.keys.keyring import DecryptConfig
from decoder.keywrap import jwe, pkcs7
from decoder.keywrap.kid import parse_kid
from decoder.keywrap.unproven import Unproven, UnprovenError
from decoder.layer import annotations as layers
from decoder.provider.services.coco.packet import build_packet, seal
from tests.support.keywrap import pkcs7_writer as writer
from tests.support.keywrap.layers import (
    Layer,
    MemoryFile,
    encrypted,
    pem,
    private_options,
    public_pem,
    rsa_key,
    sink_of,
    source_of,
)
from tests.support.keywrap.pkcs7_parts import keys_of, somebody
from tests.support.program.onelayer import fails, run_layer
from tests.support.program.processes import payload_bytes

OPTIONS = private_options()
PLAINTEXT = os.urandom(50_000)
BLOCK = 16
LETTER_AT = len('{"symkey":"')  # in the first block, which the IV changes
KID, KEK = "default/key/1", bytes(range(32))


def cbc(options: bytes = OPTIONS, key: Any = None) -> bytes:
    padding = BLOCK - len(options) % BLOCK
    return writer.enveloped(writer.cbc_parts(key or somebody().key, options + bytes([padding]) * padding))


def flipped(data: bytes, at: int, bits: int = 1) -> bytes:
    return data[:at] + bytes([data[at] ^ bits]) + data[at + 1 :]


def tampered() -> list[bytes]:
    """Change the IV, the content and the content key of a CMS message."""
    wrapped, chance = cbc(), random.Random(18)
    iv, share = wrapped.index(writer.IV), wrapped.index(writer.IV) - 300
    found = [flipped(wrapped, iv + LETTER_AT + number % 5, 1 + number % 3) for number in range(40)]
    found += [flipped(wrapped, iv + number % BLOCK, 1 << number % 8) for number in range(80)]
    found += [
        flipped(wrapped, len(wrapped) - 1 - chance.randrange(len(OPTIONS)), 1 << number % 8) for number in range(80)
    ]
    found += [flipped(wrapped, share + chance.randrange(200), 1 << number % 8) for number in range(40)]
    found += [cbc(b"{}"), cbc(b"x" * 60), cbc(private_options(nonce=b"short"))]
    return [each for each in found if is_tried(each)]


def is_tried(wrapped: bytes) -> bool:
    """Leave out what everybody can see to be malformed."""
    try:
        return opened_by_somebody(wrapped) is not None
    except DecoderError:
        return False


def opened_by_somebody(wrapped: bytes) -> bytes | Unproven | None:
    return pkcs7.unwrap(wrapped, DecryptConfig(keys_of(somebody().key)), lambda *_: None)


def is_well_formed(wrapped: bytes) -> bool:
    """Check whether it still opens to private options: what nobody may learn."""
    opened = opened_by_somebody(wrapped)
    return isinstance(opened, Unproven) and opened.options() is not None


def outcome(layer: Layer, key: Any = None, config: str = "", ciphertext: bytes = b"") -> tuple[object, str, bytes]:
    """Decrypt a layer in this process; return the kind of failure, its message, and what came out."""
    keys = {"privkeys": [pem(key or somebody().key)], "privkeys-passwords": [b""]}
    settings = decrypt.Settings(
        "", config, 65536, open_spool=lambda: cast("Any", MemoryFile()), look_up=cast("Any", NotImplemented)
    )
    sink, source = MemoryFile(), source_of(ciphertext or layer.ciphertext)
    try:
        decrypt.decrypt_layer(payload_bytes(layer.descriptor, keys), source, sink_of(sink), settings)
    except DecoderError as error:
        return (type(error), error.status), str(error), sink.getvalue()
    return None, "", sink.getvalue()


def with_hmac(layer: Layer, hmac: bytes) -> Layer:
    annotations = {**layer.descriptor["annotations"]}
    annotations[layers.PUBLIC_OPTIONS] = layers.build_annotations(hmac, {})[layers.PUBLIC_OPTIONS]
    return layer._replace(descriptor={**layer.descriptor, "annotations": annotations})


def test_nothing_tells_a_wrong_key_malformed_options_and_a_wrong_hmac_apart() -> None:
    layer = encrypted(PLAINTEXT, {"pkcs7": [cbc()]})
    assert outcome(layer) == (None, "", PLAINTEXT)
    changed = tampered()
    assert {is_well_formed(each) for each in changed} == {True, False}
    assert len(changed) > 150
    outcomes = {outcome(encrypted(PLAINTEXT, {"pkcs7": [each]})) for each in changed}
    outcomes.discard((None, "", PLAINTEXT))  # the letter case of a name was changed, which means nothing
    outcomes.add(outcome(layer, ciphertext=flipped(layer.ciphertext, 7)))
    outcomes.add(outcome(layer, ciphertext=flipped(layer.ciphertext, -1)))
    outcomes.add(outcome(layer, key=rsa_key()))
    outcomes.add(outcome(with_hmac(layer, bytes(32))))
    assert len(outcomes) == 1, outcomes
    ((kind, message, released),) = outcomes
    assert kind == (UnprovenError, 5)
    assert message.startswith("the layer is damaged or not authentic, or no key opens this layer\n")
    assert "it has no integrity protection that could tell" in message
    assert "keys to try: 1 private key" in message
    assert released == b""


def test_a_public_nonce_does_not_ask_for_the_private_one() -> None:
    layer = encrypted(PLAINTEXT, {"pkcs7": [cbc()]})
    annotations = dict(layer.descriptor["annotations"])
    options = json.loads(wire.decode_base64(annotations[layers.PUBLIC_OPTIONS]))
    options["cipheroptions"] = {"nonce": wire.encode_base64(bytes(16))}
    annotations[layers.PUBLIC_OPTIONS] = wire.encode_base64(json.dumps(options).encode())
    with_nonce = layer._replace(descriptor={**layer.descriptor, "annotations": annotations})
    assert outcome(with_nonce) == outcome(encrypted(PLAINTEXT, {"pkcs7": [cbc(b"{}")]}))


def test_what_is_changed_hides_nothing_that_opens() -> None:
    """If it did, a layer would open or not with what the changed one opens to."""
    good = {"jwe": [jwe.wrap(OPTIONS, [public_pem(somebody().key)])]}
    for each in tampered()[::9]:
        assert outcome(encrypted(PLAINTEXT, {**good, "pkcs7": [each]})) == (None, "", PLAINTEXT)
        assert outcome(encrypted(PLAINTEXT, {"pkcs7": [each, cbc()]})) == (None, "", PLAINTEXT)
        assert outcome(encrypted(PLAINTEXT, {"pkcs7": [cbc(), each]})) == (None, "", PLAINTEXT)


def test_a_key_that_is_not_tried_is_no_question() -> None:
    """Sizes and types are public: such keys are told from wrong ones, as those of other schemes are."""
    layer = encrypted(PLAINTEXT, {"pkcs7": [cbc()]})
    kind, message, _ = outcome(layer, key=rsa_key(3072))
    assert kind == (NoKeyError, 4)
    assert "it is not a recipient's key" in message


def test_the_program_says_the_same() -> None:
    keys = {"privkeys": [pem(somebody().key)], "privkeys-passwords": [b""]}
    good, malformed, well_formed = cbc(), cbc(b"{}"), flipped(cbc(), cbc().index(writer.IV) + LETTER_AT, 2)
    assert is_well_formed(well_formed)
    assert run_layer(encrypted(PLAINTEXT, {"pkcs7": [good]}), parameters=keys).plaintext == PLAINTEXT
    results = {run_layer(encrypted(PLAINTEXT, {"pkcs7": [each]}), parameters=keys) for each in (malformed, well_formed)}
    (result,) = results
    fails(result, 5, "the layer is damaged or not authentic, or no key opens this layer")
    assert result.plaintext == b""


def test_no_caller_gets_a_key_that_is_not_proven() -> None:
    config = DecryptConfig(keys_of(somebody().key))
    for options in (OPTIONS, b"{}"):
        annotations = encrypted(PLAINTEXT, {"pkcs7": [cbc(options)]}).descriptor["annotations"]
        with pytest.raises(UnprovenError, match="no integrity protection"):
            keywrap.unwrap_any(annotations, config)


def test_the_library_says_the_same() -> None:
    config = DecryptConfig(keys_of(somebody().key))

    def opened(layer: Layer) -> tuple[str, bytes]:
        sink = MemoryFile()
        key = api.open_layer_key(layer.descriptor["mediaType"], layer.descriptor["annotations"], config)
        try:
            api.decrypt_layer(cast("Any", MemoryFile(layer.ciphertext)), cast("Any", sink), key)
        except DecoderError as error:
            return str(error), sink.getvalue()
        return "", sink.getvalue()

    good = encrypted(PLAINTEXT, {"pkcs7": [cbc()]})
    changed = [each for number, each in enumerate(tampered()) if number % 9 == 0 or number % 80 < 5]
    assert {is_well_formed(each) for each in changed} == {True, False}
    outcomes = {opened(encrypted(PLAINTEXT, {"pkcs7": [each]})) for each in changed} - {("", PLAINTEXT)}
    outcomes.add(opened(with_hmac(good, bytes(32))))
    ((message, released),) = outcomes
    assert message.startswith("the layer is damaged or not authentic, or no key opens this layer\n")
    assert released == b""
    for each in changed[::5]:
        assert opened(encrypted(PLAINTEXT, {"pkcs7": [each, cbc()]})) == ("", PLAINTEXT)


def test_the_library_has_no_room_for_the_ciphertext(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = encrypted(PLAINTEXT, {"pkcs7": [cbc()]})
    annotations = layer.descriptor["annotations"]
    key = api.open_layer_key(layer.descriptor["mediaType"], annotations, DecryptConfig(keys_of(somebody().key)))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    with pytest.raises(StreamError, match="the spool file: No such file or directory"):
        api.decrypt_layer(cast("Any", MemoryFile(layer.ciphertext)), cast("Any", MemoryFile()), key)


# Packets of Confidential Containers with A256CTR, where the configuration allows them.


def test_packets_with_ctr_fail_alike(tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({KID: wire.encode_base64(KEK)}))
    config = tmp_path / "keyproviders.json"
    entry = {"native": "attestation-agent", "source": [f"offline:{keys}"], "allow-a256ctr": True}
    config.write_text(json.dumps({"key-providers": {"attestation-agent": entry}}))

    def layer_with(options: bytes, key: bytes = KEK) -> Layer:
        packet = build_packet(seal(parse_kid(f"kbs:///{KID}"), key, options, "A256CTR"))
        return encrypted(PLAINTEXT, {"provider.attestation-agent": [packet]})

    good = layer_with(OPTIONS)
    assert outcome(good, config=str(config)) == (None, "", PLAINTEXT)
    failures = [
        layer_with(OPTIONS, bytes(32)),
        layer_with(b"{}"),
        layer_with(private_options(symmetric_key=bytes(32))),
        with_hmac(good, bytes(32)),
    ]
    ((kind, message, released),) = {outcome(failure, config=str(config)) for failure in failures}
    assert (kind, released) == ((UnprovenError, 5), b"")
    assert "no integrity protection" in message


def test_ctr_only_where_it_is_allowed(tmp_path: Path) -> None:
    """A packet with A256GCM that was turned into one with A256CTR is refused, although the key would open it."""
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({KID: wire.encode_base64(KEK)}))
    config = tmp_path / "keyproviders.json"
    entry = {"native": "attestation-agent", "source": [f"offline:{keys}"]}
    config.write_text(json.dumps({"key-providers": {"attestation-agent": entry}}))
    packet = seal(parse_kid(f"kbs:///{KID}"), KEK, OPTIONS)
    turned = packet._replace(
        wrapped_data=packet.wrapped_data[:-16], iv=packet.iv + bytes([0, 0, 0, 2]), wrap_type="A256CTR"
    )
    for each, expected in ((packet, None), (turned, (KeyProviderError, 6))):
        layer = encrypted(PLAINTEXT, {"provider.attestation-agent": [build_packet(each)]})
        kind, message, released = outcome(layer, config=str(config))
        assert kind == expected
    assert released == b""
    assert "set the option allow-a256ctr" in message
