"""Keys from a broker with a token from a file: what is fetched, and what errors say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwcrypto.jwk import JWK

from decoder import limits
from decoder.keywrap.kid import parse_kid
from decoder.provider.errors import ProviderError
from decoder.provider.services.coco.kbs import source as kbs
from tests.support.coco.kbs_parts import KEY, KID, TEE_KEY, Guest, failure, fetch
from tests.support.coco.kbs_server import KbsServer, encrypt, error_answer
from tests.support.keywrap.layers import ec_key, rsa_key
from tests.support.network.loopback import Answer, Authority, json_answer

# With a token from a file.


@pytest.mark.parametrize("key", [TEE_KEY, ec_key(ec.SECP256R1), rsa_key()], ids=["P-521", "P-256", "RSA"])
def test_fetches_with_a_token(server: KbsServer, tmp_path: Path, authority: Authority, key: Any) -> None:
    guest = Guest(tmp_path, authority, key)
    assert fetch(server.url, guest.options) == KEY
    assert fetch(f"{server.url}/", guest.options) == KEY
    assert server.requests() == ["GET resource/default/image_key/nginx"] * 2
    assert {asked.headers["authorization"] for asked in server.asked} == {f"Bearer {guest.token}"}


def test_reads_the_token_each_time(server: KbsServer, guest: Guest) -> None:
    source = kbs.create(server.url, guest.options)
    assert source.key(KID, limits.COCO_SOURCE_SECONDS) == KEY
    Path(guest.options["kbs-token"]).write_text("a.b.c")
    with pytest.raises(ProviderError, match="TokenVerifierError"):
        source.key(KID, limits.COCO_SOURCE_SECONDS)


def test_asks_for_plugins_and_queries(server: KbsServer, guest: Guest) -> None:
    source = kbs.create(server.url, guest.options)
    with pytest.raises(ProviderError, match="no such plugin"):
        source.key(parse_kid("kbs+pkcs11:///a/b/c?id=7&x=y"), limits.COCO_SOURCE_SECONDS)
    assert server.asked[-1].path == "/kbs/v0/pkcs11/a/b/c?id=7&x=y"


def test_an_expired_token_is_not_accepted(server: KbsServer, tmp_path: Path, authority: Authority) -> None:
    guest = Guest(tmp_path, authority, seconds=-600)
    message = failure(server.url, guest.options, guest.token)
    assert message == (
        "it answers TokenVerifierError ('Token Verifier error'): it does not accept the attestation token, "
        "which may have expired: get a new one"
    )
    assert len(server.asked) == 1


def test_what_the_policy_denies(server: KbsServer, guest: Guest) -> None:
    server.denied.add(KID.path)
    assert "its resource policy denies this resource" in failure(server.url, guest.options, guest.token)


def test_what_the_broker_does_not_have(server: KbsServer, guest: Guest) -> None:
    server.resources.clear()
    assert "PluginInternalError" in failure(server.url, guest.options, guest.token)


VARIANTS = {
    "AdminAuth": "administrator's token",
    "AdminAuthAccess": "administrator's token",
    "AdminAuthInitialization": "--kbs-claim iss=TrusteeInDocker",
    "AttestationError": "does not accept this attestation",
    "InvalidRequestPath": "check its URL",
    "JweError": "cannot encrypt to this TEE key",
    "ParsePolicyError": "correct the policy",
    "PluginInternalError": "does not have this resource",
    "PluginNotFound": "no such plugin",
    "PolicyDeny": "denies this resource",
    "PolicyEngine": "correct the policy",
    "PolicyEngineError": "correct the policy",
    "SerdeError": "another version of the protocol",
    "TokenNotFound": "requires an attestation token",
    "TokenVerifierError": "get a new one",
    "SomethingNew": "it answers SomethingNew ('the detail')",
}


@pytest.mark.parametrize(("variant", "meaning"), VARIANTS.items())
def test_every_error_says_what_to_do(server: KbsServer, guest: Guest, variant: str, meaning: str) -> None:
    for status in (401, 403, 404, 500):
        server.answer = lambda asked, status=status: error_answer(variant, "the detail", status)  # type: ignore[misc]
        message = failure(server.url, guest.options)
        assert message.startswith(f"it answers {variant} ('the detail')")
        assert meaning in message


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"Unauthorized",
        b"{}",
        b"[]",
        b'{"type": 7, "detail": "x"}',
        b'{"type": "https://other/PolicyDeny"}',
        b"\xff{",
    ],
)
def test_errors_of_another_form(server: KbsServer, guest: Guest, body: bytes) -> None:
    server.answer = lambda asked: Answer(401, body)
    assert "it answers HTTP 401" in failure(server.url, guest.options)


def test_an_error_that_repeats_the_token(server: KbsServer, guest: Guest) -> None:
    server.answer = lambda asked: error_answer("TokenVerifierError", f"bad {asked.headers['authorization']}")
    assert "TokenVerifierError" in failure(server.url, guest.options, guest.token[:60])
    server.answer = lambda asked: error_answer("A" * 1000 + "\n", "B" * 100000)
    assert "it answers HTTP 401" in failure(server.url, guest.options)


# Replies that are no key.


def test_resources_of_other_lengths_come_as_they_are(server: KbsServer, guest: Guest) -> None:
    for length in (0, 31, 33, limits.COCO_RESOURCE_BYTES):
        server.resources[KID.path] = bytes(length)
        assert fetch(server.url, guest.options) == bytes(length)
    server.resources[KID.path] = bytes(limits.COCO_RESOURCE_BYTES + 1)
    assert "is longer than 4096 bytes" in failure(server.url, guest.options)


def test_a_resource_of_100_megabytes_is_not_read(server: KbsServer, guest: Guest) -> None:
    body = json.dumps(encrypt(KEY, JWK.from_pyca(TEE_KEY.public_key()))).encode() + b" " * 100_000_000
    server.answer = lambda asked: Answer(200, body)
    assert "is longer than" in failure(server.url, guest.options)
    server.answer = lambda asked: Answer(200, body[: limits.JWE_BYTES + 1])
    assert "longer than a key" in failure(server.url, guest.options)


def test_a_resource_for_another_key(server: KbsServer, guest: Guest) -> None:
    other = JWK.from_pyca(ec_key(ec.SECP256R1).public_key())
    server.answer = lambda asked: json_answer(encrypt(KEY, other))
    assert "the TEE key (EC P-521, sha256:" in failure(server.url, guest.options)


def test_a_resource_that_is_not_encrypted(server: KbsServer, guest: Guest) -> None:
    server.answer = lambda asked: Answer(200, KEY)
    assert "is not a JWE for a TEE" in failure(server.url, guest.options)
