"""What `ctd-decoder doctor` finds on nodes with odd programs, images, keys and key services."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from decoder import __version__, limits
from decoder.arguments import Arguments
from decoder.doctor.checks import configuration, image, keys, program
from decoder.doctor.host import Host, Processor
from decoder.errors import ImageError
from decoder.image import selection
from decoder.image.transport import Options, open_source
from tests.support.image import layouts
from tests.support.image.command import oci
from tests.support.image.images import Layout
from tests.support.keywrap import pkcs7_writer
from tests.support.keywrap.layers import rsa_key
from tests.support.network.loopback import Loopback, json_answer
from tests.support.node.doctor_node import NO_CONTAINERD, KeysNode, examine
from tests.support.program.environment import forget

if TYPE_CHECKING:
    from decoder.image.transport import Descriptor

DIGEST = f"sha256:{'0' * 64}"


def script(path: Path, output: str) -> str:
    """Write a program that prints the same whatever it is asked."""
    path.write_text(f"#!/bin/sh\necho '{output}'\n")
    path.chmod(0o755)
    return str(path)


def test_another_version(tmp_path: Path) -> None:
    node = Host(NO_CONTAINERD)
    node.processors = {"x": Processor({"path": script(tmp_path / "decoder", "ctd-decoder 0.0.1")}, Arguments(), "")}
    (finding,) = program.check(node)
    assert (finding.level, finding.remedy) == ("warning", "remove the version that you do not want")
    assert finding.text == f"containerd finds {tmp_path}/decoder, version '0.0.1'; this is version {__version__}"


def test_a_containerd_that_prints_something_else(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("version = 3\n")
    node = Host(str(file))
    node.containerd = node.containerd._replace(program=script(tmp_path / "containerd", "["), prefix="")
    assert node.configuration.in_force == tomllib.loads(file.read_text())
    texts = [finding.text for finding in configuration.check(node)]
    assert any("containerd cannot show its configuration (" in text for text in texts), texts


def encrypted_image(layout: Layout, architecture: str) -> Descriptor:
    """Add an image whose second layer is encrypted, as far as its media type goes."""
    added = layouts.add_image(layout, architecture, [layouts.tar("base"), layouts.tar(architecture)])
    value = layout.read_json(added)
    value["layers"][1]["mediaType"] += "+encrypted"
    return {**added, **layout.add(layouts.to_json(value), layouts.MANIFEST)}


def test_manifests_that_are_absent_or_nested_too_deeply(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    own = selection.own_platform().split("/")[1]
    deep = encrypted_image(layout, own)
    for _ in range(limits.IMAGE_INDEX_DEPTH + 1):
        deep = layouts.add_index(layout, deep)
    image_of_this_machine, other = encrypted_image(layout, own), encrypted_image(layout, "other")
    absent = {"mediaType": layouts.MANIFEST, "digest": DIGEST, "size": 7}
    inner = layouts.add_index(layout, other, image_of_this_machine)
    layouts.publish(layout, layouts.add_index(layout, absent, deep, inner))
    with open_source(oci(layout), Options()) as source:
        ((number, layer),) = image._encrypted_layers(source)
    assert (number, layer) == (1, layout.read_json(image_of_this_machine)["layers"][1])
    layouts.publish(layout, absent)
    with open_source(oci(layout), Options()) as source, pytest.raises(ImageError, match="No such file"):
        image._encrypted_layers(source)


def test_a_decoder_that_does_not_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(limits, "DOCTOR_LAYER_SECONDS", 0.01)
    with (tmp_path / "blob").open("w+b") as blob:
        assert image._run(["/bin/sleep", "60"], b"", blob, {}) == "the decoder did not end within 0 seconds"


def test_a_certificate_beside_a_key_that_does_not_open(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    locked = BestAvailableEncryption(b"secret")
    (tmp_path / "key.pem").write_bytes(rsa_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked))
    (tmp_path / "node.der").write_bytes(pkcs7_writer.certificate(rsa_key(), "node"))
    (tmp_path / "dangling").symlink_to("nowhere")
    findings = list(keys.check(KeysNode(tmp_path)))
    texts = {finding.text: finding.remedy for finding in findings}
    passphrase = f"{tmp_path}/key.pem.pass"
    remedy = f"write its passphrase into {passphrase}, then chmod 600 {passphrase}"
    assert texts["'key.pem' does not open: it is encrypted, and no password was given"] == remedy
    assert any("its private key is not in the directory" in text for text in texts), texts


def test_an_openbao_without_a_key_or_that_opens_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget(monkeypatch, "BAO_", "VAULT_")
    (tmp_path / "token").write_text("token")
    (tmp_path / "token").chmod(0o600)
    with Loopback(lambda _: json_answer({"data": {"plaintext": "e30="}})) as server:
        options = {"address": server.url, "token_file": str(tmp_path / "token")}
        level, text = examine(tmp_path, "openbao", **options)
        assert (level, "its configuration is valid; the key service was not asked" in text) == ("ok", True), text
        assert server.asked == []
        level, text = examine(tmp_path, "openbao", key="layers", **options)
        assert (level, "the key service opened bytes that are not a wrapped key" in text) == ("error", True), text


def test_a_library_that_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hvac.py").write_text("raise RuntimeError('a secret')\n")
    monkeypatch.delitem(sys.modules, "hvac", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    level, text = examine(tmp_path, "openbao", key="layers", address="https://127.0.0.1:1", role_id="node")
    assert (level, "it failed unexpectedly (RuntimeError)" in text, "secret" in text) == ("error", True, False), text
