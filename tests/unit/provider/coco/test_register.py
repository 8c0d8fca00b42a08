"""Registering keys at a broker: the administrator's token, its claims, and reading back."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from jwcrypto.jwk import JWK
from jwcrypto.jwt import JWT

from decoder import limits
from decoder.errors import UsageError
from decoder.provider.errors import ProviderError
from decoder.provider.services.coco.kbs.register import Registrar
from decoder.provider.services.coco.packet import open_with
from tests.support.coco.kbs_server import KbsServer, error_answer, issue_token
from tests.support.coco.packets import broker_packet
from tests.support.coco.register import ADMIN, KEY, KID, administered, options_of, pkcs8
from tests.support.image.command import decoded, image
from tests.support.keywrap.layers import ec_key, pem, private_options, rsa_key
from tests.support.network.loopback import Answer, Asked, Authority
from tests.support.program.processes import run_program
from tests.support.provider.serving import execute, request_of, result_of, write_key

TEE_KEY = ec_key(ec.SECP256R1)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def server(authority: Authority) -> Iterator[KbsServer]:
    with administered(authority) as server:
        yield server


@pytest.fixture
def options(server: KbsServer, authority: Authority, tmp_path: Path) -> dict[str, str]:
    """Those that an administrator gives."""
    return options_of(server, authority, tmp_path)


@pytest.fixture
def attested(tmp_path: Path) -> dict[str, str]:
    """Those that let us read as a guest."""
    (tmp_path / "token").write_text(issue_token(JWK.from_pyca(TEE_KEY.public_key()).export_public(as_dict=True)))
    return {"kbs-token": str(tmp_path / "token"), "tee-key": str(write_key(tmp_path / "tee.pem", pem(TEE_KEY)))}


def failure(options: dict[str, str]) -> str:
    with pytest.raises(ProviderError) as caught:
        Registrar(options).register(KID, KEY)
    message = str(caught.value)
    secrets = ("PRIVATE KEY", "eyJ", KEY.hex(), repr(KEY)[2:-1], KEY.decode("latin-1"))
    assert not any(secret in message for secret in secrets)
    assert "\n" not in message
    assert len(message) < limits.PROVIDER_ERROR_BYTES
    return message


def test_registers_with_an_ed25519_key(server: KbsServer, options: dict[str, str]) -> None:
    assert Registrar(options).register(KID, KEY) is False
    assert server.resources == {KID.path: KEY}
    assert server.requests() == ["POST resource/default/image_key/nginx"]
    (claims,) = server.verified
    iat, exp = claims.pop("iat"), claims.pop("exp")
    assert claims == {"iss": "ctd-decoder", "sub": "admin", "aud": ["KBS"], "role": "admin"}
    assert abs(iat - time.time()) < 60
    assert exp - iat == limits.KBS_ADMIN_TOKEN_SECONDS


def test_registers_with_a_p256_key(server: KbsServer, options: dict[str, str]) -> None:
    server.admin = TEE_KEY.public_key()
    for form in (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL):
        data = TEE_KEY.private_bytes(Encoding.PEM, form, NoEncryption())
        Path(options["kbs-auth-key"]).write_bytes(data)
        Registrar(options).register(KID, KEY)
    assert server.resources == {KID.path: KEY}


def test_claims_are_options(server: KbsServer, options: dict[str, str]) -> None:
    server.claims = {"iss": "us", "sub": "admin", "aud": ["KBS", "other"], "x": "a=b"}
    Registrar({**options, "kbs-claim": "iss=them\niss=us\naud=KBS\naud=other\nx=a=b"}).register(KID, KEY)
    server.claims = {}
    Registrar({**options, "kbs-claim": "iss=\naud="}).register(KID, KEY)
    assert server.verified[1].keys() == {"sub", "role", "iat", "exp"}


@pytest.mark.parametrize("claim", ["role=", "role=user", "aud=other"])
def test_claims_that_the_broker_does_not_accept(server: KbsServer, options: dict[str, str], claim: str) -> None:
    message = failure({**options, "kbs-claim": claim})
    start = f"the key {KID} is not registered at {server.url}: it answers AdminAuthInitialization ("
    assert message.startswith(start)
    for what in (
        "kbs-auth-key",
        "iss (docker-compose expects --kbs-claim iss=TrusteeInDocker)",
        "aud",
        "role",
        "DenyAll",
    ):
        assert what in message
    assert server.resources == {}


@pytest.mark.parametrize("claim", ["role", "=admin", "exp=9999999999", "iat=0", "role=admin\n\n"])
def test_malformed_claims(options: dict[str, str], claim: str) -> None:
    with pytest.raises(UsageError, match="kbs-claim"):
        Registrar({**options, "kbs-claim": claim})


def test_the_key_of_somebody_else(server: KbsServer, options: dict[str, str]) -> None:
    Path(options["kbs-auth-key"]).write_bytes(pkcs8(ed25519.Ed25519PrivateKey.generate()))
    assert "AdminAuthInitialization" in failure(options)
    assert server.resources == {}


def test_keys_that_cannot_sign(options: dict[str, str]) -> None:
    file = Path(options["kbs-auth-key"])
    encrypted = ADMIN.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"passphrase"))
    public = ADMIN.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for data, why in (
        (b"", "is not an Ed25519 or P-256 private key"),
        (b"secret of the file", "is not an Ed25519 or P-256 private key"),
        (public, "is not an Ed25519 or P-256 private key"),
        (pem(rsa_key()), "is not an Ed25519 or P-256 private key"),
        (pem(ec_key(ec.SECP384R1)), "is not an Ed25519 or P-256 private key"),
        (encrypted, "is encrypted"),
    ):
        file.write_bytes(data)
        assert why in failure(options)
    file.write_bytes(pkcs8(ADMIN))
    file.chmod(0o644)
    assert "its group or others can read it" in failure(options)
    file.unlink()
    assert "No such file" in failure(options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kbs": ""}, "need the option kbs"),
        ({"kbs-admin-token-file": "/token"}, "exclude each other"),
        ({"kbs-auth-key": "", "kbs-claim": "iss=a"}, "the option kbs-claim needs kbs-auth-key"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, str], changes: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Registrar({**options, **changes})


def test_registers_with_a_token_that_somebody_else_made(
    server: KbsServer, options: dict[str, str], tmp_path: Path
) -> None:
    claims = {"iss": "TrusteeInDocker", "sub": "admin", "aud": ["KBS"], "role": "admin"}
    file = tmp_path / "token"
    options = {"kbs": options["kbs"], "kbs-ca": options["kbs-ca"], "kbs-admin-token-file": str(file)}
    assert "No such file" in failure(options)
    now = int(time.time())
    token = JWT(header={"alg": "EdDSA"}, claims={**claims, "iat": now, "exp": now + 60})
    token.make_signed_token(JWK.from_pyca(ADMIN))
    file.touch(0o600)
    file.write_text(token.serialize() + "\n")
    assert Registrar(options).register(KID, KEY) is False
    assert server.resources == {KID.path: KEY}
    assert server.verified[0]["iss"] == "TrusteeInDocker"
    file.write_text("a token\r\nX: y")
    assert "does not hold a token" in failure(options)
    file.chmod(0o644)
    assert "its group or others can read it" in failure(options)


def test_an_open_broker_needs_no_credentials(server: KbsServer, options: dict[str, str]) -> None:
    del options["kbs-auth-key"]
    message = failure(options)
    assert "AdminAuthInitialization" in message
    assert "no credentials of an administrator are given" in message
    server.is_open = True
    assert Registrar(options).register(KID, KEY) is False
    assert server.resources == {KID.path: KEY}
    assert "authorization" not in server.asked[-1].headers


def test_other_urls_are_refused(options: dict[str, str]) -> None:
    for url in ("http://kbs.example", "kbs.example", "https://user:secret@kbs.example"):
        with pytest.raises(UsageError) as caught:
            Registrar({**options, "kbs": url})
        assert "secret" not in str(caught.value)


# What becomes of the key.


def test_reads_the_key_back(server: KbsServer, options: dict[str, str], attested: dict[str, str]) -> None:
    assert Registrar({**options, **attested}).register(KID, KEY) is True
    assert Registrar({**options, "tee": "sample"}).register(KID, KEY) is True
    gets = [request for request in server.requests() if request.startswith("GET")]
    assert gets == ["GET resource/default/image_key/nginx"] * 2


def test_the_broker_need_not_allow_reading(
    server: KbsServer, options: dict[str, str], attested: dict[str, str]
) -> None:
    server.denied.add(KID.path)
    assert Registrar({**options, **attested}).register(KID, KEY) is False
    Path(attested["kbs-token"]).write_text(issue_token({}, -600))
    assert Registrar({**options, **attested}).register(KID, KEY) is False
    assert server.resources == {KID.path: KEY}


def test_notices_that_the_broker_has_another_key(
    server: KbsServer, options: dict[str, str], attested: dict[str, str]
) -> None:
    right = server.answer

    def answer(asked: Asked) -> Answer | None:
        result = right(asked)
        server.resources[KID.path] = bytes(32)
        return result

    server.answer = answer
    assert "returns another key" in failure({**options, **attested})


def test_notices_that_the_broker_did_not_keep_it(
    server: KbsServer, options: dict[str, str], attested: dict[str, str]
) -> None:
    right = server.answer
    server.answer = lambda asked: Answer(200) if asked.method == "POST" else right(asked)
    message = failure({**options, **attested})
    assert message.startswith(
        f"the key {KID} was sent to {server.url}, but could not be read back: it answers PluginInternalError"
    )


def test_says_that_reading_back_failed_rather_than_storing(server: KbsServer, options: dict[str, str]) -> None:
    message = failure({**options, "aa-url": "http://127.0.0.1:1"})
    assert "but could not be read back: the attestation agent at http://127.0.0.1:1 has no token" in message
    assert server.resources == {KID.path: KEY}


@pytest.mark.parametrize("status", [301, 400, 401, 404, 500])
def test_the_status_is_checked(server: KbsServer, options: dict[str, str], status: int) -> None:
    server.answer = lambda asked: Answer(status)
    assert f"it answers HTTP {status}" in failure(options)


def test_errors_do_not_repeat_what_was_sent(server: KbsServer, options: dict[str, str]) -> None:
    def answer(asked: Asked) -> Answer:
        return error_answer("AdminAuthInitialization", f"{asked.headers['authorization']} {asked.body.hex()}")

    server.answer = answer
    assert "it answers AdminAuthInitialization: " in failure(options)


def test_redirects_are_not_followed(server: KbsServer, options: dict[str, str]) -> None:
    with KbsServer() as elsewhere:
        server.answer = lambda asked: Answer(307, b"", {"Location": elsewhere.url + asked.path})
        assert "which is not followed" in failure(options)
        assert elsewhere.asked == []


def test_a_broker_of_another_name_or_none_at_all(options: dict[str, str], authority: Authority) -> None:
    with KbsServer(authority.server_context("kbs.example")) as misnamed:
        assert "certificate of 127.0.0.1" in failure({**options, "kbs": misnamed.url})
        assert misnamed.asked == []
    assert "Connection refused" in failure({**options, "kbs": "https://127.0.0.1:1"})


# As the provider's command line uses it.


def test_the_command_that_only_registers(server: KbsServer, options: dict[str, str], tmp_path: Path) -> None:
    key = write_key(tmp_path / "image_key", KEY)
    words = ["keyprovider", "attestation-agent", "register", "--keyid", str(KID), "--keypath", str(key)]
    words += [text for name, value in options.items() for text in (f"--{name}", value)]
    words += ["--repository", str(tmp_path / "store")]
    done = decoded(run_program(words, 60))
    assert (done.status, done.errors) == (0, "")
    assert done.output.splitlines() == [
        rf"{KID} is in {tmp_path}/store/default\x2Fimage_key\x2Fnginx",
        f"{KID} is registered at {server.url}",
    ]
    assert server.resources == {KID.path: KEY}
    server.admin = None
    done = decoded(run_program(words, 60))
    assert (done.status, done.output) == (6, "")
    assert "AdminAuthInitialization" in done.errors


def test_the_command_registers_what_it_wraps_with(server: KbsServer, options: dict[str, str], tmp_path: Path) -> None:
    key = write_key(tmp_path / "image_key", KEY)
    arguments = [text for name, value in options.items() for text in (f"--{name}", value)]
    request = request_of("keywrap", private_options(), {"attestation-agent": [f"keyid={KID}::keypath={key}"]})
    result = execute("run", "--provider", "attestation-agent", *arguments, request=request)
    assert (result.returncode, result.stderr) == (0, b"")
    packet = result_of(result.stdout)
    assert json.loads(packet)["kid"] == str(KID)
    assert open_with(server.resources[KID.path], broker_packet(packet)) == private_options()
    server.admin = None
    result = execute("run", "--provider", "attestation-agent", *arguments, request=request)
    assert (result.returncode, result.stdout) == (6, b"")
    assert "AdminAuthInitialization" in result.stderr.decode()


def test_a_key_that_was_made_is_registered(server: KbsServer, options: dict[str, str]) -> None:
    arguments = [text for name, value in options.items() for text in (f"--{name}", value)]
    request = request_of("keywrap", private_options(), {"attestation-agent": ["Enabled"]})
    packets = []
    for _ in range(2):
        result = execute("run", "--provider", "attestation-agent", *arguments, request=request)
        assert (result.returncode, result.stderr) == (0, b"")
        packets.append(broker_packet(result_of(result.stdout)))
    for packet in packets:
        assert open_with(server.resources[packet.kid.path], packet) == private_options()
    assert len({os.path.basename(packet.kid.path) for packet in packets}) == 2


def test_options_of_image_encrypt_need_a_recipient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = ("--recipient", "provider:other", "--kbs", "https://kbs.example")
    result = image("encrypt", "oci:a", "oci:b", *options)
    assert (result.status, result.output) == (2, "")
    assert "--kbs needs a --recipient provider:attestation-agent" in result.errors
