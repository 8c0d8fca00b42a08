"""The message when no key opens a layer."""

from __future__ import annotations

import json
import re
import subprocess
from base64 import b64encode
from typing import TYPE_CHECKING

import pytest

from decoder import limits
from decoder.keywrap import jwe
from decoder.layer.annotations import KEYS_PREFIX
from tests.support.keywrap.layers import ec_key, encrypted, pem, private_options, public_pem, rsa_key
from tests.support.program.onelayer import PLAINTEXT, fails, run_layer
from tests.support.program.processes import PROGRAM, ROOT, Result, payload_bytes, run_decoder

if TYPE_CHECKING:
    from pathlib import Path


def test_keys_directories_that_cannot_be_used(tmp_path: Path) -> None:
    """A huge file is passed over, an unreadable directory is the reason in the message."""
    keys = tmp_path / "keys"
    keys.mkdir()
    with (keys / "huge.pem").open("wb") as file:
        file.truncate(100 * limits.MIB)
    fails(
        run_layer(encrypted(PLAINTEXT), "--decryption-keys-path", str(keys), parameters={}), 4, "is larger than 1048576"
    )
    keys.chmod(0)
    layer = encrypted(PLAINTEXT)
    (tmp_path / "payload").write_bytes(payload_bytes(layer.descriptor, {}))
    unprivileged = "setpriv --bounding-set=-dac_override,-dac_read_search --inh-caps=-all"
    command = f'exec {unprivileged} "$0" --decryption-keys-path "$1" 3<"$2" </dev/null'
    done = subprocess.run(
        ["/bin/bash", "-c", command, PROGRAM, str(keys), str(tmp_path / "payload")],
        capture_output=True,
        timeout=120,
        check=False,
    )
    keys.chmod(0o700)
    fails(
        Result(done.returncode, done.stdout, done.stderr.decode()),
        4,
        f"{str(keys)!r} was skipped: Permission denied",
    )


def test_no_key_says_where_it_looked_and_for_whom_the_layer_is(tmp_path: Path) -> None:
    """The first lines tell what to do: which directory was searched, how many keys there are, whom the layer is for."""
    wrapped = {"jwe": [jwe.wrap(private_options(), [public_pem(rsa_key())])], "provider.absent": [b"{}"]}
    layer = encrypted(PLAINTEXT, wrapped)
    lines = [line.strip() for line in run_layer(layer, parameters={}).errors.splitlines()]
    assert lines[1].startswith(f"{KEYS_PREFIX}provider.absent[0]: no keyprovider 'absent' is configured")
    assert lines[2] == "no keys directory is configured (--decryption-keys-path)"
    assert re.fullmatch(r"jwe: the layer is for kid \S+ RSA-OAEP; keys to try: no private keys", lines[3])

    arguments = ("--decryption-keys-path", str(tmp_path))
    lines = run_layer(layer, *arguments, parameters={}).errors.splitlines()
    assert lines[2] == f"  the keys directory '{tmp_path}' is empty"
    (tmp_path / "README").write_text("keys go here")
    lines = run_layer(layer, *arguments, parameters={}).errors.splitlines()
    assert lines[2] == f"  the keys directory '{tmp_path}' holds no private key"
    assert lines[-1] == "  'README' was skipped: it holds no key of a known form"
    (tmp_path / "other.pem").write_bytes(pem(ec_key()))
    lines = run_layer(layer, *arguments, parameters={}).errors.splitlines()
    assert lines[2] == f"  the keys directory '{tmp_path}' holds 1 private key"
    assert lines[3].endswith("keys to try: 1 private key")


@pytest.mark.parametrize(
    ("scheme", "line"),
    [
        ("pkcs7", r"  pkcs7: the layer is for issuer CN=\S.* serial [0-9a-f]+; keys to try: no private keys, .*"),
        ("pgp", r"  pgp: the layer is for [0-9A-F]{16}; keys to try: no files of OpenPGP secret keys"),
    ],
)
def test_no_key_names_the_recipients_of_each_scheme(scheme: str, line: str) -> None:
    cases = json.loads((ROOT / "tests/vectors/cases.json").read_text())
    descriptor = next(
        case["descriptor"] for case in cases if next(iter(case["descriptor"]["annotations"])) == KEYS_PREFIX + scheme
    )
    result = run_decoder(payload_bytes(descriptor, {}), b"")
    assert result.status == 4
    assert re.search(f"^{line}$", result.errors, re.MULTILINE), result.errors


def test_no_key_names_the_recipients_on_tokens() -> None:
    """A token's wrapped key names nobody: its size and hash are all that tells."""
    blobs = [
        {"version": 0, "blob": b64encode(bytes(size)).decode(), "hash": name}
        for size, name in ((256, "sha256"), (384, "sha1"))
    ]
    wrapped = json.dumps({"version": 0, "recipients": blobs}).encode()
    result = run_layer(encrypted(PLAINTEXT, {"pkcs11": [wrapped]}), parameters={})
    assert result.status == 4
    line = "  pkcs11: the layer is for RSA 2048 OAEP sha256, RSA 3072 OAEP sha1; keys to try: no PKCS#11 key files"
    assert line in result.errors.splitlines(), result.errors
