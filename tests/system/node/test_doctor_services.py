"""`ctd-decoder doctor` and key services: each is asked whether it would decrypt for this node, and changes nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import grpc
import pytest

from decoder import limits
from decoder.doctor.checks import keyproviders
from tests.support.keys.pkcs11_tokens import PIN, TokenStore, softhsm
from tests.support.keywrap.pkcs11_parts import write_config
from tests.support.network.certificates import key_of
from tests.support.node.doctor_node import Node, examine
from tests.support.program.environment import forget
from tests.support.provider.client_parts import Certificates, tls_files
from tests.support.provider.serving import Server, write_key
from tests.support.services.aws_server import REGION, kms_client, running_answers, running_moto, use_test_account
from tests.support.services.azure_cloud import CLIENT, SECRET, TENANT, VAULT, Cloud
from tests.support.services.bao_server import BaoServer
from tests.support.services.gcp_server import KEY as GOOGLE_KEY
from tests.support.services.gcp_server import running_google

if TYPE_CHECKING:
    from pathlib import Path

_FINAL_TRY, _LOCKED = 0x20000, 0x40000  # CKF_USER_PIN_FINAL_TRY, CKF_USER_PIN_LOCKED
BUSY_SECONDS = 120.0  # importing the library of AWS takes longer than the usual 10 s on a busy machine
ANSWERS = "the key service answers, and decrypts with "


@pytest.fixture(autouse=True)
def nothing_of_whoever_runs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    forget(monkeypatch, "AZURE_", "IDENTITY_", "MSI_", "IMDS_", "BAO_", "VAULT_", "GOOGLE_")


def test_aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_test_account(monkeypatch, tmp_path)
    with running_moto() as endpoint, monkeypatch.context() as patient:
        patient.setattr(limits, "DOCTOR_SECONDS", BUSY_SECONDS)
        key = kms_client(endpoint).create_key()["KeyMetadata"]["Arn"]
        level, text = examine(tmp_path, "awskms", key=key, endpoint=endpoint)
        assert (level, text.endswith(ANSWERS + key)) == ("ok", True), text
        absent = key[:-1] + ("0" if key[-1] != "0" else "1")
        level, text = examine(tmp_path, "awskms", key=absent, endpoint=endpoint)
        assert (level, "NotFoundException" in text) == ("error", True), text
    level, text = examine(tmp_path, "awskms", key=key, endpoint="http://127.0.0.1:1")
    assert (level, "cannot be reached" in text) == ("error", True), text
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    level, text = examine(tmp_path, "awskms", key=key, endpoint="http://127.0.0.1:1")
    assert (level, "credentials" in text) == ("error", True), text


def test_aws_denies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_test_account(monkeypatch, tmp_path)
    monkeypatch.setattr(limits, "DOCTOR_SECONDS", BUSY_SECONDS)
    with running_answers() as server:
        server.answer = lambda *_: (400, {"__type": "AccessDeniedException", "message": "not for you"})
        level, text = examine(tmp_path, "awskms", key="alias/x", region=REGION, endpoint=server.endpoint)
    assert (level, "AccessDeniedException" in text) == ("error", True), text
    assert [request["KeyId"] for request in server.requests] == ["alias/x"]


def test_openbao(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The right to decrypt with the key is enough; without it, the server says so."""
    (tmp_path / "bao").mkdir()
    server = BaoServer(tmp_path / "bao")
    try:
        server.add_key("layers")
        server.allow("decrypt", "transit/decrypt/layers")
        server.allow("other", "transit/decrypt/other")
        options = {"address": server.url, "ca_file": str(server.ca_file), "key": "layers"}
        monkeypatch.setenv("BAO_TOKEN", server.token("decrypt"))
        level, text = examine(tmp_path, "openbao", **options)
        assert (level, text.endswith(ANSWERS + "layers")) == ("ok", True), text
        monkeypatch.setenv("BAO_TOKEN", server.token("other"))
        level, text = examine(tmp_path, "openbao", **options)
        assert (level, "403" in text or "permission" in text) == ("error", True), text
    finally:
        server.stop()
    level, text = examine(tmp_path, "openbao", **options)
    assert level == "error", text


def test_google(tmp_path: Path) -> None:
    with running_google(tmp_path) as google:
        key = f"gcpkms://{GOOGLE_KEY}"
        level, text = examine(tmp_path, "gcpkms", **google.options(key=key))
        assert (level, text.endswith(ANSWERS + key)) == ("ok", True), text
        google.kms.before = lambda context: context.abort(grpc.StatusCode.PERMISSION_DENIED, "not for you")
        level, text = examine(tmp_path, "gcpkms", **google.options(key=key))
        assert (level, "PERMISSION_DENIED" in text) == ("error", True), text
        assert {method for method, _ in google.kms.calls} == {"decrypt"}


def test_azure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Cloud(tmp_path) as cloud:
        client = {"AZURE_TENANT_ID": TENANT, "AZURE_CLIENT_ID": CLIENT, "AZURE_CLIENT_SECRET": SECRET}
        for name, value in (cloud.environment | client).items():
            monkeypatch.setenv(name, value)
        key = f"https://{VAULT}/keys/layers"
        level, text = examine(tmp_path, "azurekv", key=key, ca_file=str(cloud.authority.file))
        assert (level, text.endswith(ANSWERS + key)) == ("ok", True), text
        cloud.denied.add("unwrapkey")
        level, text = examine(tmp_path, "azurekv", key=key, ca_file=str(cloud.authority.file))
        assert (level, "403" in text) == ("error", True), text


def test_a_library_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "hvac", None)
    level, text = examine(tmp_path, "openbao", address="https://127.0.0.1:1", key="layers")
    assert (level, text.startswith("the Python module hvac is not installed: ")) == ("error", True), text
    assert "ctd-decoder[openbao]" in text


def test_pkcs11(tmp_path: Path) -> None:
    """The key is found on the token; the PIN is tried where nothing else shows the key."""
    (tmp_path / "softhsm").mkdir()
    store = TokenStore(tmp_path / "softhsm")
    store.add_token("layers")
    store.add_key("layers", "node", "01", 2048)
    config = write_config(tmp_path / "modules.conf", softhsm())
    key = tmp_path / "node.yaml"

    def look(path: str, query: str | None = None) -> tuple[str, str]:
        key.write_bytes(store.yaml(path, query))
        flags = store.flags("layers")
        found = examine(tmp_path, "pkcs11", key=str(key), config=str(config))
        assert store.flags("layers") == flags
        assert PIN not in found[1]
        return found

    level, text = look("token=layers;object=node")
    assert (level, "the key is on the token" in text) == ("ok", True), text
    level, text = look("token=layers;object=other")
    assert (level, "has no private RSA key labelled 'other'" in text) == ("error", True), text
    level, text = look("token=absent;object=node")
    assert (level, "there is no token with 'token=absent'" in text) == ("error", True), text
    level, text = look("token=layers;object=node", f"module-path={softhsm()}")
    assert (level, "it has no PIN" in text) == ("error", True), text
    key.write_bytes(store.public("node"))
    level, text = examine(tmp_path, "pkcs11", key=str(key), config=str(config))
    assert (level, "public keys can only wrap" in text) == ("error", True), text


def test_pkcs11_pins(tmp_path: Path) -> None:
    """The PIN is needed where the token has no public key; no look may lock a token."""
    (tmp_path / "softhsm").mkdir()
    store = TokenStore(tmp_path / "softhsm")
    store.add_token("hidden")
    store.add_key("hidden", "node", "01", 2048, "--no-public-key")
    config = write_config(tmp_path / "modules.conf", softhsm())
    key = tmp_path / "node.yaml"

    def look(pin: str) -> tuple[str, str]:
        key.write_bytes(store.yaml("token=hidden;object=node", f"module-path={softhsm()}&pin-value={pin}"))
        found = examine(tmp_path, "pkcs11", key=str(key), config=str(config))
        assert PIN not in found[1]
        assert "0000" not in found[1]
        return found

    level, text = look(PIN)
    assert (level, text.endswith("the key is on the token")) == ("ok", True), text
    level, text = look("000011")
    assert (level, "the PIN is wrong for the token 'hidden'" in text) == ("error", True), text
    store.set_flags("hidden", store.flags("hidden") | _FINAL_TRY)
    before = store.flags("hidden")
    level, text = look("000022")
    assert (level, "one more wrong PIN would lock the token" in text) == ("error", True), text
    assert store.flags("hidden") == before
    store.set_flags("hidden", before | _LOCKED)
    level, text = look("000033")
    assert (level, "is locked: a wrong PIN was tried too often" in text) == ("error", True), text


@pytest.mark.parametrize(
    ("days", "level", "text"),
    [
        (30, "ok", "can be reached"),
        (0.5, "warning", "expires at "),
        (-1, "error", "expired at "),
        (0, "error", "cannot be read"),
    ],
)
def test_the_certificate_of_this_node(days: float, level: str, text: str, tmp_path: Path) -> None:
    """What a server of ours with client certificates gets to see; a line of the last one was lost in the copy."""
    made, key = Certificates(tmp_path), write_key(tmp_path / "key")
    own, shown = made.issue("127.0.0.1"), made.issue("node", days=days or 2)
    if not days:
        lines = shown.read_text().splitlines()
        shown.write_text("\n".join([lines[0], *lines[2:]]))
    files = ("--tls-cert", own, "--tls-key", key_of(own), "--client-ca", made.authority())
    with Server(tmp_path, "--provider", "local", "--key", key, "--listen", "127.0.0.1:0", *files) as server:
        entry = {"grpc": server.target, "grpc-tls": tls_files(root_ca_file=made.authority(), certificate=shown)}
        file = tmp_path / "providers.conf"
        file.write_text(json.dumps({"key-providers": {"tested": entry}}))
        file.chmod(0o600)
        (found,) = [each for each in keyproviders.check(Node(file)) if each.subject == "keyprovider tested"]
    assert (found.level, text in found.text) == (level, True), found
    assert bool(found.remedy) == (level != "ok")
