"""`image encrypt` to `provider:grants`: what is pushed and when, and what an image keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from decoder import limits
from decoder.errors import UsageError
from decoder.formats import wire
from decoder.grants import artifacts, keys, statements
from decoder.grants.place import parse_place
from decoder.grants.sealing import Sealing
from decoder.grants.statements import ID as ID_FORM
from decoder.layer.annotations import KEYS_PREFIX, PrivateOptions, build_private_options
from decoder.provider import envelope
from tests.support.image import layouts
from tests.support.image.command import Ended, done, image, oci
from tests.support.image.grants import ACCESS, NAME, Parties, believed, new_key, write_private
from tests.support.image.images import Layout, digest_of
from tests.support.keywrap.layers import pem, private_options, public_pem, rsa_key
from tests.support.network.loopback import Answer, Asked

ANNOTATION = KEYS_PREFIX + "provider.grants"


@pytest.fixture
def files(parties: Parties, tmp_path: Path) -> dict[str, Path]:
    """The keys of everybody, in files."""
    names = {"owner": parties.owner, "publisher": parties.publisher, "node": parties.node}
    for name, key in names.items():
        write_private(tmp_path / f"{name}.key", key)
        (tmp_path / f"{name}.pub").write_bytes(public_pem(key._private))
    parties.registry.manifests.clear()
    return {path.name: path for path in tmp_path.iterdir()}


@pytest.fixture
def small(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "small")
    return layouts.publish(layout, layouts.add_image(layout, "amd64", [layouts.tar("base"), layouts.tar("top")]))


def arguments(parties: Parties, files: dict[str, Path], repository: str = "") -> list[str]:
    recipient = f"provider:grants:{repository or parties.repository}"
    return [
        "--recipient", recipient, "--grants-owner", str(files["owner.pub"]), "--sign-key", str(files["publisher.key"]),
    ]  # fmt: skip


def encrypt(parties: Parties, files: dict[str, Path], source: Layout, tag: str = "1", *more: str) -> Ended:
    return image("encrypt", oci(source), f"docker://{parties.repository}:{tag}", *arguments(parties, files), *more)


def manifest(parties: Parties, tag: str = "1") -> dict[str, Any]:
    value: dict[str, Any] = json.loads(parties.registry.manifests[f"{NAME}:{tag}"][0])
    return value


def sealed(parties: Parties, identifier: str) -> statements.SealedKey:
    data = parties.owner.open(parties.get(artifacts.sealed_tag(identifier)))
    return statements.parse_sealed_key(data, believed(parties.publisher))


def ids(parties: Parties, tag: str = "1") -> set[str]:
    """The IDs that the layers of an image name."""
    found = set()
    for layer in manifest(parties, tag)["layers"]:
        letter = envelope.parse(wire.decode_base64(layer["annotations"][ANNOTATION]))
        assert letter is not None
        place = parse_place(letter.wrapped_kek)
        assert place.repository == parties.repository
        found.add(place.id)
    return found


def test_one_key_for_an_image(parties: Parties, files: dict[str, Path], small: Layout) -> None:
    assert encrypt(parties, files, small).status == 0
    (identifier,) = ids(parties)
    assert ID_FORM.fullmatch(identifier)
    found = sealed(parties, identifier)
    assert (found.repository, found.id) == (parties.repository, identifier)
    assert found.owners == (keys.fingerprint(parties.owner.public),)
    (root,) = json.loads((small.directory / "index.json").read_bytes())["manifests"]
    plain = {layer["digest"] for layer in layouts.layers_of(small, root)}
    assert set(found.layers) == plain
    assert parties.registry.tags(NAME) == ["1", artifacts.sealed_tag(identifier)]
    for name in ("1", artifacts.sealed_tag(identifier)):
        assert wire.encode_base64url(found.kek).encode() not in parties.registry.manifests[f"{NAME}:{name}"][0]


def test_each_image_has_another_key(parties: Parties, files: dict[str, Path], small: Layout) -> None:
    for tag in ("1", "2"):
        assert encrypt(parties, files, small, tag).status == 0
    assert len(ids(parties, "1") | ids(parties, "2")) == 2


def test_the_sealed_key_comes_before_the_name(parties: Parties, files: dict[str, Path], small: Layout) -> None:
    assert encrypt(parties, files, small).status == 0
    puts = [asked.path.rpartition("/")[2] for asked in parties.registry.asked if asked.method == "PUT"]
    names = [name for name in puts if name == "1" or name.startswith("sealed-")]
    assert [name.partition("-")[0] for name in names] == ["sealed", "1"]


def test_it_works_with_every_kind_of_key(parties: Parties, files: dict[str, Path], small: Layout) -> None:
    path = files["publisher.key"]
    path.write_bytes(pem(rsa_key(2048)))
    files["owner.pub"].write_bytes(public_pem(rsa_key(4096)))
    assert encrypt(parties, files, small).status == 0


def test_other_recipients_may_stand_beside_it(
    parties: Parties, files: dict[str, Path], small: Layout, tmp_path: Path
) -> None:
    key = new_key()
    write_private(tmp_path / "other.key", key)
    (tmp_path / "other.pub").write_bytes(public_pem(key._private))
    assert encrypt(parties, files, small, "1", "--recipient", f"jwe:{tmp_path / 'other.pub'}").status == 0
    done("check", "--key", tmp_path / "other.key", "--verify", f"docker://{parties.repository}:1")


def test_grants_elsewhere_than_the_image(parties: Parties, files: dict[str, Path], small: Layout) -> None:
    keys_at = f"{parties.registry.host}/keys"
    target = Layout(small.directory.parent / "target")
    done("encrypt", oci(small), oci(target), *arguments(parties, files, keys_at))
    assert [tag.partition("-")[0] for tag in parties.registry.tags("keys")] == ["sealed"]


@pytest.mark.parametrize("has_referrers", [True, False])
def test_artifacts_are_referrers_of_the_image(
    parties: Parties, files: dict[str, Path], small: Layout, has_referrers: bool
) -> None:
    """Where the registry has that API; where not, everything works the same."""
    parties.registry._has_referrers = has_referrers
    assert encrypt(parties, files, small).status == 0
    (identifier,) = ids(parties)
    with parties.acting() as owner:
        owner.grant(identifier, parties.node.public, 0)
    digest = digest_of(parties.registry.manifests[f"{NAME}:1"][0])
    answer = parties.registry._referrers(NAME, digest)
    if has_referrers:
        types = sorted(each["artifactType"] for each in json.loads(answer.body)["manifests"])
        assert types == [f"application/vnd.ctd-decoder.grants.{kind}.v1" for kind in ("grant", "sealed-key")]
    else:
        assert answer.status == 404
    assert parties.client().fetch(parties.place._replace(id=identifier), 5).id == identifier


def test_nothing_is_published_if_the_key_cannot_be(parties: Parties, files: dict[str, Path], small: Layout) -> None:
    """Found out before a layer is sent, and once more at the end."""
    keys_at = f"{parties.registry.host}/keys"
    parties.registry.read_only.add("keys")
    recipients = arguments(parties, files, keys_at)
    failed = image("encrypt", oci(small), f"docker://{parties.repository}:1", *recipients)
    assert (failed.status, "read only" in failed.errors) == (7, True)
    assert not any(asked.method == "PATCH" for asked in parties.registry.asked)
    parties.registry.read_only.clear()
    honest = parties.registry.answer

    def answer(asked: Asked) -> Answer | None:
        is_sealed = asked.method == "PUT" and "/manifests/sealed-" in asked.path
        return Answer(403, b"{}") if is_sealed else honest(asked)

    parties.registry.answer = answer
    failed = image("encrypt", oci(small), f"docker://{parties.repository}:1", *recipients)
    assert failed.status == 7
    assert parties.registry.tags(NAME) == []


def test_rewrap_gives_each_image_a_key(parties: Parties, files: dict[str, Path], small: Layout, tmp_path: Path) -> None:
    key = new_key()
    write_private(tmp_path / "other.key", key)
    (tmp_path / "other.pub").write_bytes(public_pem(key._private))
    for tag in ("1", "2"):
        place = f"docker://{parties.repository}:{tag}"
        done("encrypt", oci(small), place, "--recipient", f"jwe:{tmp_path / 'other.pub'}")
    rewrap = ["rewrap", *arguments(parties, files), "--key", str(tmp_path / "other.key")]
    places = [f"docker://{parties.repository}:{tag}" for tag in ("1", "2")]
    done(*rewrap, "--dry-run", *places)
    assert parties.registry.tags(NAME) == ["1", "2"]
    done(*rewrap, *places)
    both = {*ids(parties, "1"), *ids(parties, "2")}
    assert len(both) == 2
    assert {sealed(parties, each).id for each in both} == both
    before = dict(parties.registry.manifests)
    assert "unchanged" in done(*rewrap, *places).output
    assert parties.registry.manifests == before


def test_downgrade_to_plain_is_found(parties: Parties, files: dict[str, Path], small: Layout) -> None:
    """A registry can serve a plain image under the name of an encrypted one; no key service can prevent that."""
    place = f"docker://{parties.repository}:1"
    assert encrypt(parties, files, small).status == 0
    done("check", "--require-encrypted", "all", place)
    value = manifest(parties)
    for layer in value["layers"]:
        layer["mediaType"] = layer["mediaType"].removesuffix("+encrypted")
    content = json.dumps(value).encode()
    for version in ("1", digest_of(content)):
        parties.registry.manifests[f"{NAME}:{version}"] = (content, value["mediaType"])
    assert image("check", "--require-encrypted", "all", place).status == 4


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"--sign-key": None}, "needs --grants-owner FILE and --sign-key FILE"),
        ({"--grants-owner": None}, "needs --grants-owner FILE and --sign-key FILE"),
        ({"--recipient": "provider:grants"}, "provider:grants:HOST/REPO"),
        ({"--recipient": "provider:grants:host.example/app:1"}, "only a repository is needed"),
        ({"--recipient": "provider:grants:"}, "is not"),
        ({"--sign-key": "/missing"}, "--sign-key '/missing'"),
        ({"--grants-owner": "/missing"}, "--grants-owner '/missing'"),
        ({"--packet-format": "old"}, "--packet-format old is not for provider:grants"),
        ({"--recipient": "provider:other"}, "are for a --recipient provider:grants"),
    ],
)
def test_options_that_cannot_be_used(
    parties: Parties, files: dict[str, Path], small: Layout, changed: dict[str, str | None], text: str
) -> None:
    words = arguments(parties, files)
    options = {**dict(zip(words[::2], words[1::2], strict=True)), **changed}
    given = [word for name, value in options.items() if value is not None for word in (name, value)]
    failed = image("encrypt", oci(small), f"docker://{parties.repository}:1", *given)
    assert (failed.status, text in failed.errors) == (2, True), failed.errors
    assert parties.registry.manifests == {}


def test_owners_and_layers_are_bounded(parties: Parties, files: dict[str, Path], tmp_path: Path) -> None:
    owners = [tmp_path / f"{number}.pub" for number in range(limits.GRANTS_OWNERS + 1)]
    for path in owners:
        path.write_bytes(public_pem(new_key()._private))
    with pytest.raises(UsageError, match="--grants-owner: an image has at most 16 owners"):
        Sealing(list(map(str, owners)), str(files["publisher.key"]), ACCESS)
    sealing = Sealing([str(files["owner.pub"])], str(files["publisher.key"]), ACCESS)
    for number in range(limits.GRANTS_LAYERS + 1):
        options = PrivateOptions(bytes(32), bytes(16), f"sha256:{number:064x}")
        sealing.wrap(build_private_options(options), [parties.repository.encode()])
    for refuse in (sealing.check, lambda: sealing.publish(f"docker://{parties.repository}:1", {})):
        with pytest.raises(UsageError, match="the image has 901 layers; grants allow at most 900"):
            refuse()
    assert parties.registry.tags(NAME) == []


@pytest.mark.parametrize("image_name", ["docker://", "docker://a b/c:1", "oci:/directory:1"])
def test_an_image_elsewhere_is_no_subject(parties: Parties, files: dict[str, Path], image_name: str) -> None:
    """The sealed key is published, but refers to no image."""
    sealing = Sealing([str(files["owner.pub"])], str(files["publisher.key"]), ACCESS)
    sealing.publish(image_name, {})  # nothing was wrapped
    assert parties.registry.tags(NAME) == []
    sealing.check()
    sealing.wrap(private_options(), [parties.repository.encode()])
    sealing.publish(image_name, {"digest": "x"})
    (tag,) = parties.registry.tags(NAME)
    assert "subject" not in manifest(parties, tag)
