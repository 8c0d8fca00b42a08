"""The keyprovider openbao with a real server: keys, tokens and logins."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import jwcrypto.jwk
import jwcrypto.jwt

from decoder import limits
from decoder.formats import wire
from decoder.provider import create
from tests.support.keywrap.layers import private_options
from tests.support.network.loopback import Answer, Asked, Authority, Loopback, json_answer
from tests.support.services.bao_server import ROOT_TOKEN, BaoServer

if TYPE_CHECKING:
    from pathlib import Path

    import pytest
from tests.support.services.openbao_parts import annotation, failure, provider

# The real server.


def test_wraps_and_unwraps(bao: BaoServer, as_root: None, warnings: list[str]) -> None:
    keys = provider(bao, key="layers")
    wrapped = keys.wrap(private_options(), [])
    fields = json.loads(wrapped)
    assert list(fields) == ["key_url", "wrapped_key", "wrap_type"]
    assert (fields["key_url"], fields["wrap_type"]) == ("openbao://transit/layers", "TRANSIT")
    decrypted = bao.post("transit/decrypt/layers", ciphertext=fields["wrapped_key"])["data"]["plaintext"]
    assert wire.decode_base64(decrypted) == private_options()
    for parameters in ([], ["Enabled"], ["layers"], ["openbao://transit/layers"], ["hashivault://layers"]):
        assert keys.unwrap(wrapped, parameters) == private_options()
    assert warnings == []


def test_wraps_as_much_as_private_options_may_hold(bao: BaoServer, as_root: None) -> None:
    keys = provider(bao, key="layers")
    for options in (b"\0", os.urandom(limits.PRIVATE_OPTIONS_BYTES)):
        assert keys.unwrap(keys.wrap(options, []), []) == options


def test_reads_the_form_of_sigstore(bao: BaoServer, as_root: None) -> None:
    ciphertext = bao.post("team/keys/encrypt/layers", plaintext=wire.encode_base64(b"options"))["data"]["ciphertext"]
    foreign = annotation(key_url="hashivault://layers", wrapped_key=ciphertext)
    assert provider(bao, key="layers", mount="team/keys").unwrap(foreign, []) == b"options"


def test_older_versions_of_a_key_open(bao: BaoServer, as_root: None) -> None:
    keys = provider(bao, key="other")
    before = keys.wrap(b"options", [])
    bao.post("transit/keys/other/rotate")
    after = keys.wrap(b"options", [])
    assert b"vault:v2:" in after
    assert keys.unwrap(before, []) == keys.unwrap(after, []) == b"options"


def test_without_a_configured_key_the_image_chooses_with_a_warning(
    bao: BaoServer, as_root: None, warnings: list[str]
) -> None:
    keys = provider(bao)
    wrapped = keys.wrap(b"options", ["openbao://team/keys/layers"])
    assert json.loads(wrapped)["key_url"] == "openbao://team/keys/layers"
    assert keys.unwrap(wrapped, ["openbao://team/keys/layers"]) == b"options"
    assert warnings == []
    assert keys.unwrap(wrapped, []) == b"options"
    assert ["openbao://team/keys/layers" in text for text in warnings] == [True]
    assert "provider:NAME:openbao://transit/NAME, or set" in failure(keys.wrap, b"options", ["Enabled"])


def test_only_allowed_keys_are_asked_for(bao: BaoServer, as_root: None) -> None:
    wrapped = provider(bao).wrap(b"options", ["openbao://team/keys/layers"])
    nobody = {"address": "https://127.0.0.1:1", "key": "layers"}  # a request would fail in another way
    assert "is not the configured one" in failure(create("openbao", nobody).unwrap, wrapped, [])
    allowing = create("openbao", {**nobody, "allow-key": ["openbao://transit/*"]})
    assert "does not match any allow-key" in failure(allowing.unwrap, wrapped, [])
    assert "does not match any allow-key" in failure(allowing.wrap, b"options", ["openbao://team/keys/layers"])
    assert "is not one that was asked for" in failure(create("openbao", nobody).unwrap, annotation(), ["other"])
    assert "2 keys were named" in failure(create("openbao", nobody).wrap, b"options", ["layers", "other"])
    allowed = provider(bao, key="layers", allow_key=["openbao://team/*/layers"])
    assert allowed.unwrap(wrapped, []) == b"options"


def test_token_file_is_read_each_time(bao: BaoServer, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(bao.token("layers") + "\n")
    keys = provider(bao, key="layers", token_file=str(file))
    wrapped = keys.wrap(b"options", [])
    file.write_text("no-such-token")
    assert "Forbidden" in failure(keys.unwrap, wrapped, [])
    file.write_text(bao.token("layers"))
    assert keys.unwrap(wrapped, []) == b"options"
    for content in (b"", b"two words", b"\xff", b"line\nbreak", b"x" * 20000):
        file.write_bytes(content)
        assert "does not hold a single word" in failure(keys.unwrap, wrapped, [])
    file.unlink()
    assert "No such file" in failure(keys.unwrap, wrapped, [])


def test_a_token_is_needed_and_none_is_looked_for_in_the_home_directory(
    bao: BaoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".vault-token").write_text(ROOT_TOKEN)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "openbao has no token" in failure(provider(bao, key="layers").wrap, b"options", [])
    monkeypatch.setenv("VAULT_TOKEN", ROOT_TOKEN)
    assert provider(bao, key="layers").wrap(b"options", [])


def test_environment_tells_the_server(bao: BaoServer, as_root: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAO_ADDR", bao.url)
    monkeypatch.setenv("VAULT_CACERT", str(bao.ca_file))
    keys = create("openbao", {"key": "layers"})
    assert keys.unwrap(keys.wrap(b"options", []), []) == b"options"


def test_app_role(bao: BaoServer, tmp_path: Path) -> None:
    bao.admin.sys.enable_auth_method("approle")
    bao.post("auth/approle/role/node", token_policies=["layers"], token_ttl="10m")
    role_id = bao.admin.auth.approle.read_role_id("node")["data"]["role_id"]
    secret = bao.admin.auth.approle.generate_secret_id("node")["data"]["secret_id"]
    file = tmp_path / "secret-id"
    file.write_text(secret)
    keys = provider(bao, key="layers", role_id=role_id, secret_id_file=str(file))
    wrapped = keys.wrap(b"options", [])
    file.write_text("expired-secret")
    assert keys.unwrap(wrapped, []) == b"options", "the token of the first login is used again"
    again = provider(bao, key="layers", role_id=role_id, secret_id_file=str(file))
    text = failure(again.unwrap, wrapped, [])
    assert "invalid" in text
    assert "expired-secret" not in text
    # A token that was revoked before its time is replaced, if there is a secret for another one.
    accessors: Any = bao.admin.list("auth/token/accessors")
    for accessor in accessors["data"]["keys"]:
        if bao.post("auth/token/lookup-accessor", accessor=accessor)["data"]["path"] == "auth/approle/login":
            bao.post("auth/token/revoke-accessor", accessor=accessor)
    assert "invalid" in failure(keys.unwrap, wrapped, [])
    file.write_text(secret)
    assert keys.unwrap(wrapped, []) == b"options"


def test_many_at_once(bao: BaoServer, as_root: None) -> None:
    """A provider is served to several clients at the same time."""
    keys = provider(bao, key="layers")
    options = [os.urandom(200) for _ in range(40)]
    with ThreadPoolExecutor(4) as pool:
        wrapped = list(pool.map(lambda item: keys.wrap(item, []), options))
        assert list(pool.map(lambda item: keys.unwrap(item, []), wrapped)) == options


def test_kubernetes(bao: BaoServer, tmp_path: Path) -> None:
    """OpenBao has the service account's token reviewed by a server that speaks that part of Kubernetes."""
    signer = jwcrypto.jwk.JWK.generate(kty="RSA", size=2048)
    account = {"namespace": "system", "serviceaccount": {"name": "decoder", "uid": "1234"}}
    claims = {
        "iss": "kubernetes/serviceaccount",
        "sub": "system:serviceaccount:system:decoder",
        "iat": int(time.time()) - 60,
        "nbf": int(time.time()) - 60,
        "exp": int(time.time()) + 600,
        "kubernetes.io": account,
        "kubernetes.io/serviceaccount/namespace": "system",
        "kubernetes.io/serviceaccount/service-account.name": "decoder",
        "kubernetes.io/serviceaccount/service-account.uid": "1234",
    }
    token = jwcrypto.jwt.JWT(header={"alg": "RS256"}, claims=claims)
    token.make_signed_token(signer)
    jwt = token.serialize()
    file = tmp_path / "jwt"
    file.write_text(jwt)

    def review(asked: Asked) -> Answer:
        right = json.loads(asked.body)["spec"]["token"] == jwt
        user = {"username": "system:serviceaccount:system:decoder", "uid": "1234", "groups": []}
        status = {"authenticated": right, "user": user} if right else {"authenticated": False, "error": "no"}
        reply = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status}
        return json_answer(reply, 201)

    authority = Authority(tmp_path)
    with Loopback(review, authority.server_context("127.0.0.1")) as kubernetes:
        bao.admin.sys.enable_auth_method("kubernetes", path="cluster")
        bao.post(
            "auth/cluster/config",
            kubernetes_host=kubernetes.url,
            kubernetes_ca_cert=authority.file.read_text(),
            token_reviewer_jwt=jwt,
            disable_local_ca_jwt=True,
        )
        bao.post(
            "auth/cluster/role/node",
            bound_service_account_names=["decoder"],
            bound_service_account_namespaces=["system"],
            token_policies=["layers"],
            token_ttl="10m",
        )
        keys = provider(bao, key="layers", kubernetes_role="node", jwt_file=str(file), auth_mount="cluster")
        assert keys.unwrap(keys.wrap(b"options", []), []) == b"options"
        assert [asked.path for asked in kubernetes.asked] == ["/apis/authentication.k8s.io/v1/tokenreviews"]
        other = provider(bao, key="layers", kubernetes_role="other", jwt_file=str(file), auth_mount="cluster")
        text = failure(other.wrap, b"options", [])
        assert "InvalidRequest" in text
        assert jwt not in text
