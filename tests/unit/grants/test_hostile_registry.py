"""A registry that serves whatever it likes: a node opens nothing wrong with it, and an owner gives nothing away."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from decoder import limits
from decoder.errors import ImageError
from decoder.grants import artifacts, keys, statements
from decoder.grants.errors import StatementError
from decoder.grants.owner import Wanted, after_days, find_requests
from decoder.grants.place import build_place
from decoder.grants.statements import DENIED, REVOKED, Grant, Request, Tombstone
from decoder.layer.annotations import PrivateOptions, build_private_options
from decoder.provider.errors import KeyRefusedError, ProviderError
from decoder.provider.policy import KeyPolicy
from decoder.provider.services.grants.service import Grants
from tests.support.image.grants import ACCESS, ID, KEK, LAYER, NAME, Parties, new_key
from tests.support.network.loopback import Answer

OTHER_ID = "f" * 32
REQUESTS = artifacts.requests_of(NAME)


def granted(parties: Parties, **changes: Any) -> bytes:
    """Return a grant of the owner for the node, changed before it was signed."""
    grant = Grant(parties.repository, ID, parties.node_print, KEK, (LAYER,), "0" * 64, 1, after_days(1))
    signed = statements.build_grant(grant._replace(**changes), parties.owner)
    return keys.encrypt(signed, [parties.node.public])


def refused(parties: Parties, text: str) -> str:
    """Have the node fetch its grant, which must fail."""
    with pytest.raises(ProviderError, match=text) as found:
        parties.client().fetch(parties.place, 5)
    return str(found.value)


def test_the_honest_case(parties: Parties) -> None:
    parties.put(parties.grant_tag, granted(parties))
    assert parties.client().fetch(parties.place, 5).kek == KEK
    parties.grant()
    found = parties.client().fetch(parties.place, 5)
    assert (found.kek, found.layers, found.publisher) == (KEK, (LAYER,), keys.fingerprint(parties.publisher.public))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"id": OTHER_ID}, "is about the key"),
        ({"repository": "other.example/app"}, "is about the repository"),
        ({"node": "0" * 64}, "is for the node"),
        ({"expires": 1}, "ended on 1970-01-01"),
    ],
    ids=["of-another-image", "of-another-repository", "of-another-node", "of-another-time"],
)
def test_grants_that_were_swapped_or_replayed(parties: Parties, changes: dict[str, Any], text: str) -> None:
    """The owner has signed each, and it is even encrypted to the node."""
    parties.put(parties.grant_tag, granted(parties, **changes))
    refused(parties, text)


def test_a_foreign_grant(parties: Parties) -> None:
    stranger = new_key()
    grant = Grant(parties.repository, ID, parties.node_print, bytes(32), (LAYER,), "0" * 64, 1, after_days(1))
    signed = statements.build_grant(grant, stranger)
    parties.put(parties.grant_tag, keys.encrypt(signed, [parties.node.public]))
    refused(parties, "and that key is not trusted for this")


def test_a_grant_for_somebody_else(parties: Parties) -> None:
    parties.put(parties.grant_tag, keys.encrypt(b"x", [new_key().public]))
    refused(parties, "not encrypted to this key")


def test_one_node_cannot_pass_its_grant_on(parties: Parties) -> None:
    """A node can open its grant, and encrypt what the owner has signed to another node."""
    parties.grant()
    signed = parties.node.open(parties.get(parties.grant_tag))
    other = new_key()
    tag = artifacts.grant_tag(ID, keys.fingerprint(other.public))
    parties.put(tag, keys.encrypt(signed, [other.public]))
    with pytest.raises(ProviderError, match="is for the node"):
        parties.client(other).fetch(parties.place, 5)


def test_truncated_grants(parties: Parties) -> None:
    whole = granted(parties)
    for length in (0, 1, 2, len(whole) // 2, len(whole) - 1):
        parties.put(parties.grant_tag, whole[:length])
        refused(parties, "not a grant")


def test_a_grant_that_is_not_encrypted_or_not_signed(parties: Parties) -> None:
    signed = parties.node.open(granted(parties))
    plain = json.dumps({"kek": "AAAA", "repository": parties.repository, "id": ID}).encode()
    for data in (signed, plain, keys.encrypt(plain, [parties.node.public]), b"null", b"[]"):
        parties.put(parties.grant_tag, data)
        refused(parties, "not a grant")


def test_a_sealed_key_is_no_grant(parties: Parties) -> None:
    signed = statements.build_sealed_key(parties.sealed(owners=(parties.node_print,)), parties.owner)
    parties.put(parties.grant_tag, keys.encrypt(signed, [parties.node.public]))
    refused(parties, "it is not a grant")


@pytest.mark.parametrize("name", ["layers", "config", "manifest"])
def test_manifests_that_are_not_what_they_should_be(parties: Parties, name: str) -> None:
    parties.grant()
    key = f"{NAME}:{parties.grant_tag}"
    content, media_type = parties.registry.manifests[key]
    value = json.loads(content)
    changed: list[object] = [[], "x", {}]
    if name == "layers":
        changed = [{**value, "layers": layers} for layers in ([], value["layers"] * 2, [7], [{"digest": "../../x"}])]
    elif name == "config":
        changed = [{**value, "layers": [{**value["layers"][0], "digest": value["config"]["digest"]}]}]
    for each in changed:
        parties.registry.manifests[key] = (json.dumps(each).encode(), media_type)
        refused(parties, "not a grant|content of")


def test_content_that_has_another_digest(parties: Parties) -> None:
    parties.grant()
    manifest = json.loads(parties.registry.manifests[f"{NAME}:{parties.grant_tag}"][0])
    parties.registry.blobs[manifest["layers"][0]["digest"]] = granted(parties)
    refused(parties, "its digest differs")


def test_answers_without_an_end(parties: Parties) -> None:
    parties.grant()
    key = f"{NAME}:{parties.grant_tag}"
    content, media_type = parties.registry.manifests[key]
    parties.registry.manifests[key] = (content + b" " * limits.GRANTS_ARTIFACT_BYTES, media_type)
    refused(parties, "more than 262144 bytes")
    parties.registry.manifests[key] = content, media_type
    layer = json.loads(content)["layers"][0]["digest"]
    parties.registry.blobs[layer] += b" " * limits.GRANTS_ARTIFACT_BYTES
    refused(parties, "more than 262144 bytes")


def test_a_tag_that_was_deleted(parties: Parties) -> None:
    parties.grant()
    del parties.registry.manifests[f"{NAME}:{parties.grant_tag}"]
    text = refused(parties, "there is no grant for this node")
    assert f"{keys.FINGERPRINT}{parties.node_print}" in text
    assert f"approve --key OWNER.key {parties.repository} {ID}" in text


def test_an_old_grant_that_comes_back(parties: Parties) -> None:
    """Until it ends: that is what its end is for."""
    parties.grant(days=1)
    old = parties.get(parties.grant_tag)
    with parties.acting() as owner:
        owner.bury(ID, parties.node_print, REVOKED)
    refused(parties, "the owner has revoked access")
    parties.put(parties.grant_tag, old)
    found = parties.client().fetch(parties.place, 5)
    assert found.expires <= after_days(1)


@pytest.mark.parametrize("reason", [DENIED, REVOKED])
def test_tombstones_of_others(parties: Parties, reason: str) -> None:
    """A tombstone for another node, or of a stranger, says nothing; nor does it keep the node from asking."""
    for signer, node in ((new_key(), parties.node_print), (parties.owner, "0" * 64)):
        tombstone = Tombstone(parties.repository, ID, node, reason, 1)
        parties.put(parties.grant_tag, statements.build_tombstone(tombstone, signer))
        refused(parties, "not a grant")
    assert artifacts.request_tag(ID, parties.node_print) in parties.registry.tags(REQUESTS)


def test_nobody_asks_a_registry_that_no_owner_belongs_to(parties: Parties) -> None:
    """An image may name any host: a node would tell it who it is."""
    parties.grant()
    before = len(parties.registry.asked)
    with pytest.raises(KeyRefusedError, match="no owner is configured"):
        parties.client(pattern="registry.example/*").fetch(parties.place, 5)
    assert len(parties.registry.asked) == before


def test_layers_that_the_publisher_has_not_encrypted(parties: Parties) -> None:
    """Every node of an image has the key under which layers are wrapped; only what the publisher named is opened."""
    parties.grant()
    service = Grants(parties.client(), KeyPolicy("", ()), 1)
    use = service.unwrap(b'{"key_url":"grants://%s","wrap_type":"grants/1","id":"%s"}' % (
        parties.repository.encode(), ID.encode()), [])  # fmt: skip
    assert use.check
    assert use.run(5).endswith(KEK)
    for digest, is_known in ((LAYER, True), (f"sha256:{'2' * 64}", False)):
        options = build_private_options(PrivateOptions(bytes(32), bytes(16), digest))
        if is_known:
            use.check(options, 5)
        else:
            with pytest.raises(ProviderError, match="not one of the layers in the grant"):
                use.check(options, 5)
    with pytest.raises(ProviderError, match="malformed"):
        use.check(b"{}", 5)


def test_the_key_of_a_grant_that_was_kept(parties: Parties) -> None:
    """Its layers are still compared with those of the grant, which is fetched again."""
    parties.grant()
    service = Grants(parties.client(), KeyPolicy("", ()), 1)
    assert service.check(1) == (["the node's key can be used; owners whose grants are accepted: 1"], [])
    use = service.unwrap(build_place(parties.place), [])
    assert use.check
    use.check(build_private_options(PrivateOptions(bytes(32), bytes(16), LAYER)), 5)
    other = build_private_options(PrivateOptions(bytes(32), bytes(16), f"sha256:{'2' * 64}"))
    with pytest.raises(ProviderError, match="not one of the layers in the grant"):
        use.check(other, 5)


# The owner.


def not_granted(parties: Parties, text: str) -> None:
    """Have the owner approve, which must fail before anything is written."""
    before = dict(parties.registry.manifests)
    with parties.acting() as owner, pytest.raises(StatementError, match=text or None):
        owner.grant(ID, parties.node.public, after_days(1))
    assert parties.registry.manifests == before


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"id": OTHER_ID}, "is about the key"),
        ({"repository": "other.example/app"}, "is about the repository"),
        ({"owners": ("0" * 64,)}, "created for other owners"),
    ],
    ids=["of-another-image", "of-another-repository", "of-another-owner"],
)
def test_sealed_keys_that_were_swapped(parties: Parties, changes: dict[str, Any], text: str) -> None:
    """A registry puts one image's sealed key where rules approve that of another."""
    parties.put_sealed(parties.sealed(**changes))
    not_granted(parties, text)


def test_a_sealed_key_of_an_attacker(parties: Parties) -> None:
    parties.put_sealed(parties.sealed(kek=bytes(32)), signer=new_key())
    not_granted(parties, "and that key is not trusted for this")


def test_owners_are_no_publishers(parties: Parties) -> None:
    """Unless they are named as such: an owner's signature under a sealed key is not enough."""
    parties.put_sealed(signer=parties.owner)
    not_granted(parties, "and that key is not trusted for this")


def test_sealed_keys_that_are_missing_or_damaged(parties: Parties) -> None:
    tag = artifacts.sealed_tag(ID)
    whole = parties.get(tag)
    for data in (b"", whole[:-10], whole[: len(whole) // 2], b"{}", granted(parties)):
        parties.put(tag, data)
        not_granted(parties, "")
    del parties.registry.manifests[f"{NAME}:{tag}"]
    not_granted(parties, "was sealed-0123.* deleted")


def request(parties: Parties, **changes: Any) -> Request:
    found = Request(parties.repository, ID, parties.node.public, "w1", "", (), int(time.time()))
    return found._replace(**changes)


def found_in(parties: Parties, wanted: Wanted = Wanted()) -> Any:  # noqa: B008 - it is immutable
    with artifacts.opened(artifacts.requests_of(parties.repository), ACCESS) as requests:
        return find_requests(requests, parties.repository, wanted)


def put_request(parties: Parties, data: bytes, tag: str = "") -> None:
    parties.put(tag or artifacts.request_tag(ID, parties.node_print), data, REQUESTS)


def without_proof(parties: Parties) -> bytes:
    """A request with the key of the node, which somebody else has signed."""
    whole = statements.build_request(request(parties), parties.node)
    other = statements.build_request(request(parties), new_key())
    return whole.rpartition(b".")[0] + b"." + other.rpartition(b".")[2]


@pytest.mark.parametrize(
    "make",
    [
        without_proof,
        lambda parties: statements.build_request(request(parties), parties.node)[:-9],
        lambda parties: statements.build_request(request(parties, id=OTHER_ID), parties.node),
        lambda parties: statements.build_request(request(parties, key=new_key().public), new_key()),
        lambda _parties: b"{}",
        lambda _parties: b"",
        granted,
    ],
    ids=["without-proof", "truncated", "for-another-image", "of-another-node", "json", "empty", "a-grant"],
)
def test_requests_that_are_none(parties: Parties, make: Callable[[Parties], bytes]) -> None:
    put_request(parties, make(parties))
    found = found_in(parties)
    assert (found.requests, len(found.problems)) == ([], 1)


def test_a_request_for_another_repository_is_not_listed(parties: Parties) -> None:
    put_request(parties, statements.build_request(request(parties, repository="other.example/app"), parties.node))
    assert found_in(parties) == ([], [], 0)


def test_a_flood_of_requests(parties: Parties, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "GRANTS_LISTED", 20)
    for number in range(50):
        put_request(parties, b"junk", artifacts.request_tag(ID, f"{number:064x}"))
    real = statements.build_request(request(parties), parties.node)
    put_request(parties, real)
    parties.registry._page = 7
    before = len(parties.registry.asked)
    found = found_in(parties)
    assert found.left == 31
    assert len(found.problems) + len(found.requests) == 20
    assert len(parties.registry.asked) - before < 60
    (one,) = found_in(parties, Wanted(nodes=(parties.node_print,))).requests  # who is named is found nevertheless
    assert one.node == parties.node_print


def test_a_flood_of_tags(parties: Parties, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REGISTRY_TAGS", 20)
    for number in range(200):
        parties.registry.manifests[f"{REQUESTS}:junk-{number:03}"] = (b"{}", "x")
    parties.registry._page = 10
    before = len(parties.registry.asked)
    assert found_in(parties).requests == []
    assert len(parties.registry.asked) - before < 10


def test_a_registry_that_fails(parties: Parties) -> None:
    parties.registry.answer = lambda _asked: Answer(418, b"no")
    with pytest.raises(ImageError), parties.acting() as owner:
        owner.ids()
    refused(parties, "HTTP 418")
