"""Options and spellings that people know from other tools."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from jwcrypto.jwk import JWK

from tests.support.image.command import SECONDS, done, image, oci, run
from tests.support.keywrap.layers import public_pem, rsa_key
from tests.support.program import processes

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.image.images import Layout
    from tests.support.keys.keypairs import KeyPair
    from tests.support.keys.parties import Party


def shell(command: str) -> subprocess.CompletedProcess[str]:
    program = f"{shlex.quote(processes.PROGRAM)} image "
    text = command.replace("IMAGE ", program)
    return subprocess.run(["bash", "-c", text], capture_output=True, text=True, timeout=SECONDS, check=False)


def test_the_protocol_of_a_recipient_is_found_by_its_content(
    small: Layout, target: Layout, keys: dict[str, KeyPair], parties: dict[str, Party], tmp_path: Path
) -> None:
    jwk = tmp_path / "key.jwk"
    jwk.write_text(JWK.from_pem(keys["p384"].public.read_bytes()).export_public())
    certificate = parties["pkcs7"].recipient.partition(":")[2]
    for value, protocol in ((str(keys["p256"].public), "jwe"), (str(jwk), "jwe"), (certificate, "pkcs7")):
        ended = done("encrypt", oci(small), oci(target), "--recipient", value)
        assert f"--recipient '{value}' is taken as '{protocol}:{value}'" in ended.errors
        scheme = done("layerinfo", oci(target), "--json").value["layers"][0]["encryption"]
        assert scheme == [protocol]
    address = image(
        "encrypt", oci(small), oci(target), "--recipient", "nobody@example.com", "--gpg-keyring", "/dev/null"
    )
    assert "is taken as 'pgp:nobody@example.com'" in address.errors
    absent = image("encrypt", oci(small), oci(target), "--recipient", "absent.pem")
    assert (absent.status, "names no protocol" in absent.errors) == (2, True)
    private = image("encrypt", oci(small), oci(target), "--recipient", keys["p256"].private)
    assert (private.status, "it holds a private key" in private.errors) == (2, True)
    (tmp_path / "ring.asc").write_text("-----BEGIN PGP PUBLIC KEY BLOCK-----\n")
    ring = image("encrypt", oci(small), oci(target), "--recipient", tmp_path / "ring.asc")
    assert (ring.status, f"--gpg-keyring {tmp_path}/ring.asc --recipient pgp:EMAIL" in ring.errors) == (2, True)


@pytest.mark.parametrize("recipient", ["/dev/stdin", "jwe:/dev/stdin", "<(cat)", "jwe:<(cat)", "pkcs7:/dev/stdin"])
def test_recipients_from_pipes(
    recipient: str, small: Layout, target: Layout, keys: dict[str, KeyPair], parties: dict[str, Party]
) -> None:
    public, key = str(keys["p256"].public), ["--key", str(keys["p256"].private)]
    if recipient.startswith("pkcs7"):
        public, key = parties["pkcs7"].recipient.partition(":")[2], parties["pkcs7"].ours
    # A command within <() has the standard input of the shell.
    ended = shell(f"cat {public} | IMAGE encrypt {oci(small)} {oci(target)} --recipient {recipient}")
    assert ended.returncode == 0, ended.stderr
    done("check", "--require-encrypted", "all", oci(target), *key)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("--encryption-key", "--recipient"),
        ("--encrypt-layer", "--layer"),
        ("--decryption-key", "--key"),
        ("--privkey", "--key"),
        ("--gpg-recipient", "--recipient pgp:"),
        ("--src-creds", "--creds"),
        ("--dest-authfile", "--authfile"),
        ("--dest-tls-verify", "--tls-verify"),
        ("--all", "--all-platforms, which is the default"),
        ("--multi-arch", "--platform"),
    ],
)
def test_options_of_other_programs_lead_to_ours(theirs: str, ours: str, small: Layout) -> None:
    ended = image("encrypt", oci(small), "oci:x", theirs, "jwe:x.pem")
    expected = f"unknown option '{theirs}'; here, use {ours}; see ctd-decoder image encrypt --help"
    assert (ended.status, ended.errors) == (2, f"ctd-decoder: error: {expected}\n")


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("ostree:app@/repo", "skopeo copy 'ostree:app@/repo' oci:DIR:TAG"),
        ("nowhere:app", "skopeo copy TRANSPORT:PLACE oci:DIR:TAG"),
        ("docekr://registry.example/app", "did you mean docker:?"),
    ],
)
def test_unknown_transports_have_a_way_round(place: str, words: str, small: Layout) -> None:
    ended = image("layerinfo", place)
    assert (ended.status, words in ended.errors) == (2, True), ended.errors


def test_an_unknown_transport_to_write_to_has_a_way_round(small: Layout, keys: dict[str, KeyPair]) -> None:
    ended = image("encrypt", oci(small), "ostree:app@/repo", "--recipient", f"jwe:{keys['p256'].public}")
    expected = "write to oci:DIR:TAG, then run `skopeo copy oci:DIR:TAG 'ostree:app@/repo'`"
    assert (ended.status, expected in ended.errors) == (2, True), ended.errors


def test_mistyped_words_have_suggestions(small: Layout) -> None:
    assert "did you mean encrypt?" in image("encript", oci(small)).errors
    assert "did you mean --recipient?" in image("encrypt", oci(small), "oci:x", "--recipent", "x").errors


def test_images_is_image(small: Layout) -> None:
    both = [run(processes.PROGRAM, word, "layerinfo", oci(small)) for word in ("image", "images")]
    assert both[0] == both[1]


def test_several_layers_with_commas(small: Layout, target: Layout, recipient: list[str], key: list[str]) -> None:
    done("encrypt", oci(small), oci(target), *recipient, "--layer", "0,-1", "--all-platforms")
    done("check", "--require-encrypted", "all", oci(target), *key)


def test_the_digest_is_written(small: Layout, target: Layout, recipient: list[str], tmp_path: Path) -> None:
    ended = done("encrypt", oci(small), oci(target), *recipient, "--digestfile", tmp_path / "digest")
    assert ended.output.split()[1] == (tmp_path / "digest").read_text()


@pytest.mark.parametrize("pipe", ["--key <(cat KEY)", "--key /dev/stdin <KEY", "--key /dev/stdin < <(cat KEY)"])
def test_keys_from_pipes(
    pipe: str, small: Layout, target: Layout, recipient: list[str], keys: dict[str, KeyPair]
) -> None:
    done("encrypt", oci(small), oci(target), *recipient)
    option = pipe.replace("KEY", shlex.quote(str(keys["p256"].private)))
    ended = shell(f"IMAGE check {shlex.quote(oci(target))} {option}")
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_password_after_the_file(small: Layout, target: Layout, tmp_path: Path) -> None:
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    key = rsa_key()
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"simple:1")))
    public.write_bytes(public_pem(key))
    done("encrypt", oci(small), oci(target), "--recipient", public)
    done("check", oci(target), "--key", f"{private}:simple:1")
    wrong = image("check", oci(target), "--key", f"{private}:wrong-secret")
    assert (wrong.status, "wrong-secret" in wrong.errors) == (4, False)


@pytest.mark.parametrize("kind", ["rsa3072", "p256", "p384", "p521"])
def test_keygen_makes_a_pair_that_works(kind: str, small: Layout, target: Layout, tmp_path: Path) -> None:
    ended = done("keygen", "--type", kind, tmp_path / "app")
    private, public = tmp_path / "app.key", tmp_path / "app.pub"
    assert [path.stat().st_mode & 0o777 for path in (private, public)] == [0o600, 0o644]
    assert ended.output.startswith(f"recipient: jwe:{public}\n")
    assert f"install -m 600 {private} /etc/containerd/ocicrypt/keys/" in ended.output
    done("encrypt", oci(small), oci(target), "--recipient", f"jwe:{public}")
    done("check", "--require-encrypted", "all", oci(target), "--key", private)
    before = private.read_bytes()
    again = image("keygen", tmp_path / "app")
    assert (again.status, private.read_bytes()) == (2, before)


def test_every_help_has_an_example() -> None:
    assert "example:" in done("--help").output
    for verb in ("encrypt", "decrypt", "layerinfo", "check", "rewrap", "keygen"):
        assert f"\nexample:\n  ctd-decoder image {verb} " in done(verb, "--help").output


def test_progress_as_json_lines(small: Layout, target: Layout, recipient: list[str]) -> None:
    ended = done("encrypt", oci(small), oci(target), *recipient, "--progress", "json")
    events = [json.loads(line) for line in ended.errors.splitlines()]
    first = [each for each in events if each.get("task", "").endswith("layer 0 (linux/amd64)")]
    assert [each["event"] for each in first if each["event"] != "progress"] == ["start", "phase", "done"]
    assert [each["task"].split()[0] for each in first] == ["encrypting", "verifying", "verifying"]
    assert first[0]["size"] == small.layers[0]["size"]


def test_layerinfo_fits_a_terminal(small: Layout, target: Layout, recipient: list[str]) -> None:
    done("encrypt", oci(small), oci(target), *recipient)
    for options, fits in (("", True), ("--no-trunc", False)):
        command = f"{processes.PROGRAM} image layerinfo {oci(target)} {options}"
        environment = {**os.environ, "COLUMNS": "80"}
        ended = subprocess.run(
            ["script", "-qec", command, "/dev/null"], capture_output=True, text=True, env=environment, check=True
        )
        assert all(len(line) <= 80 for line in ended.stdout.splitlines()) == fits
        assert (target.layers[0]["digest"] in ended.stdout) != fits
    assert target.layers[0]["digest"] in done("layerinfo", oci(target)).output


def test_the_program_alone_at_a_terminal_says_what_it_is() -> None:
    command = ["script", "-qec", processes.PROGRAM, "/dev/null"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert ended.returncode == 2
    assert "containerd starts it, with a layer on standard input" in ended.stdout
    assert "ctd-decoder image" in ended.stdout
