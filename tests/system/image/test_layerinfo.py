"""`layerinfo` names everybody who can open a layer; `check` says no unless every layer of the platform opens."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from decoder.formats import wire
from decoder.image.selection import own_platform
from decoder.layer import annotations as layer
from tests.support import images, layouts, processes
from tests.support.image import blobs, done, image, oci, run
from tests.support.images import Layout
from tests.support.pkcs11_tokens import PIN, TokenStore, softhsm

if TYPE_CHECKING:
    from tests.support.keypairs import KeyPair
    from tests.support.parties import Party
    from tests.support.pgp_home import GnupgHome

# Wraps by writing the private options into the annotation, beside the name of a key.
PROVIDER = """\
import base64, json, sys
request = json.load(sys.stdin)
if request["op"] == "keywrap":
    name = base64.b64decode(request["keywrapparams"]["ec"]["Parameters"]["vault"][0]).decode()
    packet = json.dumps({"key_url": name, "wrapped_key": request["keywrapparams"]["optsdata"]}).encode()
    reply = {"keywrapresults": {"annotation": base64.b64encode(packet).decode()}}
else:
    packet = json.loads(base64.b64decode(request["keyunwrapparams"]["annotation"]))
    reply = {"keyunwrapresults": {"optsdata": packet["wrapped_key"]}}
print(json.dumps(reply))
"""


@pytest.fixture
def provider(tmp_path: Path) -> dict[str, str]:
    """The environment with a keyprovider called `vault`."""
    (tmp_path / "provider.py").write_text(PROVIDER)
    command = {"path": sys.executable, "args": [str(tmp_path / "provider.py")]}
    (tmp_path / "providers.json").write_text(json.dumps({"key-providers": {"vault": {"cmd": command}}}))
    return {"OCICRYPT_KEYPROVIDER_CONFIG": str(tmp_path / "providers.json")}


def names_of(place: str, *options: str) -> list[str]:
    (first, *_) = done("layerinfo", place, "--json", *options).value["layers"]
    return [f"{each['scheme']}: {each['name']}" for each in first["recipients"]]


def test_recipients_by_name(
    gzipped: Layout,
    target: Layout,
    parties: dict[str, Party],
    gnupg: GnupgHome,
    provider: dict[str, str],
    tmp_path: Path,
) -> None:
    texts = [party.recipient for party in parties.values()]
    texts.append("provider:vault:transit://keys/image")
    recipients = [part for text in texts for part in ("--recipient", text)]
    done("encrypt", oci(gzipped), oci(target), *recipients, "--gpg-homedir", str(gnupg.path), **provider)
    certificate = Path(parties["pkcs7"].recipient.removeprefix("pkcs7:"))
    serial = run("openssl", "x509", "-in", certificate, "-noout", "-serial").strip().partition("=")[2]
    serial = serial.lower().lstrip("0")
    _, subkey = gnupg.fingerprints("images@example.com")
    public = parties["jwe"].recipient.removeprefix("jwe:")
    run("openssl", "pkey", "-pubin", "-in", public, "-outform", "der", "-out", tmp_path / "public.der")
    fingerprint = run("sha256sum", tmp_path / "public.der").split()[0]
    jwe, rest = f"jwe: kid sha256:{fingerprint} RSA-OAEP", [f"pgp: {subkey[-16:]}"]
    provided = "provider.vault: transit://keys/image"
    assert names_of(oci(target)) == [jwe, *rest, f"pkcs7: issuer CN=image,O=Works serial {serial}", provided]
    known = names_of(oci(target), "--dec-recipient", str(certificate))
    assert known == [jwe, *rest, f"pkcs7: subject CN=image,O=Works serial {serial}", provided]

    untried = done("layerinfo", oci(target), "--json", "--dec-recipient", str(certificate)).value["layers"]
    assert {each["opens"] for each in untried} == {None}
    table = done("layerinfo", oci(target)).output.splitlines()
    assert table[0].split() == ["#", "DIGEST", "PLATFORM", "SIZE", "ENCRYPTION", "RECIPIENTS"]
    assert all("jwe,pgp,pkcs7,provider.vault" in line and "transit://keys/image" in line for line in table[1:])

    opened = Layout(target.directory.parent / "opened")
    done("decrypt", oci(target), oci(opened), "--key", "provider:vault", **provider)
    assert blobs(opened) == blobs(gzipped)
    assert image("check", oci(target), "--key", "provider:absent").status == 4


def test_a_key_on_a_token(gzipped: Layout, target: Layout, tmp_path: Path) -> None:
    store = TokenStore(tmp_path)
    store.add_token("token")
    store.add_key("token", "image", "01", 3072)
    (tmp_path / "key.yaml").write_text(
        f"pkcs11:\n  uri: pkcs11:token=token;object=image?pin-value={PIN}&module-path={softhsm()}\n"
        f"module:\n  env:\n    SOFTHSM2_CONF: {store.configuration}\n"
    )
    (tmp_path / "ocicrypt.conf").write_text(f"pkcs11:\n  allowed-module-paths:\n  - {softhsm()}\n")
    environment = {"OCICRYPT_CONFIG": str(tmp_path / "ocicrypt.conf")}
    recipient = f"pkcs11:{tmp_path / 'key.yaml'}"
    done("encrypt", oci(gzipped), oci(target), "--recipient", recipient, "--layer", "0", **environment)
    (name,) = names_of(oci(target))
    assert name in ("pkcs11: RSA 3072 OAEP sha1", "pkcs11: RSA 3072 OAEP sha256")
    opened = Layout(tmp_path / "opened")
    done("decrypt", oci(target), oci(opened), "--key", str(tmp_path / "key.yaml"), **environment)
    assert blobs(opened) == blobs(gzipped)


def test_whether_keys_open_a_layer(
    gzipped: Layout, target: Layout, parties: dict[str, Party], keys: dict[str, KeyPair]
) -> None:
    done("encrypt", oci(gzipped), oci(target), "--recipient", parties["jwe"].recipient, "--layer", "1..")
    for options, opens in ((parties["jwe"].ours, True), (["--key", str(keys["rsa4096"].private)], False)):
        layers = done("layerinfo", oci(target), "--json", *options).value["layers"]
        assert [each["opens"] for each in layers] == [None, opens, opens]
        assert [bool(each["reason"]) for each in layers] == [False, not opens, not opens]
        words = [line.split()[-1] for line in done("layerinfo", oci(target), *options).output.splitlines()[2:]]
        assert words == ["yes" if opens else "no"] * 2
    assert {each["opens"] for each in done("layerinfo", oci(target), "--json").value["layers"]} == {None}


def test_names_that_a_registry_made_up(gzipped: Layout, target: Layout) -> None:
    wrapped = {
        "jwe": [
            b"not a jwe",
            json.dumps({"recipients": [{"header": {"alg": "x\x1b[31m", "kid": "k" * 999}}]}).encode(),
        ],
        "pgp": [b""],
        "pkcs7": [b"\x30"],
        "pkcs11": [b"{}", b"[" * 99999],
        "provider.x": [b"\xff", b'{"kid":"kbs:///a/b/c"}'],
    }
    annotations = layer.build_annotations(bytes(32), wrapped)
    annotations[layer.KEYS_PREFIX + "jwe"] += ",@@@"
    value = gzipped.manifest
    value["layers"][0] |= {"mediaType": images.GZIP + layer.ENCRYPTED, "annotations": annotations}
    copy = Layout(target.directory)
    for descriptor in (*value["layers"], value["config"]):
        copy.add(gzipped.read(descriptor), "")
    layouts.publish(copy, copy.add(layouts.to_json(value), layouts.MANIFEST))
    names = names_of(oci(copy))
    assert [name for name in names if "malformed" in name and not name.startswith("jwe")]
    assert "\x1b" not in "".join(names)
    assert "provider.x: kbs:///a/b/c" in names
    assert max(map(len, names)) < 1000


def test_check_covers_every_layer_of_the_platform(
    tmp_path: Path, target: Layout, parties: dict[str, Party], keys: dict[str, KeyPair]
) -> None:
    source = layouts.two_platforms(tmp_path / "source")
    other = ["--recipient", f"jwe:{keys['p256'].public}"]
    own = ["--recipient", parties["jwe"].recipient]
    own_key, other_key = parties["jwe"].ours, ["--key", str(keys["p256"].private)]
    done("encrypt", oci(source), oci(target), *own, "--layer", "0", "--platform", "linux/amd64")
    done("encrypt", oci(target), oci(target), *other, "--layer", "-1")
    amd64 = image("check", oci(target), *own_key, "--platform", "linux/amd64")
    assert (amd64.status, amd64.output) == (4, "")
    assert "1 of 2 encrypted layers do not open" in amd64.errors
    assert "layer 2 (linux/amd64)" in amd64.errors
    assert done("check", oci(target), *own_key, *other_key, "--platform", "linux/amd64").output
    assert image("check", oci(target), *own_key, "--platform", "linux/arm64").status == 4
    assert done("check", oci(target), *other_key, "--platform", "linux/arm64", "--json").value["encrypted"] == 1
    assert image("check", oci(target), *own_key, "--platform", "linux/s390x").status == 4
    assert image("check", oci(target)).status == 2
    machine = image("check", oci(target), *own_key, *other_key)
    assert machine.status == (0 if own_platform() in ("linux/amd64", "linux/arm64") else 4)


def test_check_refuses_what_it_does_not_know(
    gzipped: Layout, target: Layout, parties: dict[str, Party], keys: dict[str, KeyPair]
) -> None:
    done("encrypt", oci(gzipped), oci(target), "--recipient", parties["jwe"].recipient)
    good = target.manifest
    options = [*parties["jwe"].ours, "--key", str(keys["p256"].private)]
    public = wire.encode_base64(b'{"cipher":"AES_256_CTR_HMAC_SHA256","hmac":"AAAA","cipheroptions":{}}')
    changes: tuple[dict[str, object], ...] = (
        {"mediaType": "application/vnd.oci.image.layer.v2.tar+encrypted"},
        {"annotations": {}},
        {"annotations": {**good["layers"][2]["annotations"], layer.PUBLIC_OPTIONS: public}},
    )
    for change in changes:
        value = {**good, "layers": [*good["layers"][:2], {**good["layers"][2], **change}]}
        layouts.publish(target, target.add(layouts.to_json(value), layouts.MANIFEST))
        ended = image("check", oci(target), *options)
        assert ended.status == 4
        assert "1 of 3 encrypted layers do not open" in ended.errors


@pytest.mark.parametrize("kind", ["pass", "file", "fd"])
def test_keys_with_a_password(kind: str, gzipped: Layout, target: Layout, tmp_path: Path) -> None:
    private, public = tmp_path / "key:1.pem", tmp_path / "key.pub"
    run("openssl", "genpkey", "-algorithm", "RSA", "-aes256", "-pass", "pass:a:b=c", "-out", private)
    run("openssl", "pkey", "-in", private, "-passin", "pass:a:b=c", "-pubout", "-out", public)
    (tmp_path / "password").write_text("a:b=c\n")
    done("encrypt", oci(gzipped), oci(target), "--recipient", f"jwe:{public}")
    value = {"pass": "a:b=c", "file": str(tmp_path / "password"), "fd": "7"}[kind]
    command = ["check", oci(target), "--key", f"{private}:{kind}={value}"]
    shell = shlex.join([processes.PROGRAM, "image", *command]) + f" 7<{shlex.quote(str(tmp_path / 'password'))}"
    ended = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    without = image("check", oci(target), "--key", private)
    assert (without.status, "it is encrypted, and no password was given" in without.errors) == (4, True)
    wrong = image("check", oci(target), "--key", f"{private}:pass=secret-but-wrong")
    assert (wrong.status, "secret-but-wrong" in wrong.errors) == (4, False)
