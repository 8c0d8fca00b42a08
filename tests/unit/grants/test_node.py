"""The keyprovider `grants` on a node: its options, its logins, how it asks, and how it waits."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from decoder.errors import ProviderFailedError, UsageError
from decoder.grants import artifacts, keys, statements
from decoder.grants.owner import after_days
from decoder.grants.place import Place, build_place, parse_place
from decoder.grants.statements import DENIED
from decoder.keys.keyring import DecryptConfig, Keyring
from decoder.keywrap.keyprovider import KeyProvider
from decoder.layer.annotations import PrivateOptions, build_private_options
from decoder.provider import create, envelope, identity
from decoder.provider.client.config import parse_config
from decoder.provider.errors import ProviderError
from decoder.provider.server.service import Service
from tests.support.image.grants import ID, KEK, LAYER, NAME, Parties, new_key, write_private
from tests.support.keywrap.layers import encrypted, pem, private_options, public_pem, rsa_key
from tests.support.network.loopback import Answer, Asked
from tests.support.network.x509_certificates import client_certificate, new_authority
from tests.support.program.processes import ROOT
from tests.support.provider.client_parts import PLAINTEXT, configuration, decrypt
from tests.support.provider.serving import Server, execute, request_of, result_of
from tests.support.registry.memory_registry import MemoryRegistry

if TYPE_CHECKING:
    from decoder.keywrap.unproven import Unproven

PUBLIC = ROOT / "tests/vectors/keys/rsa2048.pub.pem"
OPTIONS = build_private_options(PrivateOptions(bytes(32), bytes(16), LAYER))
REQUESTS = artifacts.requests_of(NAME)


@pytest.fixture
def entry(parties: Parties, tmp_path: Path) -> dict[str, Any]:
    """The entry of a configuration."""
    key = write_private(tmp_path / "node.key", parties.node)
    (tmp_path / "owner.pub").write_bytes(public_pem(parties.owner._private))
    pinned = f"127.0.0.1:*/team/*={tmp_path / 'owner.pub'}"
    return {"native": "grants", "key": str(key), "owner": [pinned], "name": "worker-1"}


def wrapped(parties: Parties, options: bytes = OPTIONS) -> bytes:
    """Wrap private options as `image encrypt` does."""
    return envelope.seal(envelope.KEK_PREFIX + KEK, "grants", build_place(parties.place), options)


def opened(parties: Parties, entry: dict[str, Any], directory: Path, options: bytes = OPTIONS) -> bytes | Unproven:
    """Have the keyprovider open them."""
    config = DecryptConfig(Keyring(), keyprovider_config=configuration(directory, {"grants": entry}))
    return KeyProvider("grants").unwrap(wrapped(parties, options), config, lambda _key, _reason: None)


def failure(parties: Parties, entry: dict[str, Any], directory: Path, options: bytes = OPTIONS) -> str:
    with pytest.raises(ProviderFailedError) as found:
        opened(parties, entry, directory, options)
    return str(found.value)


def the_request(parties: Parties) -> statements.Request:
    (tag,) = parties.registry.tags(REQUESTS)
    return statements.parse_request(parties.get(tag, REQUESTS))


def test_a_grant_opens_a_layer(parties: Parties, entry: dict[str, Any], tmp_path: Path) -> None:
    parties.grant()
    assert opened(parties, entry, tmp_path) == OPTIONS


def test_a_layer_that_the_publisher_does_not_know(parties: Parties, entry: dict[str, Any], tmp_path: Path) -> None:
    parties.grant()
    other = build_private_options(PrivateOptions(bytes(32), bytes(16), f"sha256:{'2' * 64}"))
    assert "is not one of the layers in the grant" in failure(parties, entry, tmp_path, other)


def test_a_node_asks(parties: Parties, entry: dict[str, Any], tmp_path: Path) -> None:
    text = failure(parties, entry, tmp_path)
    command = (
        f"ctd-decoder grants approve --key OWNER.key {parties.repository} {ID} {keys.FINGERPRINT}{parties.node_print}"
    )
    assert command in text
    assert f"the request is in {parties.repository}-requests" in text
    request = the_request(parties)
    assert (request.name, request.image, request.certificates) == ("worker-1", "", ())
    assert request.node == parties.node_print
    assert abs(request.made - time.time()) < 60
    assert parties.registry.tags(NAME) == [artifacts.sealed_tag(ID)]  # nothing is pushed beside the image


def test_a_node_does_not_ask_again_at_once(parties: Parties, entry: dict[str, Any], tmp_path: Path) -> None:
    def pushes() -> int:
        return sum(asked.method == "PUT" for asked in parties.registry.asked)

    failure(parties, entry, tmp_path)
    before = pushes()
    failure(parties, entry, tmp_path)
    assert pushes() == before
    failure(parties, {**entry, "name": "other"}, tmp_path)
    assert pushes() > before
    assert the_request(parties).name == "other"


def test_a_certificate_goes_along(parties: Parties, entry: dict[str, Any], tmp_path: Path) -> None:
    authority = new_authority()
    der = client_certificate(parties.node.public, "worker-1", authority)
    text = x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
    (tmp_path / "node.pem").write_bytes(text)
    failure(parties, {**entry, "certificate": str(tmp_path / "node.pem")}, tmp_path)
    assert the_request(parties).certificates == (der,)
    key = Path(entry["key"])
    key.write_bytes(key.read_bytes() + text)  # both in one file, as kubelets have it
    failure(parties, {**entry, "name": "again"}, tmp_path)
    assert the_request(parties).certificates == (der,)


def test_a_node_that_may_only_read(parties: Parties, entry: dict[str, Any], tmp_path: Path) -> None:
    parties.registry.read_only.add(REQUESTS)
    text = failure(parties, entry, tmp_path)
    assert f"could not be left in {parties.repository}-requests" in text
    line = text.split("--request ")[1].split(";")[0].split()[0]
    request = statements.parse_request(line.encode())
    assert (request.node, request.id, request.repository) == (parties.node_print, ID, parties.repository)
    assert len(line) < 1500


def test_requests_elsewhere(parties: Parties, entry: dict[str, Any], tmp_path: Path) -> None:
    text = failure(parties, {**entry, "requests": f"{parties.registry.host}/asked"}, tmp_path)
    assert parties.registry.tags("asked") == [artifacts.request_tag(ID, parties.node_print)]
    assert f" --requests {parties.registry.host}/asked" in text


def test_a_node_that_was_denied_does_not_push(parties: Parties, entry: dict[str, Any], tmp_path: Path) -> None:
    with parties.acting() as owner:
        owner.bury(ID, parties.node_print, DENIED)
    text = failure(parties, {**entry, "wait": "100"}, tmp_path)
    assert "the owner has denied access for this node" in text
    assert "--request ey" in text
    assert parties.registry.tags(REQUESTS) == []


def test_a_node_waits(parties: Parties, entry: dict[str, Any], tmp_path: Path) -> None:
    def approve() -> None:
        while not parties.registry.tags(REQUESTS):
            time.sleep(0.02)
        with parties.acting() as owner:
            owner.grant(ID, the_request(parties).key, after_days(1))

    thread = threading.Thread(target=approve)
    thread.start()
    assert opened(parties, {**entry, "wait": "60"}, tmp_path) == OPTIONS
    thread.join()


def test_a_node_waits_for_so_long_and_with_pauses(parties: Parties, entry: dict[str, Any], tmp_path: Path) -> None:
    began = time.monotonic()
    failure(parties, {**entry, "wait": "2"}, tmp_path)
    assert time.monotonic() - began >= 2
    looks = [asked for asked in parties.registry.asked if parties.grant_tag in asked.path]
    assert 2 <= len(looks) <= 6


def test_waiting_takes_its_time_from_nobody() -> None:
    def seconds(**entry: object) -> float:
        (found,) = parse_config(json.dumps({"key-providers": {"x": {"native": "grants", **entry}}}).encode()).providers
        return found.seconds

    assert seconds() == 30
    assert seconds(wait="100") == 150
    assert seconds(wait="9999") == seconds(wait="450") == 570
    assert seconds(wait="100", timeout=20) == 20
    assert seconds(wait="x") == seconds(wait=7) == 30


@pytest.mark.parametrize("verb", ["command", "check"])
def test_the_logins_of_the_kubelet(
    parties: Parties, entry: dict[str, Any], tmp_path: Path, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are looked for after those of docker and podman."""
    parties.grant()
    honest = parties.registry.answer

    def answer(asked: Asked) -> Answer | None:
        if asked.headers.get("authorization") != "Basic a3ViZTpsZXQ=":
            return Answer(401, b"{}", {"WWW-Authenticate": 'Basic realm="test"'})
        return honest(asked)

    parties.registry.answer = answer
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "it needs a login" in failure(parties, entry, tmp_path)
    logins = tmp_path / "config.json"
    logins.write_text(json.dumps({"auths": {parties.registry.host: {"auth": "a3ViZTpsZXQ="}}}))
    if verb == "check":
        monkeypatch.setattr(artifacts, "KUBELET", (str(tmp_path / "missing"), str(logins)))
        assert opened(parties, entry, tmp_path) == OPTIONS
    else:
        assert opened(parties, {**entry, "authfile": str(logins)}, tmp_path) == OPTIONS
    assert artifacts.KUBELET[0] == "/var/lib/kubelet/config.json" or verb == "check"


def test_a_node_asks_for_no_more_rights_than_it_needs() -> None:
    """Of a registry that gives tokens: to read where grants are, to write where requests are, and nothing else."""
    with MemoryRegistry(wants_token=True) as registry:
        parties = Parties(registry, new_key(), new_key(), new_key())
        parties.put_sealed()
        with pytest.raises(ProviderError, match="there is no grant"):
            parties.client().fetch(parties.place, 5)
        scopes = {each for asked in registry.asked for each in parse_qs(urlsplit(asked.path).query).get("scope", [])}
        assert scopes == {f"repository:{NAME}:pull", f"repository:{REQUESTS}:pull,push"}
        parties.grant()
        assert parties.client().fetch(parties.place, 5).kek == KEK


def test_as_a_command(parties: Parties, entry: dict[str, Any]) -> None:
    arguments = ["run", "--provider", "grants", "--key", entry["key"], "--owner", entry["owner"][0]]
    asked = request_of("keyunwrap", wrapped(parties))
    done = execute(*arguments, request=asked)
    assert (done.returncode, b"there is no grant for this node" in done.stderr) == (6, True)
    began = time.monotonic()
    done = execute(*arguments, "--wait", "3", request=asked)
    assert (done.returncode, time.monotonic() - began >= 3) == (6, True)
    parties.grant()
    done = execute(*arguments, request=asked)
    assert result_of(done.stdout) == OPTIONS


def test_no_key_encryption_key_is_given_away(parties: Parties, entry: dict[str, Any]) -> None:
    """Whoever had it could open layers that the publisher does not know."""
    parties.grant()
    options = {name: value for name, value in entry.items() if name != "native"}
    provider = create("grants", options)
    for data in (build_place(parties.place), envelope.KEK_PREFIX + bytes(32)):
        for operation in ("unwrap-kek", "wrap-kek"):
            with pytest.raises(ProviderError):
                provider.perform(operation, data, [])
    with pytest.raises(ProviderError, match="not private options"):
        provider.unwrap(build_place(parties.place), [])
    with pytest.raises(ProviderError, match="image encrypt"):
        provider.wrap(OPTIONS, [])
    assert Service(provider, ()).provider.unwrap(wrapped(parties), []) == OPTIONS


def test_as_a_server(parties: Parties, entry: dict[str, Any], tmp_path: Path) -> None:
    """Our client gets no key-encryption key, and so has the server open each layer, and check it."""
    parties.grant()
    arguments = ["--provider", "grants", "--key", entry["key"], "--owner", entry["owner"][0]]
    with Server(tmp_path, *arguments, "--listen", f"unix://{tmp_path / 'socket'}") as server:
        remote = {"grpc": f"unix://{tmp_path / 'socket'}"}
        for _ in range(2):
            assert opened(parties, remote, tmp_path) == OPTIONS
        other = build_private_options(PrivateOptions(bytes(32), bytes(16), f"sha256:{'2' * 64}"))
        assert "is not one of the layers in the grant" in failure(parties, remote, tmp_path, other)
    assert {line["operation"] for line in server.audit} == {"unwrap"}


def test_the_decoder_fails_with_status_6(parties: Parties, entry: dict[str, Any], tmp_path: Path) -> None:
    config = configuration(tmp_path, {"grants": entry})
    layer = encrypted(PLAINTEXT, {"provider.grants": [wrapped(parties, private_options())]})
    result = decrypt(config, layer)
    assert (result.status, result.plaintext) == (6, b"")
    assert f"fingerprint of this node, {keys.FINGERPRINT}{parties.node_print}" in result.errors


def test_what_is_kept_depends_on_the_files_of_owners(entry: dict[str, Any]) -> None:
    """A key-encryption key that is kept is not used after its owner was replaced."""
    options = {name: value for name, value in entry.items() if name != "native"}
    before = identity("grants", options)
    assert identity("grants", options) == before
    owner = Path(entry["owner"][0].partition("=")[2])
    owner.write_bytes(public_pem(rsa_key(2048)))
    assert identity("grants", options) != before


def test_wrapping_says_how_it_is_done(parties: Parties, entry: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ProviderFailedError, match="encrypt with `ctd-decoder image encrypt"):
        KeyProvider("grants", configuration(tmp_path, {"grants": entry})).wrap(OPTIONS, [b"x"])


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"key": ""}, "needs the options key and owner"),
        ({"owner": []}, "needs the options key and owner"),
        ({"owner": ["/tmp/owner.pub"]}, "is PATTERN=FILE"),
        ({"owner": ["x=/missing"]}, "the owner's key '/missing'"),
        ({"key": "/missing"}, "the key '/missing'"),
        ({"wait": "1000"}, "the option wait is a number of seconds up to 450"),
        ({"wait": "-1"}, "the option wait is a number of seconds up to 450"),
        ({"wait": "1" * 5000}, "the option wait is a number of seconds up to 450"),
        ({"requests": "host.example/x:tag"}, "only a repository is needed"),
        ({"certificate": "/missing"}, "the certificate '/missing'"),
        ({"certificate": str(PUBLIC)}, f"the certificate '{PUBLIC}': it holds none in PEM form"),
        ({"name": "x" * 1000}, "the name is longer than"),
    ],
)
def test_options_that_cannot_be_used(entry: dict[str, Any], changes: dict[str, Any], text: str) -> None:
    options = {name: value for name, value in {**entry, **changes}.items() if name != "native"}
    with pytest.raises((UsageError, ProviderError), match=text):
        create("grants", options)


def test_a_request_has_room_for_few_certificates(entry: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "chain.pem"
    path.write_bytes((ROOT / "tests/vectors/keys/cert1.pem").read_bytes() * 5)
    with pytest.raises(ProviderError, match="a request has room for 4 certificates of 4096 bytes each"):
        create("grants", {"key": entry["key"], "owner": entry["owner"], "certificate": str(path)})


def test_a_key_that_others_can_read(entry: dict[str, Any]) -> None:
    Path(entry["key"]).chmod(0o644)
    with pytest.raises(ProviderError, match="chmod 600"):
        create("grants", {"key": entry["key"], "owner": entry["owner"]})


def test_allow_key_holds_for_repositories(parties: Parties, entry: dict[str, Any], tmp_path: Path) -> None:
    parties.grant()
    assert opened(parties, {**entry, "allow-key": ["grants://127.0.0.1:*"]}, tmp_path) == OPTIONS
    assert "does not match any allow-key" in failure(parties, {**entry, "allow-key": ["grants://x/*"]}, tmp_path)


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"key_url": "grants://registry.example/app", "wrap_type": "grants/1", "id": "x"},
        {"key_url": "grants://registry.example/app", "wrap_type": "grants/2", "id": ID},
        {"key_url": "grants://registry.example/app:tag", "wrap_type": "grants/1", "id": ID},
        {"key_url": "grants://registry.example/../app", "wrap_type": "grants/1", "id": ID},
        {"key_url": "registry.example/app", "wrap_type": "grants/1", "id": ID},
        {"key_url": "grants://index.docker.io/app", "wrap_type": "grants/1", "id": ID},
        {"key_url": "grants://a@b/app", "wrap_type": "grants/1", "id": ID},
        {"key_url": 7, "wrap_type": "grants/1", "id": ID},
    ],
)
def test_annotations_that_name_no_place(members: dict[str, object]) -> None:
    with pytest.raises(ProviderError):
        parse_place(json.dumps(members).encode())


def test_annotations_are_bounded() -> None:
    long = json.dumps({"key_url": "grants://registry.example/app", "wrap_type": "grants/1", "id": ID, "x": "x" * 2**17})
    with pytest.raises(ProviderError, match="the annotation is longer than 131072 bytes"):
        parse_place(long.encode())


def test_annotations_that_name_a_place() -> None:
    place = Place("registry.example:5000/team/app", ID)
    assert parse_place(build_place(place)) == place


def test_keys_that_are_too_weak(tmp_path: Path) -> None:
    path = tmp_path / "weak.key"
    path.write_bytes(pem(rsa_key(1024)))
    with pytest.raises(Exception, match="1024 bits"):
        keys.read_own_key(str(path))
