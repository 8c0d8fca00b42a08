"""Login files, certificate directories and answers of registries that cannot be used, each with its reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from decoder import limits
from decoder.errors import ImageError
from decoder.registry import login
from decoder.registry.certificates import tls_context
from decoder.registry.client import RegistryClient
from decoder.registry.hosts import origin_of
from decoder.registry.login import Logins, find_login
from decoder.registry.queries import listed
from decoder.registry.reference import parse_reference
from tests.support.image.command import image
from tests.support.keys import keypairs
from tests.support.network import certificates
from tests.support.network.loopback import Answer, json_answer
from tests.support.registry.memory_registry import MemoryRegistry

HOST = "registry.example:5000"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "is not a JSON object"),
        (b"[" * 100_000, "is not a JSON object"),
        (b" " * (limits.DOCKER_CONFIG_BYTES + 1), f"has more than {limits.DOCKER_CONFIG_BYTES} bytes"),
        (None, "Is a directory"),
    ],
)
def test_login_file(content: bytes | None, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "auth.json"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(ImageError) as raised:
        find_login(HOST, "team/image", str(path))
    assert str(raised.value) == f"--authfile '{path}'{':' if content is None else ''} {reason}"


def test_a_directory_that_is_closed_to_this_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where root has run podman: that is no failure of a user who has no login there."""
    for variable in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_CONFIG"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(login, "_ROOTS", f"{tmp_path}/closed/")
    (tmp_path / "closed").mkdir(0o000)
    assert find_login(HOST, "team/image")[0] is None


@pytest.mark.parametrize("url", ["https://[::1", "https://host:port/", "ftp://host/", "https:///path", ""])
def test_not_an_http_url(url: str) -> None:
    with pytest.raises(ImageError, match="is not an HTTP URL"):
        origin_of(url)


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"ca.crt": b"no certificate"}, "holds no certificate in PEM form"),
        ({"ca.crt": b"\xff"}, "holds no certificate in PEM form"),
        ({"ca.crt": b" " * (limits.KEY_FILE_BYTES + 1)}, f"larger than {limits.KEY_FILE_BYTES} bytes"),
        ({"client.cert": b"x"}, "needs both 'client.cert' and 'client.key'"),
        ({"client.cert": b"x", "client.key": b"x"}, "are not a certificate and its unencrypted key"),
        ({f"{name}.{end}": b"x" for name in "ab" for end in ("cert", "key")}, "has several client certificates"),
        ({"client.cert": None, "client.key": b"x"}, "client.cert' or "),
    ],
)
def test_certificate_directory(
    files: dict[str, bytes | None], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    directory = tmp_path / ".config/containers/certs.d" / HOST
    directory.mkdir(parents=True)
    for name, content in files.items():
        if content is None:
            (directory / name).symlink_to(tmp_path / "absent")
        else:
            (directory / name).write_bytes(content)
    with pytest.raises(ImageError) as raised:
        tls_context(HOST, verify=True)
    assert str(directory) in str(raised.value)
    assert reason in str(raised.value)


def test_certificate_directory_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".config/containers/certs.d").mkdir(parents=True)
    with pytest.raises(ImageError, match="File name too long"):
        tls_context("x" * 300, verify=True)


def test_certificate_directory_that_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    directory = tmp_path / ".config/containers/certs.d" / HOST
    directory.mkdir(parents=True)
    authority = certificates.issue("the registry's own authority")
    (directory / "ca.crt").write_bytes(authority.certificate)
    (directory / "client.cert").write_bytes(authority.certificate)
    (directory / "client.key").write_bytes(authority.key)
    found = map(str, tls_context(HOST, verify=True).get_ca_certs())
    assert any("the registry's own authority" in text for text in found)


class Odd(MemoryRegistry):
    """A registry that answers requests for one kind of thing as a test wants."""

    def __init__(self, kind: str, answer: Answer) -> None:
        super().__init__()
        usual = self.answer
        self.answer = lambda asked: answer if kind in asked.path else usual(asked)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer(200, b"{"), "the registry does not list tags as the distribution-spec says"),
        (json_answer([]), "the registry does not list tags as the distribution-spec says"),
        (json_answer({"tags": 1}), "the registry does not list tags as the distribution-spec says"),
        (json_answer({"tags": [f"t{n}" for n in range(limits.REGISTRY_TAGS + 1)]}), "name some"),
        (Answer(404, b"{}"), "its tags cannot be listed"),
    ],
)
def test_list_of_tags(answer: Answer, reason: str, tmp_path: Path) -> None:
    pair = keypairs.generate(tmp_path)["p256"]
    with Odd("tags/list", answer) as registry:
        place = f"docker://{registry.host}/team/image"
        ended = image("rewrap", place, "--key", pair.private, "--recipient", f"jwe:{pair.public}")
    assert ended.status == 7, ended.errors
    assert reason in ended.errors


@pytest.mark.parametrize(
    ("answer", "status", "reason"),
    [
        (json_answer({}), 7, "is not an image: its media type is 'application/json'"),
        (json_answer({"mediaType": "text/plain"}), 7, "is not an image: its media type is 'text/plain'"),
        (json_answer({}, Docker_Content_Digest="sha256:" + "0" * 64), 5, "the manifest is damaged"),
        (json_answer({}, Docker_Content_Digest="md5:0"), 7, "'md5:0'"),
        (Answer(200, b" " * (limits.MANIFEST_BYTES + 1)), 7, f"more than {limits.MANIFEST_BYTES} bytes"),
    ],
)
def test_manifest(answer: Answer, status: int, reason: str) -> None:
    with Odd("manifests/", answer) as registry:
        ended = image("layerinfo", f"docker://{registry.host}/team/image:tag")
    assert ended.status == status, ended.errors
    assert reason in ended.errors


def test_repository_without_tags(tmp_path: Path) -> None:
    pair = keypairs.generate(tmp_path)["p256"]
    with Odd("tags/list", json_answer({"tags": None})) as registry:
        place = f"docker://{registry.host}/team/image"
        ended = image("rewrap", place, "--key", pair.private, "--recipient", f"jwe:{pair.public}")
    assert (ended.status, "there is no image at these places" in ended.errors) == (2, True), ended.errors


@pytest.mark.parametrize("body", [b"{", b"{}", b"[]", b'{"manifests":7}', b'{"manifests":[{}]}', b"[" * 100_000])
def test_list_of_referrers(body: bytes) -> None:
    """It only serves remarks, so that a malformed one is as good as none."""
    with Odd("referrers/", Answer(200, body)) as registry:
        reference = parse_reference(f"//{registry.host}/team/image")
        with RegistryClient(reference, True, [], Logins()) as client:
            assert listed(client, f"referrers/sha256:{'0' * 64}") == []
