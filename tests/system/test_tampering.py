"""Whoever serves an image can change all of it but what its keys protect; a changed layer must not run.

AES-CTR is malleable, so with a known plaintext the attacker chooses the text; blob digest, diff ID, manifest and
index are rewritten to fit, so that only the HMAC is left to object. containerd takes the end of standard output
for the end of the layer and asks for the exit status at that moment, without waiting.
"""

from __future__ import annotations

import base64
import hmac
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from jwcrypto.jwe import JWE
from jwcrypto.jwk import JWK

from decoder import limits
from tests.support.image import images
from tests.support.image.images import Layout
from tests.support.image.tampering import FORGED_GREETING, HMAC_MESSAGE, WRAPPED_KEYS, Target, flip, replace_last_layer
from tests.support.node.containerd import FORGETTING, Containerd
from tests.support.program.processes import payload_bytes, run_decoder

if TYPE_CHECKING:
    from tests.support.keys.keypairs import Encrypt, KeyPair

OLD_GREETING = "hello from the layer below"
KEY = "p256"
PUBLIC_OPTIONS = "org.opencontainers.image.enc.pubopts"
ATTEMPTS = 4  # to miss the exit status is a race; measured, it is lost four times in five


Attack = Callable[[Target, Layout], None]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory, encrypt: Encrypt) -> Target:
    busybox, noise, _ = images.rootfs_layers()
    below = images.tar_of({"greet": images.script(OLD_GREETING)})
    last = images.tar_of({"greet": images.script(images.GREETING), "more": images.noise()[:100_000]})
    layers = [images.packed(tar, images.TAR) for tar in (busybox, noise, below, last)]
    plain = images.write_layers(tmp_path_factory.mktemp("plain") / "image", layers)
    return Target(encrypt(plain, [KEY]), last)


@pytest.fixture
def copy(target: Target, tmp_path: Path) -> Layout:
    """A copy of the encrypted image for the attacker to change."""
    return Layout(shutil.copytree(target.encrypted.directory, tmp_path / "copy"))


@pytest.fixture
def key(keys: dict[str, KeyPair]) -> Path:
    return keys[KEY].private


def authenticated(descriptor: dict[str, Any], ciphertext: bytes, key: Path) -> str:
    """Write public options with the right HMAC over a ciphertext, for which it takes the private key."""
    wrapped = JWE()
    wrapped.deserialize(
        base64.b64decode(descriptor["annotations"][WRAPPED_KEYS]).decode(), JWK.from_pem(key.read_bytes())
    )
    symmetric_key = base64.b64decode(json.loads(wrapped.payload)["symkey"])
    public = json.loads(base64.b64decode(descriptor["annotations"][PUBLIC_OPTIONS]))
    public["hmac"] = base64.b64encode(hmac.digest(symmetric_key, ciphertext, "sha256")).decode()
    return base64.b64encode(json.dumps(public).encode()).decode()


def test_the_holder_of_the_key_can_change_the_layer(target: Target, copy: Layout, key: Path, tmp_path: Path) -> None:
    """The control: everything but the HMAC is rewritten rightly."""
    ciphertext = flip(target)
    public_options = authenticated(target.encrypted.layers[-1], ciphertext, key)
    replace_last_layer(copy, ciphertext, target.forged, **{PUBLIC_OPTIONS: public_options})
    with Containerd(tmp_path, key) as containerd:
        result = containerd.run(copy, "--skip-decrypt-auth")
    assert (result.returncode, result.stdout) == (0, images.expected_output(FORGED_GREETING))


def test_nobody_else_can(target: Target, copy: Layout, key: Path, tmp_path: Path) -> None:
    ciphertext = flip(target)
    descriptor = replace_last_layer(copy, ciphertext, target.forged)
    with Containerd(tmp_path, key) as containerd:
        result = containerd.run(copy, "--skip-decrypt-auth")
        assert len(containerd.decoder_runs) == len(copy.layers)
    assert (result.returncode, result.stdout) == (1, "")
    assert HMAC_MESSAGE in result.stderr

    direct = run_decoder(payload_bytes(descriptor, {"privkeys": [key.read_bytes()]}), ciphertext)
    assert (direct.status, direct.errors) == (5, f"{HMAC_MESSAGE}\n")
    assert direct.plaintext == target.forged[: -limits.TAIL_BYTES]
    assert FORGED_GREETING.encode() in direct.plaintext


def withhold_junk(target: Target, copy: Layout) -> None:
    """Append junk: it alone is withheld, and all of the forged text is released."""
    replace_last_layer(copy, flip(target, tail=bytes(limits.TAIL_BYTES)), target.forged)


def drop_layer(target: Target, copy: Layout) -> None:
    """Have the last layer open to nothing, which brings back what is below it."""
    replace_last_layer(copy, target.encrypted.read(target.encrypted.layers[-1]), b"", **{WRAPPED_KEYS: "AAAA"})


@pytest.mark.parametrize(
    ("attack", "message"),
    [(withhold_junk, HMAC_MESSAGE), (drop_layer, "ctd-decoder: error: no key opens this layer")],
    ids=["withhold junk", "drop layer"],
)
def test_the_exit_status_is_seen(
    attack: Attack, message: str, target: Target, copy: Layout, key: Path, tmp_path: Path
) -> None:
    attack(target, copy)
    for attempt in range(ATTEMPTS):
        directory = tmp_path / str(attempt)
        directory.mkdir()
        with Containerd(directory, key) as containerd:
            result = containerd.run(copy, "--skip-decrypt-auth")
        assert (result.returncode, result.stdout) == (1, "")
        assert message in result.stderr


@pytest.mark.parametrize(
    ("attack", "greeting"),
    [(withhold_junk, FORGED_GREETING), (drop_layer, OLD_GREETING)],
    ids=["withhold junk", "drop layer"],
)
def test_nothing_but_the_exit_status_stops_them(
    attack: Attack, greeting: str, target: Target, copy: Layout, key: Path, tmp_path: Path
) -> None:
    """The control of the two attacks: they succeed with a decoder whose exit status is lost."""
    attack(target, copy)
    with Containerd(tmp_path, key, ctd_decoder=FORGETTING) as containerd:
        result = containerd.run(copy, "--skip-decrypt-auth")
    assert (result.returncode, result.stdout) == (0, images.expected_output(greeting))
