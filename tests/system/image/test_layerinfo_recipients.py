"""What layerinfo says of recipients whose keys gpg, openssl and SoftHSM made."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.image.command import blobs, done, image, oci, run
from tests.support.image.images import Layout
from tests.support.image.layerinfos import names_of
from tests.support.keys.pkcs11_tokens import PIN, TokenStore, softhsm
from tests.support.program import processes

if TYPE_CHECKING:
    from tests.support.keys.parties import Party
    from tests.support.keys.pgp_home import GnupgHome

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
