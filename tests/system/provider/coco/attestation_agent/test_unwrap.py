"""The keyprovider attestation-agent: unwrapping."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any

import pytest

from decoder.errors import UsageError
from decoder.provider.errors import ProviderError
from tests.support.keywrap.layers import Layer, encrypted
from tests.support.keywrap.vectors import COCO_PACKETS

if TYPE_CHECKING:
    from pathlib import Path
from tests.support.coco.attestation_parts import (
    KEY,
    KID,
    NAME,
    NOBODY_LISTENS,
    OPTIONS,
    agent,
    decrypt,
    opened,
    wrapped,
)

PLAINTEXT = bytes(range(256)) * 100


def layer_of(packet: bytes) -> Layer:
    return encrypted(PLAINTEXT, {f"provider.{NAME}": [packet]})


# -- unwrapping


@pytest.mark.parametrize("case", COCO_PACKETS["opens"], ids=[case["name"] for case in COCO_PACKETS["opens"]])
def test_every_packet_with_the_installed_program(tmp_path: Path, case: dict[str, Any]) -> None:
    path = tmp_path / "resources.json"
    path.write_text(json.dumps({"default/image_key/nginx": COCO_PACKETS["key"]}))
    layer = layer_of(json.dumps(case["packet"]).encode())
    entry: dict[str, Any] = {"native": NAME, "source": [f"offline:{path}"]}
    if "ctr" in str(case["packet"]["wrap_type"]).lower():
        result = decrypt(tmp_path, layer, entry)
        assert (result.status, result.plaintext) == (6, b"")
        assert "encrypt the image with A256GCM, or set the option allow-a256ctr" in result.errors
        entry["allow-a256ctr"] = True
    assert decrypt(tmp_path, layer, entry) == (0, PLAINTEXT, "")


def test_a_packet_turned_into_ctr_opens_nothing(source: str, keypath: Path, tmp_path: Path) -> None:
    """A256GCM is A256CTR with a tag: without it, who changes the annotation would learn the layer key bit by bit."""
    packet = wrapped(f"keyid={KID}::keypath={keypath}")
    iv, data = b64decode(packet["iv"]), b64decode(packet["wrapped_data"])
    turned = {
        **packet,
        "wrap_type": "A256CTR",
        "iv": b64encode(iv + bytes([0, 0, 0, 2])).decode(),
        "wrapped_data": b64encode(data[:-16]).decode(),
    }
    assert opened(turned, KEY) == OPTIONS
    result = decrypt(tmp_path, layer_of(json.dumps(turned).encode()), {"native": NAME, "source": [source]})
    assert (result.status, result.plaintext) == (6, b"")


@pytest.mark.parametrize("algorithm", ["A256GCM", "A256CTR"])
def test_the_sample_key_opens_nothing_unless_allowed(tmp_path: Path, algorithm: str) -> None:
    layer = layer_of(json.dumps(wrapped(f"sample=true::algorithm={algorithm}")).encode())
    entry: dict[str, Any] = {"native": NAME, "allow-a256ctr": True}
    result = decrypt(tmp_path, layer, entry)
    assert (result.status, result.plaintext) == (6, b"")
    assert "the image was made with the sample key, which everybody knows" in result.errors
    assert decrypt(tmp_path, layer, {**entry, "allow-sample-key": True}) == (0, PLAINTEXT, "")
    for value in ("true", 1, None):
        result = decrypt(tmp_path, layer, {**entry, "allow-sample-key": value})
        assert "the option allow-sample-key of the provider attestation-agent must be true or false" in result.errors


def test_a_key_of_ones_own_may_have_the_id_of_the_sample_key(tmp_path: Path, keypath: Path) -> None:
    (tmp_path / "resources.json").write_text(json.dumps({"default/test-key/1": b64encode(KEY).decode()}))
    layer = layer_of(json.dumps(wrapped(f"keyid=kbs:///default/test-key/1::keypath={keypath}")).encode())
    entry = {"native": NAME, "source": [f"offline:{tmp_path}/resources.json"]}
    assert decrypt(tmp_path, layer, entry) == (0, PLAINTEXT, "")


@pytest.mark.parametrize("case", COCO_PACKETS["fails"], ids=[case["name"] for case in COCO_PACKETS["fails"]])
def test_packets_that_cannot_be_read(source: str, case: dict[str, Any]) -> None:
    with pytest.raises(ProviderError) as caught:
        agent(source=[source]).unwrap(json.dumps(case["packet"]).encode(), [])
    assert str(caught.value).startswith(case["why"])


def test_the_program_says_why_not(tmp_path: Path, keypath: Path) -> None:
    layer = layer_of(json.dumps(wrapped(f"keyid={KID}::keypath={keypath}")).encode())
    (tmp_path / "resources.json").write_text(json.dumps({"default/image_key/nginx": b64encode(bytes(32)).decode()}))
    sources = [f"repository:{tmp_path}", f"offline:{tmp_path}/resources.json", f"kbs:{NOBODY_LISTENS}"]
    result = decrypt(tmp_path, layer, {"native": NAME, "source": sources, "tee": "sample"})
    assert (result.status, result.plaintext) == (6, b"")
    assert result.errors.count("\n") == 2
    for text, reason in zip(sources, ("it has no such resource", "not wrapped with this key", ""), strict=True):
        assert f"source {text}, kid {KID}: " in result.errors
        assert reason in result.errors
    assert "Traceback" not in result.errors


def test_what_unwraps_nothing(tmp_path: Path, keypath: Path) -> None:
    layer = layer_of(json.dumps(wrapped(f"keyid={KID}::keypath={keypath}")).encode())
    for entry, reason in (
        ({"native": NAME}, f"the key {KID} cannot be fetched: no source is configured"),
        ({"native": NAME, "source": ["vault:x"]}, "its configuration: the source 'vault' is not one of repository:DIR"),
        ({"native": NAME, "source": ["repository:/"] * 17}, "its configuration: there are more than 16 sources"),
        ({"native": NAME, "sources": []}, "its configuration: the provider attestation-agent has no option 'sources'"),
        ({"native": NAME, "kbs-claim": ["a=b"]}, "its configuration: the options kbs-auth-key, kbs-admin-token-file"),
        (
            {"native": NAME, "source": [f"repository:{tmp_path}"], "allow-key": ["kbs:///guest/*"]},
            f"the key '{KID}' does not match any allow-key",
        ),
    ):
        result = decrypt(tmp_path, layer, entry)
        assert (result.status, result.plaintext) == (6, b"")
        assert reason in result.errors


def test_parameters_of_clients(keypath: Path, source: str) -> None:
    packet = agent().wrap(OPTIONS, [f"keyid={KID}::keypath={keypath}"])
    provider = agent(source=[source])
    for parameters in (
        [],
        ["Enabled"],
        ["cc_kbc::https://broker.example"],
        [f"keyid={KID}"],
        ["keyid=kbs:///a/b/c", f"keyid={KID}"],
    ):
        assert provider.unwrap(packet, parameters) == OPTIONS
    with pytest.raises(ProviderError, match=rf"^the key {KID} is not one that was asked for$"):
        provider.unwrap(packet, ["keyid=kbs:///a/b/c"])


def test_options_that_are_wrong() -> None:
    with pytest.raises(UsageError, match="is not one of repository:DIR"):
        agent(source="nothing")
