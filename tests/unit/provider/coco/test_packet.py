"""Packets: those that are read, the one that is written, checked against AES that is not the project's."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from typing import Any

import pytest

from decoder import limits
from decoder.keywrap.kid import ResourceId
from decoder.provider.errors import ProviderError
from decoder.provider.services.coco.packet import HubPacket, build_packet, open_with, parse_packet, seal
from tests.support.coco.packets import broker_packet
from tests.support.keys import independent
from tests.support.keywrap.layers import private_options
from tests.support.keywrap.vectors import COCO_PACKETS

KEY = b64decode(COCO_PACKETS["key"])
OPTIONS = COCO_PACKETS["options"].encode()
V1 = COCO_PACKETS["opens"][0]["packet"]
NGINX = ResourceId("default/image_key/nginx")
IV_BYTES = {"A256GCM": 12, "A256CTR": 16}


def named(cases: list[dict[str, Any]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=[case["name"] for case in cases])


def text(packet: dict[str, Any]) -> bytes:
    return json.dumps(packet).encode()


@named(COCO_PACKETS["opens"])
def test_vectors_that_open(case: dict[str, Any]) -> None:
    packet = broker_packet(text(case["packet"]))
    assert packet.kid == NGINX
    assert open_with(KEY, packet) == OPTIONS


@named(COCO_PACKETS["fails"])
def test_vectors_that_do_not(case: dict[str, Any]) -> None:
    with pytest.raises(ProviderError) as caught:
        parse_packet(text(case["packet"]))
    assert str(caught.value).startswith(case["why"])


@named(COCO_PACKETS["hub"])
def test_vectors_that_only_a_hub_opens(case: dict[str, Any]) -> None:
    members = case["packet"]
    packet = parse_packet(text(members))
    assert packet == HubPacket(members["provider"], members["kid"])
    assert packet.key_name == f"{members['provider']}:{members['kid']}"
    wrongs: list[dict[str, Any]] = [
        {"provider": "a/b"},
        {"provider": "x" * 65},
        {"kid": ""},
        {"kid": "k" * 1025},
        {"annotations": []},
    ]
    for wrong in wrongs:
        with pytest.raises(ProviderError, match=r"^the packet is malformed"):
            parse_packet(text({**members, **wrong}))


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"1", b"\xff", b"[" * 100_000])
def test_what_is_no_object(data: bytes) -> None:
    with pytest.raises(ProviderError, match=r"^the packet is malformed: "):
        parse_packet(data)


def test_sizes() -> None:
    for size, fits in ((limits.PRIVATE_OPTIONS_BYTES + 16, True), (limits.PRIVATE_OPTIONS_BYTES + 17, False)):
        packet = text({**V1, "wrapped_data": b64encode(bytes(size)).decode()})
        if fits:
            assert len(broker_packet(packet).wrapped_data) == size
            continue
        with pytest.raises(ProviderError, match=f"its wrapped_data has {size} bytes$"):
            parse_packet(packet)
    filled = text({**V1, "comment": ""})
    filled = filled[:-2] + b"x" * (limits.PROVIDER_ANNOTATION_BYTES - len(filled)) + filled[-2:]
    assert parse_packet(filled).kid == NGINX
    with pytest.raises(ProviderError, match=f"^the packet is longer than {limits.PROVIDER_ANNOTATION_BYTES} bytes$"):
        parse_packet(filled + b" ")


@pytest.mark.parametrize("algorithm", IV_BYTES)
def test_what_is_written(algorithm: str) -> None:
    written = build_packet(seal(NGINX, KEY, OPTIONS, algorithm))
    members = json.loads(written)
    assert list(members) == ["kid", "wrapped_data", "iv", "wrap_type"]
    assert json.dumps(members, separators=(",", ":")).encode() == written
    assert (members["kid"], members["wrap_type"]) == ("kbs:///default/image_key/nginx", algorithm)
    iv, data = (b64decode(members[name], validate=True) for name in ("iv", "wrapped_data"))
    assert len(iv) == IV_BYTES[algorithm]
    opened = independent.gcm_open(KEY, iv, data) if algorithm == "A256GCM" else independent.ctr(KEY, iv, data)
    assert opened == OPTIONS
    assert open_with(KEY, broker_packet(written)) == OPTIONS


@pytest.mark.parametrize("algorithm", IV_BYTES)
def test_no_iv_is_used_twice(algorithm: str) -> None:
    assert len({seal(NGINX, KEY, OPTIONS, algorithm).iv for _ in range(100)}) == 100


@pytest.mark.parametrize("algorithm", IV_BYTES)
def test_another_key_and_a_changed_packet(algorithm: str) -> None:
    packet = seal(NGINX, KEY, OPTIONS, algorithm)
    changed = bytes([packet.wrapped_data[0] ^ 1]) + packet.wrapped_data[1:]
    other_iv = bytes([packet.iv[0] ^ 1]) + packet.iv[1:]
    for key, tried in (
        (bytes(32), packet),
        (KEY, packet._replace(wrapped_data=changed)),
        (KEY, packet._replace(iv=other_iv)),
    ):
        with pytest.raises(ProviderError, match=r"^the packet was not wrapped with this key, or was changed$"):
            open_with(key, tried)


@pytest.mark.parametrize("size", [0, 16, 31, 33, 64])
def test_keys_of_other_lengths(size: int) -> None:
    with pytest.raises(ProviderError, match=f"^it has {size} bytes, not the 32 of a key$"):
        open_with(bytes(size), broker_packet(text(V1)))


def test_the_options_that_the_tests_use_are_private_options() -> None:
    """A256CTR is told from garbage by them."""
    assert private_options() == OPTIONS
