"""Arguments, payloads and wrapped keys that the decoder takes and refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from decoder import __version__, limits
from decoder.arguments import COMMANDS
from decoder.formats import wire
from decoder.keywrap import jwe
from decoder.layer.annotations import KEYS_PREFIX, PUBLIC_OPTIONS
from tests.support.keywrap.layers import ec_key, encrypted, pem, private_options, public_pem, rsa_key
from tests.support.program.onelayer import PLAINTEXT, fails, run_layer
from tests.support.program.processes import PROGRAM, Result, any_bytes, payload_bytes, run_decoder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

JWE_ANNOTATION = KEYS_PREFIX + "jwe"


def test_decrypts() -> None:
    assert run_layer(encrypted(PLAINTEXT)) == (0, PLAINTEXT, "")
    assert run_layer(encrypted(b"")) == (0, b"", "")


@pytest.mark.parametrize("form", ["--{} {}", "-{} {}", "--{}={}", "-{}={}"])
def test_option_forms(form: str, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(pem(rsa_key()))
    arguments = form.format("decryption-keys-path", tmp_path).split()
    assert run_layer(encrypted(PLAINTEXT), *arguments, parameters={}) == (0, PLAINTEXT, "")
    arguments += form.format("release", "verified").split()
    assert run_layer(encrypted(PLAINTEXT), *arguments, parameters={}) == (0, PLAINTEXT, "")


def test_payload_keys_and_directory_keys_together(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(pem(rsa_key()))
    others = {"privkeys": [pem(ec_key())], "privkeys-passwords": [b""]}
    result = run_layer(encrypted(PLAINTEXT), "--decryption-keys-path", str(tmp_path), parameters=others)
    assert result == (0, PLAINTEXT, "")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--wrong"], "unknown option '--wrong'"),
        (["--decryption-keys-path"], "--decryption-keys-path needs a value"),
        (["--release", "never"], "--release is streaming or verified, not 'never'"),
        (["layer.tar"], "unexpected argument 'layer.tar'"),
        ([""], "unexpected argument ''"),
        (["--"], "unexpected argument '--'"),
    ],
)
def test_usage_errors(arguments: list[str], text: str) -> None:
    fails(run_layer(encrypted(PLAINTEXT), *arguments), 2, text)


def test_help_and_version() -> None:
    for option in ("--help", "-h", "-help"):
        result = run_decoder(None, b"", option)
        assert (result.status, result.errors) == (0, "")
        assert result.plaintext.startswith(b"usage: ctd-decoder ")
    for option in ("--version", "-v"):
        assert run_decoder(None, b"", option) == (0, f"ctd-decoder {__version__}\n".encode(), "")


def test_help_names_every_command() -> None:
    usage = run_decoder(None, b"", "--help").plaintext.decode()
    for command in COMMANDS.keys() - {"images"}:  # that is another name of `image`
        assert f"       ctd-decoder {command} " in usage


def test_no_payload() -> None:
    fails(run_decoder(None, b"x"), 3, "descriptor 3 is not open", "io.containerd.ocicrypt.decoder.v1.tar")


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (lambda: b"", "is empty"),
        (lambda: payload_bytes(encrypted(PLAINTEXT).descriptor, {})[:-1], "cut short"),
        (lambda: bytes(1 << 30), "larger than"),
        (lambda: b"\x12\x80\x80\x80\x80\x04", "cut short"),
        (lambda: any_bytes(b"no JSON"), "not JSON"),
        (lambda: any_bytes(b"null"), "null"),
        (lambda: any_bytes(b"{}"), "media type ''"),
        (
            lambda: payload_bytes({"mediaType": "application/vnd.oci.image.layer.v1.tar"}, {}),
            "not that of an encrypted layer",
        ),
        (lambda: payload_bytes({**encrypted(b"").descriptor, "mediaType": 7}, {}), "Descriptor.mediaType"),
        (
            lambda: payload_bytes({**encrypted(b"").descriptor, "annotations": {"a": "v" * 50_000_000}}, {}),
            "larger than",
        ),
    ],
    ids=["empty", "truncated", "1GiB", "1GiB-claimed", "no-JSON", "null", "no-members", "plain", "types", "50MB"],
)
def test_bad_payloads(payload: Callable[[], bytes], text: str) -> None:
    fails(run_decoder(payload(), b"x"), 3, text)


def test_unreadable_payload_descriptor(tmp_path: Path) -> None:
    for redirection in (f"3<{tmp_path}", f"3>{tmp_path}/file"):
        command = ["/bin/bash", "-c", f'exec "$0" {redirection}', PROGRAM]
        done = subprocess.run(command, input=b"", capture_output=True, timeout=120, check=False)
        fails(Result(done.returncode, done.stdout, done.stderr.decode()), 3, "descriptor 3 cannot be read")


def test_a_payload_that_never_ends_is_given_up() -> None:
    program = "from decoder import limits; limits.PAYLOAD_SECONDS = 0.3; from decoder.__main__ import main; main()"
    reading, writing = os.pipe()
    command = ["/bin/bash", "-c", f'exec "$0" -c "$1" 3<&{reading}', sys.executable, program]
    done = subprocess.run(
        command, capture_output=True, timeout=120, pass_fds=[reading], stdin=subprocess.DEVNULL, check=False
    )
    os.close(reading)
    os.close(writing)
    fails(Result(done.returncode, done.stdout, done.stderr.decode()), 3, "did not end within")


PUBLIC: dict[str, Any] = json.loads(wire.decode_base64(encrypted(PLAINTEXT).descriptor["annotations"][PUBLIC_OPTIONS]))


def public(**changes: Any) -> str:
    options = {name: value for name, value in {**PUBLIC, **changes}.items() if value is not None}
    return wire.encode_base64(json.dumps(options).encode())


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (None, "pubopts"),
        ("%", "not base64"),
        (public(cipher=None), "the cipher is ''"),
        (public(cipher="AES_256_GCM"), "the cipher is 'AES_256_GCM'"),
        (public(hmac=None), "HMAC has 0 bytes"),
        (public(hmac="AAAA"), "HMAC has 3 bytes"),
        (public(hmac=wire.encode_base64(bytes(32))), "HMAC differs"),
        (public(cipheroptions={"nonce": wire.encode_base64(bytes(16))}), "nonce that differs"),
        (public(cipheroptions={"nonce": "AAAA"}), "nonce that differs"),
    ],
)
def test_bad_public_options(annotation: str | None, text: str) -> None:
    layer = encrypted(PLAINTEXT)
    layer.descriptor["annotations"][PUBLIC_OPTIONS] = annotation or ""
    result = run_layer(layer)
    fails(result, 5, text)
    assert result.plaintext == (PLAINTEXT[: -limits.TAIL_BYTES] if "differs" in text and "nonce" not in text else b"")


def test_a_lone_public_nonce_does_not_help() -> None:
    nonce = wire.encode_base64(bytes(range(100, 116)))
    options = wire.encode_base64(b"x" * 32)
    lone = json.dumps({"symkey": options, "digest": "", "cipheroptions": {}}).encode()
    layer = encrypted(PLAINTEXT, {"jwe": [jwe.wrap(lone, [public_pem(rsa_key())])]})
    layer.descriptor["annotations"][PUBLIC_OPTIONS] = public(cipheroptions={"nonce": nonce})
    fails(run_layer(layer), 5, "nonce has 0 bytes")


@pytest.mark.parametrize("changes", [{"symmetric_key": bytes(31)}, {"nonce": bytes(15)}, {"nonce": bytes(17)}])
def test_wrong_lengths_in_private_options(changes: dict[str, bytes]) -> None:
    layer = encrypted(PLAINTEXT, {"jwe": [jwe.wrap(private_options(**changes), [public_pem(rsa_key())])]})
    fails(run_layer(layer), 5, "malformed private options")


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        ("%%%", f"{JWE_ANNOTATION}[0]: not base64"),
        ("eA==", f"{JWE_ANNOTATION}[0]: it is not a JWE"),
        ("eA==,%", f"{JWE_ANNOTATION}[1]: not base64"),
        ("A" * (2 * limits.JWE_BYTES), f"{JWE_ANNOTATION}[0]: it is longer than"),
    ],
)
def test_bad_wrapped_keys(annotation: str, text: str) -> None:
    layer = encrypted(PLAINTEXT)
    layer.descriptor["annotations"][JWE_ANNOTATION] = annotation
    fails(run_layer(layer), 4, "no key opens this layer", text)


def test_no_wrapped_key_and_unknown_schemes() -> None:
    fails(run_layer(encrypted(PLAINTEXT, {})), 4, "its descriptor holds no wrapped key")
    fails(run_layer(encrypted(PLAINTEXT, {"smoke": [b"x"]})), 4, f"{KEYS_PREFIX}smoke[0]: this scheme is not supported")


def test_says_what_was_tried_and_why_it_failed(tmp_path: Path) -> None:
    (tmp_path / "README").write_text("not a key")
    parameters = {"privkeys": [pem(rsa_key(3072)), pem(ec_key())], "privkeys-passwords": [b"", b""]}
    result = run_layer(encrypted(PLAINTEXT), "--decryption-keys-path", str(tmp_path), parameters=parameters)
    fails(result, 4, "no key opens this layer")
    directory, recipient, *lines = result.errors.splitlines()[1:]
    assert directory == f"  the keys directory '{tmp_path}' holds no private key"
    assert recipient.endswith("keys to try: 2 private keys")
    assert len(lines) == 3
    for line, name, kind in zip(lines, ("privkeys[0]", "privkeys[1]"), ("RSA 3072", "EC P-256"), strict=False):
        assert line.startswith(f"  {JWE_ANNOTATION}[0] with {name} ({kind}, sha256:")
        assert line.endswith(": no recipient has a key of this type and size")
    assert lines[2].startswith("  'README' was skipped: ")


def test_no_keys_at_all_is_said(tmp_path: Path) -> None:
    fails(run_layer(encrypted(PLAINTEXT), parameters={}), 4, "there is no key of this kind to try")
    arguments = ("--decryption-keys-path", str(tmp_path / "absent"))
    fails(run_layer(encrypted(PLAINTEXT), *arguments, parameters={}), 4, "does not exist")
