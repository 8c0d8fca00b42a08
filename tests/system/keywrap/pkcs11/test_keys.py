"""Keys on PKCS#11 tokens: what opens, and which key."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from decoder import limits
from decoder.errors import KeyFileError
from decoder.formats import wire
from decoder.keywrap import pkcs11
from decoder.layer import annotations as layer
from tests.support.image import images
from tests.support.keys.pkcs11_tokens import TokenStore, keys_of, softhsm
from tests.support.keywrap.layers import encrypted, private_options
from tests.support.keywrap.pkcs11_parts import reason, recipient, unwrap, wrapped_json
from tests.support.node import containerd
from tests.support.program.processes import REFERENCE, payload_bytes, run_decoder

if TYPE_CHECKING:
    from pathlib import Path

# What openssl and the reference make and read.


@pytest.mark.parametrize("absent", ["sha1", "", None])
def test_unwraps_sha1(store: TokenStore, absent: str | None) -> None:
    wrapped = wrapped_json(recipient(store.encrypt("small", b"options", "sha1"), absent))
    assert unwrap(wrapped, store.yaml("token=layers;object=small")) == (b"options", [])


@pytest.mark.parametrize(("label", "text"), [("large", private_options()), ("small", b""), ("small", b"x" * 190)])
def test_unwraps_sha256_that_softhsm_refuses(store: TokenStore, label: str, text: bytes) -> None:
    wrapped = wrapped_json(recipient(store.encrypt(label, text, "sha256"), "sha256"))
    assert unwrap(wrapped, store.yaml(f"token=layers;object={label}")) == (text, [])


def test_a_wrong_hash_does_not_open(store: TokenStore) -> None:
    for written, said in (("sha1", "sha256"), ("sha256", "sha1")):
        wrapped = wrapped_json(recipient(store.encrypt("large", b"options", written), said))
        assert reason(wrapped, store.yaml("token=layers;object=large")) == "it does not open this wrapped key"


def test_wraps_to_every_form_of_a_public_key(store: TokenStore) -> None:
    certificate = store.directory / "large.crt"
    store.run(
        *("openssl", "req", "-x509", "-subj", "/CN=layers", "-key", store.directory / "large.pem", "-out", certificate)
    )
    der = store.directory / "large.der"
    store.run("openssl", "pkey", "-pubin", "-in", store.directory / "large.pub.pem", "-outform", "DER", "-out", der)
    forms = [store.public("large"), certificate.read_bytes(), der.read_bytes()]
    wrapped = json.loads(pkcs11.wrap(private_options(), forms))
    assert wrapped["version"] == 0
    assert [(entry["version"], entry["hash"]) for entry in wrapped["recipients"]] == [(0, "sha256")] * 3
    for entry in wrapped["recipients"]:
        blob = wire.decode_base64(entry["blob"])
        assert store.decrypt("large", blob, "sha256") == private_options()


def test_wraps_with_the_hash_of_the_environment(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCICRYPT_OAEP_HASHALG", "SHA1")
    wrapped = pkcs11.wrap(private_options(), [store.public("small")])
    (entry,) = json.loads(wrapped)["recipients"]
    assert entry["hash"] == "sha1"
    assert store.decrypt("small", wire.decode_base64(entry["blob"]), "sha1") == private_options()
    assert unwrap(wrapped, store.yaml("token=layers;object=small")) == (private_options(), [])


def test_wraps_through_the_token_without_its_pin(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    without_pin = store.yaml("token=layers;object=small", f"module-path={softhsm()}")
    for chosen in ("", "sha256"):
        monkeypatch.setenv("OCICRYPT_OAEP_HASHALG", chosen)
        wrapped = pkcs11.wrap(b"options", [without_pin])
        (entry,) = json.loads(wrapped)["recipients"]
        assert entry["hash"] == (chosen or "sha1"), "SoftHSM itself cannot do SHA-256"
        assert store.decrypt("small", wire.decode_base64(entry["blob"]), entry["hash"]) == b"options"


def test_wrap_says_what_a_recipient_lacks(store: TokenStore) -> None:
    with pytest.raises(KeyFileError, match="can wrap 190 bytes with sha256, but the private options have 193"):
        pkcs11.wrap(private_options(), [store.public("small")])
    with pytest.raises(KeyFileError, match="has no public RSA key labelled 'gone'"):
        pkcs11.wrap(b"options", [store.yaml("token=layers;object=gone")])
    with pytest.raises(KeyFileError, match="2 public keys on the token fit"):
        pkcs11.wrap(b"options", [store.yaml("token=layers")])
    elliptic = store.directory / "ec.pub.pem"
    store.run("sh", "-c", f"openssl ecparam -name prime256v1 -genkey -noout | openssl pkey -pubout -out {elliptic}")
    with pytest.raises(KeyFileError, match="not an RSA key"):
        pkcs11.wrap(b"options", [elliptic.read_bytes()])
    for nothing in (b"", b"\x30\x00", b"-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n", b"\xff", b"a: b"):
        with pytest.raises(KeyFileError):
            pkcs11.wrap(b"options", [nothing])


@pytest.mark.parametrize("hash_member", ["as written", "absent"])
def test_reference_opens_what_ours_wrapped(
    store: TokenStore, monkeypatch: pytest.MonkeyPatch, hash_member: str
) -> None:
    monkeypatch.setenv("OCICRYPT_OAEP_HASHALG", "sha1")
    wrapped = pkcs11.wrap(private_options(), [store.public("small")])
    if hash_member == "absent":
        wrapped = wrapped.replace(b',"hash":"sha1"', b"")
    image_layer = encrypted(b"layer" * 1000, {"pkcs11": [wrapped]})
    config = f"module-directories: []\nallowed-module-paths: [{softhsm()}]\n".encode()
    parameters = {"pkcs11-yamls": [store.yaml("token=layers;object=small")], "pkcs11-config": [config]}
    payload = payload_bytes(image_layer.descriptor, parameters)
    result = run_decoder(payload, image_layer.ciphertext, program=REFERENCE)
    assert (result.status, result.errors, result.plaintext) == (0, "", image_layer.plaintext)
    # The payload's first configuration counts, for the reference as for ours.
    parameters["pkcs11-config"] = [b"allowed-module-paths: [/nothing/]", config]
    payload = payload_bytes(image_layer.descriptor, parameters)
    assert run_decoder(payload, image_layer.ciphertext, program=REFERENCE).status == 1
    keys = keys_of(*parameters["pkcs11-yamls"])._replace(parameters=parameters)
    reasons: list[str] = []
    assert pkcs11.unwrap(wrapped, keys, lambda _, why: reasons.append(why)) is None
    assert "not among the allowed-module-paths" in reasons[0]


def test_opens_what_the_reference_wrapped(store: TokenStore, tmp_path: Path) -> None:
    """imgcrypt's ctr encrypts an image in containerd; RSA 2048 with SHA-1 and RSA 3072 with SHA-256."""
    layout = images.write_image(tmp_path / "image", images.GZIP)
    (tmp_path / "containerd").mkdir()
    with containerd.Containerd(tmp_path / "containerd") as server:
        imported = server.import_image(layout, "--no-unpack")
        assert imported.returncode == 0, imported.stderr
        for label, hash_name in (("small", "sha1"), ("large", "sha256")):
            target = f"{label}:encrypted"
            recipient = f"pkcs11:{store.directory / label}.pub.pem"
            encrypted = server.execute(
                *("env", f"OCICRYPT_OAEP_HASHALG={hash_name}", str(containerd.CTR_IMGCRYPT)),
                *("--address", containerd.SOCKET, "images", "encrypt", "--recipient", recipient),
                *("--platform", "linux/amd64", containerd.IMAGE, target),
            )
            assert encrypted.returncode == 0, encrypted.stderr
            digest = next(
                line.split()[2] for line in server.ctr("images", "list").stdout.splitlines() if target in line
            )
            manifest = json.loads(server.ctr("content", "get", digest).stdout)
            while "manifests" in manifest:
                manifest = json.loads(server.ctr("content", "get", manifest["manifests"][0]["digest"]).stdout)
            assert manifest["layers"]
            for entry in manifest["layers"]:
                wrapped = wire.decode_base64(entry["annotations"][f"{layer.KEYS_PREFIX}pkcs11"])
                opened, reasons = unwrap(wrapped, store.yaml(f"token=layers;object={label}"))
                assert opened is not None, reasons
                assert len(layer.parse_private_options(opened).symmetric_key) == limits.SYMMETRIC_KEY_BYTES


# Which key, on which token.


def test_finds_the_key_among_several_recipients_and_files(store: TokenStore) -> None:
    wrapped = pkcs11.wrap(b"options", [store.public("elsewhere"), store.public("small")])
    opened, reasons = unwrap(wrapped, store.yaml("token=layers;object=large"), store.yaml("token=layers;object=small"))
    assert opened == b"options"
    assert reasons == ["pkcs11-yamls[0]: no recipient has a key of this size"]


@pytest.mark.parametrize(
    "path",
    [
        "token=layers",
        "token=layers;id=%01",
        "token=%6Cayers;object=small;id=%01;type=private",
        "serial={serial};object=small",
        "slot-id={slot};object=small",
        "object=small;token=layers;manufacturer=SoftHSM%20project;model=SoftHSM%20v2",
    ],
)
def test_selects_by_uri(store: TokenStore, small_sha1: bytes, path: str) -> None:
    path = path.format(serial=store.serial("layers"), slot=store.slot("layers"))
    assert unwrap(small_sha1, store.yaml(path)) == (b"options", [])


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("token=absent;object=small", "there is no token with 'token=absent'"),
        ("token=layers;slot-id=77", "there is no token with 'token=layers, slot-id=77'"),
        ("object=small", "2 tokens fit its URI: it must name one by token, serial or slot-id"),
        ("token=layers;object=gone", "the token 'layers' has no private RSA key labelled 'gone'"),
        ("token=layers;id=%0a%0b", "the token 'layers' has no private RSA key with id 0a0b"),
        ("token=layers;object=large", "no recipient has a key of this size"),
        ("token=other;object=elsewhere", "it does not open this wrapped key"),
    ],
)
def test_says_why_a_key_does_not_open(store: TokenStore, small_sha1: bytes, path: str, message: str) -> None:
    assert reason(small_sha1, store.yaml(path)) == message
