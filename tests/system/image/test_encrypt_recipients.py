"""Recipients of every scheme, added and removed; OpenPGP keys are gpg's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from jwcrypto.jwk import JWK

from decoder.image.selection import own_platform
from tests.support.image.command import done, files_below, image, oci, run
from tests.support.image.encrypting import provider_config
from tests.support.keys.parties import EMAIL, Party

if TYPE_CHECKING:
    from tests.support.image.images import Layout
    from tests.support.keys.keypairs import KeyPair
    from tests.support.keys.pgp_home import GnupgHome


@pytest.fixture
def recipient(keys: dict[str, KeyPair]) -> list[str]:
    return ["--recipient", f"jwe:{keys['p256'].public}"]


@pytest.fixture
def key(keys: dict[str, KeyPair]) -> list[str]:
    return ["--key", str(keys["p256"].private)]


def test_recipients_are_added_without_touching_blobs(
    gzipped: Layout, target: Layout, recipient: list[str], key: list[str], parties: dict[str, Party]
) -> None:
    done("encrypt", oci(gzipped), oci(target), *recipient)
    before = target.layers
    stored = files_below(target.directory)
    added = ["--recipient", parties["pkcs7"].recipient, "--recipient", parties["jwe"].recipient]
    done("encrypt", oci(target), oci(target), *added, *key)
    after = target.layers
    assert [each["digest"] for each in after] == [each["digest"] for each in before]
    new = set(files_below(target.directory)) - set(stored)
    assert len(new) == 1  # the manifest
    for options in (key, parties["pkcs7"].ours, parties["jwe"].ours):
        done("check", oci(target), *options)
    locked = image("encrypt", oci(target), oci(target), *added, *parties["pgp"].ours)
    assert locked.status == 4
    assert target.layers == after


@pytest.mark.parametrize("protocol", ["jwe", "jwk", "pkcs7", "pgp", "provider"])
def test_a_recipient_that_is_there_is_not_added_again(
    protocol: str, gzipped: Layout, target: Layout, keys: dict[str, KeyPair], tmp_path: Path, gnupg: GnupgHome
) -> None:
    certificate, jwk = tmp_path / "cert.pem", tmp_path / "key.jwk"
    run("openssl", "req", "-x509", "-new", "-key", keys["rsa4096"].private, "-subj", "/CN=x", "-out", certificate)
    jwk.write_text(json.dumps({**json.loads(JWK.from_pem(keys["p384"].public.read_bytes()).export()), "kid": "me"}))
    names = {"jwe": keys["p384"].public, "jwk": jwk, "pkcs7": certificate, "pgp": EMAIL, "provider": "files:one.key"}
    text = f"{protocol.replace('jwk', 'jwe')}:{names[protocol]}"
    environment, home = provider_config(tmp_path), ["--gpg-homedir", str(gnupg.path)]
    first = f"jwe:{keys['p256'].public}"
    recipients = ["--recipient", text, "--recipient", first]
    key = ["--key", str(keys["p256"].private)]
    done("encrypt", oci(gzipped), oci(target), *recipients, *home, **environment)
    before = target.manifest

    again = done("encrypt", oci(target), oci(target), "--recipient", text, *home, *key, "--json", **environment)
    assert again.value["layers"] == []
    said = [f"layer {n} ({own_platform()}): '{text}' is a recipient already, and was not added again" for n in range(3)]
    assert sorted(again.value["remarks"])[:3] == said
    assert target.manifest == before

    other = f"jwe:{keys['rsa2048'].public}"
    both = ["--recipient", text, "--recipient", other]
    mixed = done("encrypt", oci(target), oci(target), *both, *home, *key, "--json", **environment)
    assert [each["action"] for each in mixed.value["layers"]] == ["recipients changed"] * 3
    assert sorted(mixed.value["remarks"]) == said
    done("check", oci(target), "--key", keys["rsa2048"].private)
    scheme = text.partition(":")[0]
    found = done("layerinfo", oci(target), "--json").value["layers"][0]["recipients"]
    assert len([each for each in found if each["scheme"].startswith(scheme)]) == (3 if scheme == "jwe" else 1)


def test_a_recipient_with_the_name_of_another_is_added(
    gzipped: Layout, target: Layout, keys: dict[str, KeyPair], tmp_path: Path
) -> None:
    """Two JWKs with one key ID, and certificates of two authorities that have one name and count from 1."""
    named: dict[str, list[Path]] = {"jwe": [], "pkcs7": []}
    for name in ("rsa2048", "rsa4096"):
        pair = keys[name]
        jwk, certificate = tmp_path / f"{name}.jwk", tmp_path / f"{name}.cert.pem"
        jwk.write_text(json.dumps({**json.loads(JWK.from_pem(pair.public.read_bytes()).export()), "kid": "key-1"}))
        request: list[str | Path] = [
            "openssl",
            "req",
            "-x509",
            "-new",
            "-key",
            pair.private,
            "-subj",
            "/CN=ours",
            "-set_serial",
            "1",
        ]
        run(*request, "-out", certificate)
        named["jwe"].append(jwk)
        named["pkcs7"].append(certificate)
    first, second = (["--key", str(keys[name].private)] for name in ("rsa2048", "rsa4096"))
    for protocol, (one, other) in named.items():
        done("encrypt", oci(gzipped), oci(target), "--recipient", f"{protocol}:{one}")
        ended = done("encrypt", oci(target), oci(target), "--recipient", f"{protocol}:{other}", *first)
        assert "is a recipient already" not in ended.errors
        for key in (first, second):
            done("check", oci(target), *key)
    both = [part for each in named["pkcs7"] for part in ("--recipient", f"pkcs7:{each}")]
    ended = image("encrypt", oci(gzipped), oci(target), *both)
    assert (ended.status, "have the same issuer and serial number" in ended.errors) == (2, True)


def test_recipients_are_removed_by_name(
    gzipped: Layout, target: Layout, key: list[str], parties: dict[str, Party], keys: dict[str, KeyPair]
) -> None:
    recipients = [f"jwe:{keys['p256'].public}", parties["jwe"].recipient, parties["pkcs7"].recipient]
    done("encrypt", oci(gzipped), oci(target), *(part for text in recipients for part in ("--recipient", text)))
    ended = done("encrypt", oci(target), oci(target), "--remove-recipient", "jwe:RSA-OAEP", *key)
    assert "removing a recipient does not revoke access" in ended.errors
    assert image("check", oci(target), *parties["jwe"].ours).status == 4
    done("check", oci(target), *key)
    done("check", oci(target), *parties["pkcs7"].ours)

    done("encrypt", oci(target), oci(target), "--remove-recipient", "pkcs7", *key)
    assert image("check", oci(target), *parties["pkcs7"].ours).status == 4
    last = image("encrypt", oci(target), oci(target), "--remove-recipient", "jwe", *key)
    assert last.status == 4
    done("check", oci(target), *key)
    absent = image("encrypt", oci(target), oci(target), "--remove-recipient", "pgp", *key)
    assert (absent.status, "no chosen layer has such a recipient" in absent.errors) == (2, True)
    assert image("encrypt", oci(target), oci(target), "--remove-recipient", "jwe").status == 2


def test_openpgp_keys_in_a_file(gzipped: Layout, target: Layout, gnupg: GnupgHome, parties: dict[str, Party]) -> None:
    ring = target.directory.parent / "ring.gpg"
    ring.write_bytes(gnupg.public(EMAIL))
    done("encrypt", oci(gzipped), oci(target), "--recipient", f"pgp:{EMAIL}", "--gpg-keyring", ring)
    done("check", oci(target), *parties["pgp"].ours)
    ring.write_bytes(b"")
    empty = image("encrypt", oci(gzipped), oci(target), "--recipient", f"pgp:{EMAIL}", "--gpg-keyring", ring)
    assert empty.status == 2


@pytest.fixture(params=["pgp", "pkcs7", "pkcs11"])
def two(
    request: pytest.FixtureRequest, keys: dict[str, KeyPair], gnupg: GnupgHome, tmp_path: Path
) -> tuple[str, list[str], list[list[str]]]:
    """A scheme, options for two recipients of it, and those that open what is for each (without a token, none)."""
    recipients, theirs = ["--gpg-homedir", str(gnupg.path)], []
    for name in ("rsa2048", "rsa4096"):
        file, pair, named = tmp_path / name, keys[name], f"{name}@example.com"
        if request.param == "pgp":
            gnupg.make_key(named, "rsa")
            file.write_bytes(gnupg.secret(named))
            theirs.append(["--key", str(file)])
        elif request.param == "pkcs7":
            run("openssl", "req", "-x509", "-new", "-key", pair.private, "-subj", f"/CN={name}", "-out", file)
            theirs.append(["--key", str(pair.private), "--dec-recipient", str(file)])
            named = str(file)
        else:
            named = str(pair.public)
        recipients += ["--recipient", f"{request.param}:{named}"]
    return request.param, recipients, theirs


def test_one_of_two_recipients_of_a_scheme_is_removed(
    two: tuple[str, list[str], list[list[str]]], gzipped: Layout, target: Layout, recipient: list[str], key: list[str]
) -> None:
    """Both are in one wrapped key; the other one still opens it."""
    scheme, recipients, theirs = two
    done("encrypt", oci(gzipped), oci(target), *recipient, *recipients, OCICRYPT_OAEP_HASHALG="sha1")
    before = names(target, scheme)
    assert len(before) == 2
    wrapped = [each["annotations"][f"org.opencontainers.image.enc.keys.{scheme}"] for each in target.layers]
    assert not any("," in text for text in wrapped)
    for options in theirs:
        done("check", oci(target), *options)
    done("encrypt", oci(target), oci(target), "--remove-recipient", f"{scheme}:{before[0]}", *key)
    assert names(target, scheme) == before[1:]
    assert sorted(image("check", oci(target), *options).status for options in theirs) == [0, 4][: len(theirs)]
    done("check", oci(target), *key)


def names(layout: Layout, scheme: str) -> list[str]:
    """Return the names of the first layer's recipients of a scheme."""
    found = done("layerinfo", oci(layout), "--json").value["layers"][0]["recipients"]
    return [each["name"] for each in found if each["scheme"] == scheme]
