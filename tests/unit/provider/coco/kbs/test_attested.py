"""Tokens from the attestation agent, and the handshake with the sample attester."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from decoder import limits
from decoder.provider.errors import ProviderError
from decoder.provider.services.coco import sources
from decoder.provider.services.coco.kbs import source as kbs
from decoder.provider.services.coco.packet import build_packet, parse_packet, seal
from tests.support.coco.kbs_parts import KEY, KID, TEE_KEY, Guest, failure, fetch
from tests.support.coco.kbs_server import KbsServer, error_answer, issue_token
from tests.support.image.command import done, oci
from tests.support.image.images import Layout
from tests.support.image.layouts import add_image, publish, tar
from tests.support.keywrap.layers import ec_key, pem, private_options
from tests.support.network.loopback import Answer, Asked, Authority, Loopback, json_answer
from tests.support.provider.serving import configure, execute, request_of, result_of

if TYPE_CHECKING:
    from collections.abc import Iterator

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
