"""The library: its documented examples, and what it promises beyond them."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest

from decoder import api
from tests.support.image.images import Layout
from tests.support.image.layouts import add_image, publish, tar
from tests.support.keywrap import layers

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory with the image `app` and the key pair `key.pem`, `key.pub`."""
    layout = Layout(tmp_path / "app")
    publish(layout, add_image(layout, "amd64", [tar("base"), tar("application")]))
    monkeypatch.chdir(tmp_path)
    key = layers.rsa_key()
    (tmp_path / "key.pem").write_bytes(layers.pem(key))
    (tmp_path / "key.pub").write_bytes(layers.public_pem(key))
    return tmp_path


def test_documented_examples_run_as_they_are_written(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs/library.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) > 5
    names: dict[str, object] = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"library.md, block {number}", "exec"), names)
    printed = capsys.readouterr().out
    assert "True ['jwe: " in printed
    assert (place / "app-decrypted").is_dir()


def test_public_names_are_documented_and_exist() -> None:
    for name in api.__all__:
        assert getattr(api, name).__doc__, name


def test_a_damaged_layer_is_rejected_and_its_tail_is_not_written(place: Path) -> None:
    plain = b"p" * 100_000
    ciphertext = io.BytesIO()
    encrypted = api.encrypt_layer(io.BytesIO(plain), ciphertext, ["jwe:key.pub"])
    damaged = bytearray(ciphertext.getvalue())
    damaged[-1] ^= 1
    media_type = "application/vnd.oci.image.layer.v1.tar+encrypted"
    key = api.open_layer_key(media_type, encrypted.annotations, api.load_keys(["key.pem"]))
    released = io.BytesIO()
    with pytest.raises(api.DecoderError) as raised:
        api.decrypt_layer(io.BytesIO(damaged), released, key)
    assert raised.value.status == 5
    assert released.getvalue() == plain[: len(released.getvalue())]
    assert len(released.getvalue()) <= len(plain) - 10 * 1024


def test_a_key_that_opens_nothing_is_no_authorization(place: Path) -> None:
    api.encrypt_image("oci:app", "oci:locked", ["jwe:key.pub"])
    (place / "other.pem").write_bytes(layers.pem(layers.ec_key()))
    with pytest.raises(api.DecoderError) as raised:
        api.check_image("oci:locked", api.load_keys(["other.pem"]), platforms=["linux/amd64"])
    assert raised.value.status == 4


def test_nothing_is_encrypted_without_a_recipient(place: Path) -> None:
    with pytest.raises(api.DecoderError, match="recipient"):
        api.encrypt_image("oci:app", "oci:plain", [])
    with pytest.raises(api.DecoderError, match="recipient"):
        api.encrypt_layer(io.BytesIO(b"x"), io.BytesIO(), [])
    assert not (place / "plain").exists()


def test_recipients_are_added_with_keys(place: Path) -> None:
    other = layers.ec_key()
    (place / "other.pub").write_bytes(layers.public_pem(other))
    api.encrypt_image("oci:app", "oci:once", ["jwe:key.pub"])
    keys = api.load_keys(["key.pem"])
    api.encrypt_image("oci:once", "oci:twice", ["jwe:other.pub"], keys=keys)
    assert [len(layer.recipients) for layer in api.list_layers("oci:twice")] == [2, 2]


def test_remarks_are_returned_and_not_printed(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    api.encrypt_image("oci:app", "oci:once", ["jwe:key.pub"])
    changed = api.encrypt_image("oci:once", "oci:twice", ["jwe:key.pub"], keys=api.load_keys(["key.pem"]))
    assert "is a recipient already, and was not added again" in changed.remarks[0]
    assert capsys.readouterr() == ("", "")
