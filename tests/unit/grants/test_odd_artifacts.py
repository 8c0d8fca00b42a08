"""Artifacts that a registry does not give or take, and what a long-running approver remembers."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from decoder import limits
from decoder.errors import DigestError, ImageError, UsageError
from decoder.grants import artifacts, keys, statements
from decoder.grants.approval.approver import WAITING
from decoder.grants.errors import StatementError
from decoder.grants.owner import Wanted, after_days, find_requests
from decoder.grants.statements import GRANT, REVOKED, Grant, Request, Tombstone
from decoder.layer.annotations import PrivateOptions, build_private_options
from decoder.provider.errors import ProviderError
from decoder.provider.policy import KeyPolicy
from decoder.provider.services.grants.service import Grants
from decoder.registry.hosts import UnreachableError
from tests.support.image.grants import ACCESS, ID, KEK, LAYER, NAME, Parties, Run, new_key, write_private
from tests.support.keywrap.layers import public_pem
from tests.support.network.loopback import Answer, Asked
from tests.support.network.x509_certificates import new_authority

if TYPE_CHECKING:
    from pathlib import Path

    from decoder.grants.artifacts import Artifact


OTHER_ID = "f" * 32


def fetched(parties: Parties, tag: str) -> Artifact | None:
    with artifacts.opened(parties.repository, ACCESS) as repository:
        return repository.get(tag)


def stored(parties: Parties, data: bytes) -> None:
    with artifacts.opened(parties.repository, ACCESS, "pull,push") as repository:
        repository.put(GRANT, "tag", data)


def answering(parties: Parties, method: str, part: str, answer: Answer) -> None:
    """Have the registry answer requests with this method and part of the path so."""
    usual = parties.registry.answer

    def given(asked: Asked) -> Answer | None:
        return answer if asked.method == method and part in asked.path else usual(asked)

    parties.registry.answer = given


def test_content_that_is_denied(parties: Parties) -> None:
    parties.grant()
    answering(parties, "GET", "/blobs/", Answer(403))
    with pytest.raises(ImageError, match=r"access is denied \(HTTP 403\)"):
        fetched(parties, parties.grant_tag)


def test_manifest_with_another_kind_of_digest(parties: Parties) -> None:
    parties.grant()
    key = f"{NAME}:{parties.grant_tag}"
    content, media_type = parties.registry.manifests[key]
    value = json.loads(content)
    value["layers"][0]["digest"] = f"sha512:{'0' * 128}"
    parties.registry.manifests[key] = json.dumps(value).encode(), media_type
    with pytest.raises(StatementError, match="its digest is not SHA-256"):
        fetched(parties, parties.grant_tag)


@pytest.mark.parametrize(
    ("answer", "kind", "reason"),
    [
        (Answer(400), ImageError, r"it does not accept a blob \(HTTP 400\)"),
        (
            Answer(201, b"", {"Docker-Content-Digest": f"sha256:{'0' * 64}"}),
            DigestError,
            "received something other than",
        ),
    ],
)
def test_content_that_is_not_accepted(answer: Answer, kind: type[ImageError], reason: str, parties: Parties) -> None:
    answering(parties, "PUT", "/uploads/", answer)
    with pytest.raises(kind, match=reason):
        stored(parties, b"content")
    assert f"{NAME}:tag" not in parties.registry.manifests


def test_statement_that_is_too_long(parties: Parties) -> None:
    before = len(parties.registry.asked)
    with pytest.raises(UsageError, match=f"the grant has more than {limits.GRANTS_ARTIFACT_BYTES} bytes"):
        stored(parties, bytes(limits.GRANTS_ARTIFACT_BYTES + 1))
    assert [asked.method for asked in parties.registry.asked[before:]] == ["GET"]  # the version of the API


def test_grant_that_ends_while_it_is_kept(parties: Parties) -> None:
    grant = Grant(parties.repository, ID, parties.node_print, KEK, (LAYER,), "0" * 64, 1, int(time.time()) + 3600)
    parties.client().check(grant)
    with pytest.raises(ProviderError, match="the grant for this node ended on 1970-01-01 00:00 UTC"):
        parties.client().check(grant._replace(expires=1))


@pytest.mark.parametrize("kind", ["malformed", "foreign"])
def test_request_that_takes_the_place_of_something_else(kind: str, parties: Parties) -> None:
    """Anybody who may push there can put something in the place of a node's request."""
    tag, requests = artifacts.request_tag(ID, parties.node_print), artifacts.requests_of(NAME)
    parties.put(tag, b"no request", requests)
    if kind == "malformed":
        parties.registry.manifests[f"{requests}:{tag}"] = b"{}", "application/vnd.oci.image.manifest.v1+json"
    with pytest.raises(ProviderError, match="there is no grant for this node; the request is in "):
        parties.client().fetch(parties.place, 5)
    assert statements.parse_request(parties.get(tag, requests)).node == parties.node_print


def test_tombstone_that_takes_the_place_of_something_else(parties: Parties) -> None:
    key = f"{NAME}:{parties.grant_tag}"
    parties.registry.manifests[key] = b"{}", "application/vnd.oci.image.manifest.v1+json"
    with parties.acting() as owner:
        assert owner.bury(ID, parties.node_print, REVOKED) == (False, False)
        state = owner.state(ID, parties.node_print)
    assert isinstance(state, Tombstone)
    assert state.reason == REVOKED


def test_request_that_is_gone_when_it_is_read(parties: Parties) -> None:
    with pytest.raises(ProviderError, match="there is no grant"):
        parties.client().fetch(parties.place, 5)
    answering(parties, "GET", "/manifests/request-", Answer(404))
    with artifacts.opened(f"{parties.registry.host}/{artifacts.requests_of(NAME)}", ACCESS) as requests:
        assert find_requests(requests, parties.repository, Wanted()) == ([], [], 0)
        assert len(requests.tags("request")) == 1


def test_grants_that_are_forgotten_are_fetched_again(parties: Parties, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer is checked against the grant of its image, however many images there were since."""
    monkeypatch.setattr(limits, "GRANTS_REMEMBERED_IMAGES", 1)
    parties.grant()
    grant = Grant(parties.repository, OTHER_ID, parties.node_print, KEK, (LAYER,), "0" * 64, 1, after_days(1))
    other = keys.encrypt(statements.build_grant(grant, parties.owner), [parties.node.public])
    parties.put(artifacts.grant_tag(OTHER_ID, parties.node_print), other)
    service = Grants(parties.client(), KeyPolicy("", ()), 1)
    options = build_private_options(PrivateOptions(bytes(32), bytes(16), LAYER))
    uses = []
    for identifier in (ID, OTHER_ID):
        members = {"key_url": f"grants://{parties.repository}", "wrap_type": "grants/1", "id": identifier}
        use = service.unwrap(json.dumps(members).encode(), [])
        assert use.run(5).endswith(KEK)
        uses.append(use)
    for use, is_fetched in zip(reversed(uses), (False, True), strict=True):
        assert use.check
        before = len(parties.registry.asked)
        use.check(options, 5)
        assert (len(parties.registry.asked) > before) == is_fetched


def test_an_approver_forgets_requests_rather_than_grow(
    parties: Parties, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "REGISTRY_TAGS", 1)
    (tmp_path / "publisher.pub").write_bytes(public_pem(parties.publisher._private))
    (tmp_path / "ca.pem").write_bytes(new_authority().certificate.public_bytes(Encoding.PEM))
    members = {
        "key": str(write_private(tmp_path / "owner.key", parties.owner)),
        "publishers": [str(tmp_path / "publisher.pub")],
        "repositories": [parties.repository],
        "rules": [{"repositories": ["*"], "ca": str(tmp_path / "ca.pem"), "names": ["*"]}],
        "state": str(tmp_path / "state.json"),
    }
    (tmp_path / "policy.json").write_text(json.dumps(members))
    for _ in range(3):
        node = new_key()
        request = Request(parties.repository, ID, node.public, "node", "", (), int(time.time()))
        tag = artifacts.request_tag(ID, keys.fingerprint(node.public))
        parties.put(tag, statements.build_request(request, node), artifacts.requests_of(NAME))
    run = Run(tmp_path / "policy.json", parties)
    assert run.round()
    assert (run.decisions, len(run.lines), run.approver.waiting) == ({WAITING: 3}, 3, 1)
    assert run.round()  # those that it has forgotten
    assert (run.decisions, len(run.lines)) == ({WAITING: 5}, 5)


def test_content_that_breaks_off(parties: Parties) -> None:
    parties.grant()
    answering(parties, "GET", "/blobs/", Answer(200, b"no chunk\r\n", {"Transfer-Encoding": "chunked"}))
    with pytest.raises(UnreachableError, match="ended the connection"):
        fetched(parties, parties.grant_tag)
