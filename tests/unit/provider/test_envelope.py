"""Envelopes: one key-encryption key for all layers of an image."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from decoder import provider
from decoder.errors import ProviderFailedError
from decoder.formats import wire
from decoder.keywrap import asking, deny, keyprovider
from decoder.keywrap.keyprovider import KeyProvider
from decoder.layer.annotations import WrappedKey
from decoder.provider import envelope
from decoder.provider.client.config import Configured, NativeProvider
from decoder.provider.client.held import Held
from decoder.provider.errors import KeyRefusedError, NoKekServiceError, ProviderError
from decoder.provider.keks import Keks
from tests.support.image import images
from tests.support.image.command import done, image, oci
from tests.support.keywrap.layers import encrypted, private_options
from tests.support.provider.client_parts import NAME, PLAINTEXT, configuration, decrypt, unwrap
from tests.support.provider.serving import Server, ask, request_of, result_of, write_command, write_key
from tests.support.services.transit import Transit

if TYPE_CHECKING:
    from decoder.provider.audit import Provider

LAYERS = 21
LOOPBACK = ("--listen", "127.0.0.1:0")


@pytest.fixture
def transit(monkeypatch: pytest.MonkeyPatch) -> Iterator[Transit]:
    monkeypatch.setenv("BAO_TOKEN", "token-of-the-test")
    with Transit() as running:
        yield running


def layout_of(tmp_path: Path, layers: int) -> images.Layout:
    tars = [images.tar_of({f"file{number}": b"%d" % number}) for number in range(layers)]
    return images.write_layers(tmp_path / "image", [images.packed(tar, images.TAR) for tar in tars])


@pytest.fixture
def layout(tmp_path: Path) -> images.Layout:
    return layout_of(tmp_path, LAYERS)


def native(transit: Transit, **options: Any) -> dict[str, Any]:
    return {"native": "openbao", "address": transit.url, "key": "layers", **options}


def formats_of(directory: Path) -> list[str]:
    """Read the format of each wrapped key of an image."""
    (manifest,) = json.loads((directory / "index.json").read_bytes())["manifests"]
    layers = json.loads((directory / "blobs" / manifest["digest"].replace(":", "/")).read_bytes())["layers"]
    texts = [layer["annotations"][f"org.opencontainers.image.enc.keys.provider.{NAME}"] for layer in layers]
    return [json.loads(base64.b64decode(text))["wrap_type"] for text in texts]


# -- the format


def sealed(key_url: str = "local://a", options: bytes = b"options") -> tuple[bytes, bytes]:
    kek = envelope.new_kek()
    return kek, envelope.seal(kek, "local", json.dumps({"key_url": key_url}).encode(), options)


def test_what_is_sealed_opens() -> None:
    kek, annotation = sealed()
    letter = envelope.parse(annotation)
    assert letter
    assert (letter.provider, letter.key_url) == ("local", "local://a")
    assert envelope.open_with(kek, letter) == b"options"


@pytest.mark.parametrize("member", ["provider", "iv", "wrapped_data"])
def test_what_was_changed_does_not_open(member: str) -> None:
    kek, annotation = sealed()
    members = json.loads(annotation)
    text = members[member]
    members[member] = ("A" if text[0] != "A" else "B") + text[1:]
    letter = envelope.parse(json.dumps(members).encode())
    assert letter
    with pytest.raises(ProviderError, match="one of them was changed"):
        envelope.open_with(kek, letter)


def test_another_name_than_that_of_the_wrapped_key_is_refused() -> None:
    """Deny rules and policies look at the name."""
    _, annotation = sealed()
    with pytest.raises(ProviderError, match="names another key"):
        envelope.parse(annotation.replace(b'"key_url":"local://a"', b'"key_url":"local://b"'))


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"iv": "AAAA"}, "wrong length"),
        ({"wrapped_data": ""}, "wrong length"),
        ({"wrapped_key": "AAAA"}, "malformed"),
        ({"wrapped_key": 7}, "malformed"),
        ({"provider": []}, "malformed"),
    ],
)
def test_malformed(members: dict[str, object], text: str) -> None:
    _, annotation = sealed()
    with pytest.raises(ProviderError, match=text):
        envelope.parse(json.dumps({**json.loads(annotation), **members}).encode())


@pytest.mark.parametrize("data", [b"", b"ctd-kek/1", b'{"wrap_type":"AES","x":"ctd-kek/1"}', b'["ctd-kek/1"]'])
def test_what_is_not_an_envelope(data: bytes) -> None:
    assert envelope.parse(data) is None


def test_deny_rules_see_the_key() -> None:
    _, annotation = sealed()
    item = WrappedKey("org.opencontainers.image.enc.keys.provider.x", 0, wire.encode_base64(annotation))
    assert "local://a" in list(deny._key_ids(item))


# -- the provider


@pytest.fixture
def local(tmp_path: Path) -> Provider:
    return provider.create("local", {"key": str(write_key(tmp_path / "a"))})


def test_a_key_encryption_key_is_not_taken_for_private_options(local: Provider) -> None:
    kek = envelope.new_kek()
    letter = envelope.parse(local.perform("wrap-kek", kek, []))
    assert letter
    assert local.perform("unwrap-kek", letter.wrapped_kek, []) == kek
    with pytest.raises(ProviderError, match="not private options"):
        local.unwrap(letter.wrapped_kek, [])
    with pytest.raises(ProviderError, match="not a key-encryption key"):
        local.perform("unwrap-kek", local.wrap(b"options", []), [])
    with pytest.raises(ProviderError, match="in different ways"):
        local.wrap(kek, [])
    with pytest.raises(ProviderError, match="in different ways"):
        local.perform("wrap-kek", b"options", [])


def test_an_envelope_of_another_provider_is_refused(local: Provider) -> None:
    kek = envelope.new_kek()
    letter = envelope.parse(local.perform("wrap-kek", kek, []))
    assert letter
    with pytest.raises(ProviderError, match="belongs to the provider 'awskms', not local"):
        local.unwrap(envelope.seal(kek, "awskms", letter.wrapped_kek, b"options"), [])


def test_policies_and_the_audit_come_before_what_is_kept(transit: Transit) -> None:
    options = {name: value for name, value in native(transit).items() if name != "native"}
    keks, lines = Keks(60), list[str]()
    allowed = provider.create("openbao", options, lines.append, keks)
    kek = envelope.new_kek()
    letter = envelope.parse(allowed.perform("wrap-kek", kek, []))
    assert letter
    annotation = envelope.seal(kek, "openbao", letter.wrapped_kek, b"options")
    for _ in range(3):
        assert allowed.unwrap(annotation, []) == b"options"
    assert transit.calls == ["encrypt", "decrypt"]
    assert [json.loads(line)["key"] for line in lines] == ["openbao://transit/layers"] * 4
    narrower = provider.create("openbao", {**options, "allow-key": ["openbao://other/*"]}, lines.append, keks)
    with pytest.raises(KeyRefusedError):
        narrower.unwrap(annotation, [])
    with pytest.raises(KeyRefusedError, match="not one that was asked for"):
        allowed.unwrap(annotation, ["other"])
    assert json.loads(lines[-1])["reason"] == "refused"


def test_what_is_kept_does_not_outlive_the_configuration(transit: Transit, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("one")
    options = {**native(transit), "token-file": str(token)}
    del options["native"]
    keks = Keks(60)
    kek = envelope.new_kek()
    letter = envelope.parse(provider.create("openbao", options).perform("wrap-kek", kek, []))
    assert letter
    annotation = envelope.seal(kek, "openbao", letter.wrapped_kek, b"options")
    kept = provider.create("openbao", options, keks=keks)
    for _ in range(2):
        assert kept.unwrap(annotation, []) == b"options"
    assert transit.calls.count("decrypt") == 1
    token.write_text("another")
    assert kept.unwrap(annotation, []) == b"options"
    assert transit.calls.count("decrypt") == 2
    other = provider.create("openbao", {**options, "namespace": "team"}, keks=keks)
    assert other.unwrap(annotation, []) == b"options"
    assert transit.calls.count("decrypt") == 3


# -- whole images


def test_an_image_costs_one_call_to_encrypt_and_one_to_decrypt(
    transit: Transit, layout: images.Layout, tmp_path: Path
) -> None:
    config = configuration(tmp_path, {NAME: native(transit)})
    target = f"oci:{tmp_path}/encrypted:tag"
    options = ("--keyprovider-config", config)
    done("encrypt", "--recipient", f"provider:{NAME}", *options, oci(layout), target)
    assert transit.calls == ["encrypt"]
    assert formats_of(tmp_path / "encrypted") == ["ctd-kek/1"] * LAYERS
    done("decrypt", "--key", f"provider:{NAME}", *options, target, f"oci:{tmp_path}/decrypted:tag")
    assert transit.calls == ["encrypt", "decrypt"]


def test_the_old_format_is_written_when_asked_for_and_read(
    transit: Transit, layout: images.Layout, tmp_path: Path
) -> None:
    config = configuration(tmp_path, {NAME: native(transit)})
    target = f"oci:{tmp_path}/encrypted:tag"
    options = ("--keyprovider-config", config)
    done("encrypt", "--packet-format", "old", "--recipient", f"provider:{NAME}", *options, oci(layout), target)
    assert transit.calls == ["encrypt"] * LAYERS
    assert formats_of(tmp_path / "encrypted") == ["TRANSIT"] * LAYERS
    done("decrypt", "--key", f"provider:{NAME}", *options, target, f"oci:{tmp_path}/decrypted:tag")
    assert transit.calls.count("decrypt") == LAYERS


def test_the_new_format_is_refused_where_the_provider_does_not_have_it(tmp_path: Path) -> None:
    layout = layout_of(tmp_path, 3)  # the provider is a new process for each
    command = write_command(tmp_path / "provider", "--provider", "local", "--key", write_key(tmp_path / "key"))
    config = configuration(tmp_path, {NAME: {"cmd": {"path": str(command)}}})
    encrypt = ("encrypt", "--recipient", f"provider:{NAME}", "--keyprovider-config", config)
    refused = image(*encrypt, "--packet-format", "new", oci(layout), f"oci:{tmp_path}/encrypted:tag")
    assert refused.status == 6
    assert "only our own providers" in refused.errors
    done(*encrypt, oci(layout), f"oci:{tmp_path}/encrypted:tag")
    assert formats_of(tmp_path / "encrypted") == ["AES"] * 3


def test_through_a_server_the_key_service_is_asked_once(
    transit: Transit, layout: images.Layout, tmp_path: Path
) -> None:
    options = ("--provider", "openbao", "--address", transit.url, "--key", "layers")
    with Server(tmp_path, *options, *LOOPBACK) as server:
        config = configuration(tmp_path, {NAME: {"grpc": server.target}})
        target = f"oci:{tmp_path}/encrypted:tag"
        done("encrypt", "--recipient", f"provider:{NAME}", "--keyprovider-config", config, oci(layout), target)
        assert transit.calls == ["encrypt"]
        assert formats_of(tmp_path / "encrypted") == ["ctd-kek/1"] * LAYERS
        wrapped = KeyProvider(NAME, config).wrap(private_options(), [])
        for _ in range(3):  # as a node without an agent does: each layer asks the server, and the server asks once
            assert decrypt(config, encrypted(PLAINTEXT, {f"provider.{NAME}": [wrapped]})) == (0, PLAINTEXT, "")
        assert transit.calls == ["encrypt", "encrypt", "decrypt"]
        assert [line["operation"] for line in server.audit] == ["wrap-kek"] * 2 + ["unwrap-kek"] * 3
        assert {line["address"].partition(":")[0] for line in server.audit} == {"ipv4"}


def test_a_server_opens_envelopes_for_clients_that_do_not_know_them(transit: Transit, tmp_path: Path) -> None:
    """As the reference's: it hands the server the annotation as it is."""
    options = ("--provider", "openbao", "--address", transit.url, "--key", "layers")
    with Server(tmp_path, *options, *LOOPBACK) as server:
        config = configuration(tmp_path, {NAME: {"grpc": server.target}})
        keys = KeyProvider(NAME, config)
        wrapped = [keys.wrap(private_options(), []) for _ in range(3)]
        command = write_command(tmp_path / "provider", *options)
        for entry in ({"cmd": {"path": str(command)}}, {"native": "openbao", "address": transit.url, "key": "layers"}):
            assert unwrap(configuration(tmp_path, {NAME: entry}), wrapped[0]) == private_options()
        transit.asked.clear()
        with grpc.insecure_channel(server.target) as channel:
            for each in wrapped:
                assert result_of(ask(channel, "UnWrapKey", request_of("keyunwrap", each))) == private_options()
        assert transit.calls == ["decrypt"]


def test_an_older_server_is_asked_layer_by_layer(
    transit: Transit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prelude = """
import decoder.provider.client.grpc
decoder.provider.client.grpc.KEK_SERVICE = "unknown"
"""
    options = ("--provider", "openbao", "--address", transit.url, "--key", "layers")
    with Server(tmp_path, *options, *LOOPBACK, prelude=prelude) as server:
        config = configuration(tmp_path, {NAME: {"grpc": server.target}})
        keys = KeyProvider(NAME, config)
        wrapped = [keys.wrap(private_options(), []) for _ in range(2)]
        assert [json.loads(each)["wrap_type"] for each in wrapped] == ["TRANSIT"] * 2
        letter = KeyProvider(NAME, configuration(tmp_path, {NAME: native(transit)})).wrap(private_options(), [])
        config = configuration(tmp_path, {NAME: {"grpc": server.target}})
        assert unwrap(config, letter) == private_options()  # it was not asked for the key, but for the options


def test_formats_without_room_stay_as_they_are(tmp_path: Path) -> None:
    entry = Configured("x", NativeProvider("attestation-agent", {}))
    with pytest.raises(NoKekServiceError, match="cannot hold key-encryption keys"):
        asking.ask(entry, "keywrap", envelope.new_kek(), [], is_kek=True)
    for name, suits in (("gcpkms", False), ("attestation-agent", False), ("awskms", True), ("local", True)):
        assert keyprovider._suits_keks(Configured("x", NativeProvider(name, {}))) == suits


def test_a_server_keeps_the_format_of_other_programs(tmp_path: Path) -> None:
    """Guests read packets; what they could not read is not written for them."""
    key = write_key(tmp_path / "key")
    options = ("--provider", "attestation-agent", "--keys", tmp_path)
    with Server(tmp_path, *options, *LOOPBACK) as server:
        parameter = f"keyid=kbs:///default/keys/one::keypath={key}"
        config = configuration(tmp_path, {NAME: {"grpc": server.target}})
        packet = KeyProvider(NAME, config).wrap(private_options(), [parameter.encode()])
        assert "kid" in json.loads(packet)
        with pytest.raises(ProviderFailedError, match="no methods for key-encryption keys"):
            KeyProvider(NAME, config, packet_format="new").wrap(private_options(), [parameter.encode()])


def test_one_run_of_a_client_keeps_what_a_server_opened(transit: Transit, tmp_path: Path) -> None:
    options = ("--provider", "openbao", "--address", transit.url, "--key", "layers")
    with Server(tmp_path, *options, *LOOPBACK) as server:
        config = configuration(tmp_path, {NAME: {"grpc": server.target}})
        keys = KeyProvider(NAME, config)
        (entry,) = keys._configured(config, keys._notes)
        held = Held(60, Keks(60))
        for _ in range(5):
            wrapped = keys.wrap(private_options(), [])
            assert asking.ask(entry, "keyunwrap", wrapped, [], held) == private_options()
        assert [line["operation"] for line in server.audit] == ["wrap-kek", "unwrap-kek"]
