"""The source `kbs:`: a broker over TLS, with tokens from files and from the agent, and with the sample attester."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwcrypto.jwk import JWK

from decoder import limits
from decoder.errors import UsageError
from decoder.keywrap.kid import parse_kid
from decoder.provider.errors import ProviderError
from decoder.provider.services.coco import sources
from decoder.provider.services.coco.kbs import source as kbs
from decoder.provider.services.coco.packet import build_packet, parse_packet, seal
from tests.support.image import done, oci
from tests.support.images import Layout
from tests.support.kbs_server import KbsServer, encrypt, error_answer, issue_token
from tests.support.layers import ec_key, pem, private_options, rsa_key
from tests.support.layouts import add_image, publish, tar
from tests.support.loopback import Answer, Asked, Authority, Loopback, json_answer
from tests.support.serving import configure, execute, request_of, result_of

KID = parse_kid("kbs:///default/image_key/nginx")
KEY = bytes(range(100, 132))
TEE_KEY = ec_key(ec.SECP521R1)
SECONDS = 2.0


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def server(authority: Authority) -> Iterator[KbsServer]:
    with KbsServer(authority.server_context("127.0.0.1")) as server:
        server.resources[KID.path] = KEY
        yield server


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


class Guest:
    """The files of a guest.

    Attributes:
        token: what the broker gave it.
        options: that name the files, and the broker's authority.
    """

    def __init__(self, directory: Path, authority: Authority, key: Any = TEE_KEY, seconds: float = 300) -> None:
        self.key = key
        self.token = issue_token(JWK.from_pyca(key.public_key()).export_public(as_dict=True), seconds)
        (directory / "token").write_text(self.token + "\n")
        (directory / "tee.pem").touch(0o600)
        (directory / "tee.pem").write_bytes(pem(key))
        self.options = {
            "kbs-token": str(directory / "token"),
            "tee-key": str(directory / "tee.pem"),
            "kbs-ca": str(authority.file),
        }


@pytest.fixture
def guest(tmp_path: Path, authority: Authority) -> Guest:
    return Guest(tmp_path, authority)


@pytest.fixture
def sample(authority: Authority) -> dict[str, str]:
    return {"tee": "sample", "kbs-ca": str(authority.file)}


def fetch(url: str, options: dict[str, str]) -> bytes:
    return kbs.create(url, options).key(KID, limits.COCO_SOURCE_SECONDS)


def failure(url: str, options: dict[str, str], *secrets: str) -> str:
    with pytest.raises(ProviderError) as caught:
        fetch(url, options)
    message = str(caught.value)
    shown = message + repr(caught.value)
    for secret in (*secrets, "PRIVATE KEY", KEY.hex(), repr(KEY)[2:-1], pem(TEE_KEY).decode().splitlines()[1]):
        assert secret not in shown
    assert "\n" not in message
    assert len(message) < limits.PROVIDER_ERROR_BYTES
    return message


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
    assert "its resource policy does not give this resource" in failure(server.url, guest.options, guest.token)


def test_what_the_broker_does_not_have(server: KbsServer, guest: Guest) -> None:
    server.resources.clear()
    assert "PluginInternalError" in failure(server.url, guest.options, guest.token)


VARIANTS = {
    "AdminAuth": "administrator's token",
    "AdminAuthAccess": "administrator's token",
    "AdminAuthInitialization": "--kbs-claim iss=TrusteeInDocker",
    "AttestationError": "does not accept this attestation",
    "InvalidRequestPath": "compare its URL",
    "JweError": "cannot encrypt to this TEE key",
    "ParsePolicyError": "correct the policy",
    "PluginInternalError": "does not have this resource",
    "PluginNotFound": "no such plugin",
    "PolicyDeny": "does not give this resource",
    "PolicyEngine": "correct the policy",
    "PolicyEngineError": "correct the policy",
    "SerdeError": "another version of the protocol",
    "TokenNotFound": "wants an attestation token",
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


# Where the broker is.


def test_certificates_are_checked(server: KbsServer, guest: Guest, tmp_path: Path, authority: Authority) -> None:
    other = Authority(tmp_path, "other authority")
    assert "certificate of 127.0.0.1" in failure(server.url, {**guest.options, "kbs-ca": str(other.file)})
    del guest.options["kbs-ca"]
    assert "certificate of 127.0.0.1" in failure(server.url, guest.options)
    with KbsServer(authority.server_context("kbs.example")) as misnamed:
        assert "certificate of 127.0.0.1" in failure(misnamed.url, {**guest.options, "kbs-ca": str(authority.file)})
        assert misnamed.asked == []
    assert server.asked == []


def test_the_configured_authority_goes_before_that_of_the_environment(
    server: KbsServer, guest: Guest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(Authority(tmp_path, "other authority").file))
    assert fetch(server.url, guest.options) == KEY


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(server: KbsServer, guest: Guest, sample: dict[str, str], status: int) -> None:
    with KbsServer() as elsewhere:
        server.answer = lambda asked: Answer(status, b"", {"Location": elsewhere.url + asked.path})
        for options in (guest.options, sample):
            message = failure(server.url, options, guest.token)
            assert f"redirects to '127.0.0.1:{elsewhere.port}', which is not followed" in message
        assert elsewhere.asked == []


def test_brokers_that_cannot_be_reached(guest: Guest) -> None:
    assert "cannot be reached: Connection refused" in failure("https://127.0.0.1:1", guest.options)


def test_the_wrong_protocol(server: KbsServer, guest: Guest) -> None:
    plain = failure(server.url.replace("https://", "http://"), guest.options)
    assert "if the broker speaks TLS at this port, write https://" in plain
    with KbsServer() as without_tls:
        assert "TLS" in failure(without_tls.url.replace("http://", "https://"), guest.options)


def test_a_broker_that_does_not_answer(server: KbsServer, guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "COCO_SOURCE_SECONDS", 0.5)
    slow: dict[str, Callable[[Asked], Answer | None]] = {
        "silent": lambda asked: None,
        "trickling": lambda asked: Answer(200, b" " * 1000, drip=0.1),
        "busy": lambda asked: Answer(503, b"", {"Retry-After": "60"}),
    }
    for answer in slow.values():
        server.answer = answer
        began = time.monotonic()
        message = failure(server.url, guest.options, guest.token)
        assert "did not answer in time" in message or "no answer within" in message or "too busy" in message
        assert time.monotonic() - began < 0.5 + SECONDS


@pytest.mark.parametrize(
    "url",
    ["http://kbs.example", "http://10.0.0.1:8080", "ftp://127.0.0.1", "127.0.0.1:8080", "https://", "https://[",
     "https://user:secret@kbs.example", "https://kbs.example/?a=b", "https://kbs.example#a", "https://kbs.example:x"],
)  # fmt: skip
def test_other_urls_are_refused(url: str, guest: Guest) -> None:
    with pytest.raises(UsageError) as caught:
        kbs.create(url, guest.options)
    assert "secret" not in str(caught.value)


def test_loopback_needs_no_tls_and_goes_to_no_proxy(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    with KbsServer() as server, Loopback(lambda asked: Answer(200)) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        server.resources[KID.path] = KEY
        assert fetch(server.url, guest.options) == KEY
        assert fetch(f"http://localhost:{server.port}", guest.options) == KEY
        assert proxy.asked == []


# The files of a guest.


def test_says_which_file_is_missing_or_wrong(server: KbsServer, guest: Guest) -> None:
    for option in ("kbs-token", "tee-key"):
        missing = {**guest.options, option: "/nonexistent"}
        assert failure(server.url, missing) == f"the {option} '/nonexistent': No such file or directory"
    assert "there is no file '/nonexistent'" in failure(server.url, {**guest.options, "kbs-ca": "/nonexistent"})
    Path(guest.options["kbs-ca"]).with_name("empty").write_bytes(b"no certificate")
    empty = str(Path(guest.options["kbs-ca"]).with_name("empty"))
    assert "there is no TLS connection with 127.0.0.1" in failure(server.url, {**guest.options, "kbs-ca": empty})
    Path(guest.options["tee-key"]).chmod(0o640)
    assert "its group or others can read it" in failure(server.url, guest.options)
    assert server.asked == []


@pytest.mark.parametrize(
    "text", ["", "secret", "a.b.c d", "a.b.c\r\nX: y", "a.b", "a..c", "a.b.c.d", "ä.b.c", "a" * 2**20]
)
def test_what_is_no_token_is_not_sent(server: KbsServer, guest: Guest, text: str) -> None:
    Path(guest.options["kbs-token"]).write_text(text)
    assert "does not hold a token" in failure(server.url, guest.options, "secret")
    assert server.asked == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kbs-token": "a"}, "need each other"),
        ({"tee-key": "a"}, "need each other"),
        ({"tee": "snp"}, "knows sample alone"),
        ({"tee": "sample", "kbs-token": "a", "tee-key": "b"}, "in place of"),
        ({"tee": "sample", "aa-url": "http://127.0.0.1"}, "in place of"),
        ({"aa-url": "http://aa.example"}, "aa-url"),
    ],
)
def test_options_that_contradict_each_other(options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        kbs.create("https://kbs.example", options)


# Tokens from the attestation agent.


@pytest.fixture
def agent(guest: Guest) -> Iterator[Loopback]:
    """The agent's REST server, which has a good token."""
    reply = {"token": guest.token, "tee_keypair": pem(TEE_KEY).decode()}
    with Loopback(lambda asked: json_answer(reply)) as agent:
        yield agent


def stale(guest: Guest) -> None:
    Path(guest.options["kbs-token"]).write_text(issue_token({}, -600))
    Path(guest.options["tee-key"]).write_bytes(pem(ec_key(ec.SECP256R1)))


def test_a_new_token_takes_the_place_of_an_expired_one(server: KbsServer, guest: Guest, agent: Loopback) -> None:
    stale(guest)
    assert fetch(server.url, {**guest.options, "aa-url": agent.url}) == KEY
    assert [asked.path for asked in agent.asked] == ["/aa/token?token_type=kbs"]
    assert [asked.headers["authorization"] == f"Bearer {guest.token}" for asked in server.asked] == [False, True]


def test_a_good_token_is_not_renewed(server: KbsServer, guest: Guest, agent: Loopback) -> None:
    assert fetch(server.url, {**guest.options, "aa-url": agent.url}) == KEY
    server.denied.add(KID.path)
    assert "PolicyDeny" in failure(server.url, {**guest.options, "aa-url": agent.url}, guest.token)
    assert agent.asked == []


def test_tokens_are_renewed_once(server: KbsServer, guest: Guest, agent: Loopback) -> None:
    server.answer = lambda asked: error_answer("TokenVerifierError", "Token Verifier error")
    assert "TokenVerifierError" in failure(server.url, {**guest.options, "aa-url": agent.url}, guest.token)
    assert (len(server.asked), len(agent.asked)) == (2, 1)


def test_without_files_the_agent_has_the_token(
    server: KbsServer, agent: Loopback, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fetch(server.url, {"aa-url": agent.url, "kbs-ca": str(authority.file)}) == KEY
    monkeypatch.setattr(kbs, "_AGENT", agent.url)
    assert fetch(server.url, {"kbs-ca": str(authority.file)}) == KEY
    assert len(agent.asked) == 2


def test_says_that_the_agent_has_no_token(server: KbsServer, guest: Guest, authority: Authority) -> None:
    stale(guest)
    options = {**guest.options, "aa-url": "http://127.0.0.1:1"}
    assert "the attestation agent at http://127.0.0.1:1 has no token: " in failure(server.url, options)


# The handshake with the sample attester.


@pytest.mark.parametrize("algorithm", ["", "sha256", "sha384", "sha512", "sm3"])
def test_the_sample_attester(server: KbsServer, sample: dict[str, str], algorithm: str) -> None:
    server.selected_hash = algorithm
    assert fetch(server.url, sample) == KEY
    assert server.requests() == ["POST auth", "POST attest", "GET resource/default/image_key/nginx"]
    assert "authorization" not in server.asked[-1].headers


def test_every_handshake_has_its_own_key_and_session(server: KbsServer, sample: dict[str, str]) -> None:
    assert fetch(server.url, sample) == fetch(server.url, sample) == KEY
    attested = [json.loads(asked.body)["runtime-data"] for asked in server.asked if asked.path.endswith("attest")]
    assert len({data["tee-pubkey"]["x"] for data in attested}) == len({data["nonce"] for data in attested}) == 2
    assert "d" not in attested[0]["tee-pubkey"]


def test_one_handshake_serves_every_key(server: KbsServer, sample: dict[str, str]) -> None:
    source = kbs.create(server.url, sample)
    for _ in range(21):
        assert source.key(KID, limits.COCO_SOURCE_SECONDS) == KEY
    assert server.requests() == ["POST auth", "POST attest", *["GET resource/default/image_key/nginx"] * 21]
    server.forget_sessions()
    assert source.key(KID, limits.COCO_SOURCE_SECONDS) == KEY
    get = "GET resource/default/image_key/nginx"
    assert server.requests()[23:] == [get, "POST auth", "POST attest", get]


def test_the_sample_attester_may_be_denied(server: KbsServer, sample: dict[str, str]) -> None:
    server.denied.add(KID.path)
    assert "PolicyDeny" in failure(server.url, sample)


@pytest.mark.parametrize(
    ("challenge", "message"),
    [
        (b"", "its reply to auth is malformed"),
        (b"[]", "its reply to auth is malformed"),
        (b"{}", "has no nonce"),
        (b'{"nonce": 7}', "the nonce of its challenge is malformed"),
        (b'{"nonce": "*"}', "the nonce of its challenge is malformed"),
        (b'{"nonce": "AAAA", "extra-params": {"selected-hash-algorithm": "md5"}}', "the hash algorithm 'md5'"),
        (b'{"nonce": "AAAA", "extra-params": {"selected-hash-algorithm": ["sha256"]}}', "the hash algorithm "),
    ],
)
def test_malformed_challenges(server: KbsServer, sample: dict[str, str], challenge: bytes, message: str) -> None:
    server.answer = lambda asked: Answer(200, challenge)
    assert message in failure(server.url, sample)
    assert len(server.asked) == 1


def test_a_refused_attestation(server: KbsServer, sample: dict[str, str]) -> None:
    right = server.answer

    def answer(asked: Asked) -> Answer | None:
        return error_answer("AttestationError", "verifier") if asked.path.endswith("attest") else right(asked)

    server.answer = answer
    assert "it answers AttestationError ('verifier')" in failure(server.url, sample)
    assert server.requests() == ["POST auth", "POST attest"]


# As the provider and its command line use it.


def packet() -> bytes:
    return build_packet(seal(KID, KEY, private_options()))


def test_failures_name_the_source_and_the_key(server: KbsServer, guest: Guest) -> None:
    found = sources.parse_sources({"source": f"kbs:{server.url}", **guest.options})
    assert sources.unwrap_first(found, packet(), parse_packet(packet())) == private_options()
    for length in (31, 33):
        server.resources[KID.path] = KEY[:1] * length
        with pytest.raises(ProviderError) as caught:
            sources.unwrap_first(found, packet(), parse_packet(packet()))
        assert str(caught.value).startswith(f"source kbs:{server.url}, kid {KID}: ")
        assert f"{length} bytes" in str(caught.value)


def test_the_command_unwraps(server: KbsServer, guest: Guest) -> None:
    options = [text for name, value in guest.options.items() for text in (f"--{name}", value)]
    arguments = ["run", "--provider", "attestation-agent", "--source", f"kbs:{server.url}", *options]
    request = request_of("keyunwrap", packet())
    result = execute(*arguments, request=request)
    assert (result.returncode, result.stderr) == (0, b"")
    assert result_of(result.stdout) == private_options()
    server.denied.add(KID.path)
    result = execute(*arguments, request=request)
    assert (result.returncode, result.stdout) == (6, b"")
    assert f"source kbs:{server.url}, kid {KID}: it answers PolicyDeny" in result.stderr.decode()
    assert guest.token not in result.stderr.decode()


def test_one_handshake_for_all_layers_of_an_image(server: KbsServer, authority: Authority, tmp_path: Path) -> None:
    source = Layout(tmp_path / "source")
    publish(source, add_image(source, "amd64", [tar(str(number)) for number in range(5)]))
    (tmp_path / "image_key").write_bytes(KEY)
    recipient = f"provider:attestation-agent:keyid={KID}::keypath={tmp_path}/image_key"
    done("encrypt", oci(source), f"oci:{tmp_path}/encrypted", "--recipient", recipient)
    entry = {"native": "attestation-agent", "source": [f"kbs:{server.url}"], "tee": "sample"}
    config = configure(tmp_path / "config.json", {"attestation-agent": {**entry, "kbs-ca": str(authority.file)}})
    done(
        "decrypt", f"oci:{tmp_path}/encrypted", f"oci:{tmp_path}/plain", "--key", "provider:attestation-agent", **config
    )
    get = "GET resource/default/image_key/nginx"
    assert server.requests() == ["POST auth", "POST attest", *[get] * 5]
