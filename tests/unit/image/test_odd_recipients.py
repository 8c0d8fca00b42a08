"""Layers whose wrapped keys contradict each other, or cannot be rewritten."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from decoder.formats import wire
from decoder.layer.annotations import KEYS_PREFIX
from tests.support.image import layouts
from tests.support.image.command import done, image, oci
from tests.support.image.images import Layout
from tests.support.keywrap import pkcs7_writer as writer
from tests.support.keywrap.layers import private_options, rsa_key

if TYPE_CHECKING:
    from tests.support.keys.parties import Party

PKCS7 = KEYS_PREFIX + "pkcs7"


def add_pkcs7(layout: Layout, texts: list[str]) -> None:
    """Add a PKCS#7 wrapped key to each layer."""
    value = layout.manifest
    for layer, text in zip(value["layers"], texts, strict=True):
        layer["annotations"][PKCS7] = text
    layouts.publish(layout, layout.add(layouts.to_json(value), layouts.MANIFEST))


def test_a_layer_that_holds_two_keys(small: Layout, target: Layout, parties: dict[str, Party], tmp_path: Path) -> None:
    """Whoever removes the recipient of the right key must not publish an image that nobody can open."""
    other = Layout(tmp_path / "other")
    for layout, scheme in ((target, "jwe"), (other, "pkcs7")):
        done("encrypt", oci(small), oci(layout), "--recipient", parties[scheme].recipient)
    add_pkcs7(target, [layer["annotations"][PKCS7] for layer in other.layers])
    keys = [*parties["jwe"].ours, *parties["pkcs7"].ours]
    ended = image("encrypt", oci(target), f"oci:{tmp_path}/new", "--remove-recipient", "jwe", *keys)
    assert (ended.status, ended.output, (tmp_path / "new/index.json").exists()) == (5, "", False), ended.errors
    assert "with its new recipients it opens to another key" in ended.errors


def test_recipients_of_a_form_that_cannot_be_rewritten(
    small: Layout, target: Layout, recipient: list[str], key: list[str], tmp_path: Path
) -> None:
    done("encrypt", oci(small), oci(target), *recipient)
    parts = writer.gcm_parts(rsa_key(), private_options())
    recipients = (*parts.recipients, writer.key_transport(rsa_key(4096), bytes(32)))
    add_pkcs7(target, [wire.encode_base64(writer.enveloped(parts._replace(recipients=recipients)))] * 2)
    name = f"pkcs7:{writer.key_identifier(rsa_key(4096)).hex()}"
    ended = image("encrypt", oci(target), f"oci:{tmp_path}/new", "--remove-recipient", name, *key)
    assert (ended.status, ended.output) == (2, ""), ended.errors
    assert "--remove-recipient: this PKCS#7 wrapped key has other recipients, too" in ended.errors
