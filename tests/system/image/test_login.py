"""Logins and certificates that docker, podman and skopeo keep: ours takes the same ones as skopeo does."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.support.image.command import SECONDS, done, image
from tests.support.program import processes
from tests.support.registry.registries import (
    PASSWORD,
    USER,
    Registry,
    htpasswd,
    make_certificate,
    push,
    serving,
    skopeo,
)

if TYPE_CHECKING:
    from tests.support.image.images import Layout

ANYBODY = "--tls-verify=false"
# Where logins are, in skopeo's order, relative to the home directory of the test.
FILES = ("run/containers/auth.json", "config/containers/auth.json", "docker/config.json")
PLACES = {
    "REGISTRY_AUTH_FILE": "auth.json",
    "XDG_RUNTIME_DIR": FILES[0],
    "XDG_CONFIG_HOME": FILES[1],
    "DOCKER_CONFIG": FILES[2],
    "": ".docker/config.json",
}


class Home(NamedTuple):
    """A home directory, and the environment that leads to nothing else."""

    path: Path
    environment: dict[str, str]

    def write(self, name: str, **logins: tuple[str, str]) -> None:
        entries = {host: {"auth": _encoded(*login)} for host, login in logins.items()}
        (self.path / name).parent.mkdir(parents=True, exist_ok=True)
        (self.path / name).write_text(json.dumps({"auths": entries}))


def _encoded(user: str, password: str) -> str:
    from base64 import b64encode

    return b64encode(f"{user}:{password}".encode()).decode()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    path = tmp_path / "home"
    path.mkdir()
    for variable in ("REGISTRY_AUTH_FILE", "SSL_CERT_FILE"):
        monkeypatch.delenv(variable, raising=False)
    variables = {"HOME": "", "XDG_RUNTIME_DIR": "run", "XDG_CONFIG_HOME": "config", "DOCKER_CONFIG": "docker"}
    for name, directory in variables.items():
        monkeypatch.setenv(name, str(path / directory))
    return Home(path, dict(os.environ))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("tls"), "DNS:localhost")


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory, gzipped: Layout) -> Iterator[Registry]:
    """A registry over plain HTTP that wants a password, with the images `a/b` and `c`."""
    directory = tmp_path_factory.mktemp("locked")
    with serving(directory) as registry:
        for name in ("a/b", "c"):
            push(gzipped, f"docker://{registry.host}/{name}")
    with serving(directory, auth=htpasswd(directory)) as registry:
        yield registry


@pytest.fixture(scope="module")
def mutual(
    tmp_path_factory: pytest.TempPathFactory, certificate: tuple[Path, Path], gzipped: Layout
) -> Iterator[Registry]:
    """A registry that wants a certificate and shows one of its own, with the image `c`."""
    directory = tmp_path_factory.mktemp("mutual")
    with serving(directory) as registry:
        push(gzipped, f"docker://{registry.host}/c")
    tls = {"certificate": str(certificate[0]), "key": str(certificate[1]), "clientcas": [str(certificate[0])]}
    with serving(directory, http={"addr": "127.0.0.1:0", "tls": tls}) as registry:
        yield registry


def outcomes(place: str, *options: str) -> tuple[bool, bool]:
    """Tell whether ours and skopeo can read an image, which must be the same."""
    ours = image("layerinfo", place, *options).status == 0
    command = ["skopeo", "inspect", *options, "--raw", place]
    theirs = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False).returncode == 0
    return ours, theirs


@pytest.mark.parametrize("variable", PLACES)
def test_a_login_of_skopeo(variable: str, locked: Registry, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    path = home.path / PLACES[variable]
    path.parent.mkdir(parents=True, exist_ok=True)
    if variable == "REGISTRY_AUTH_FILE":
        monkeypatch.setenv(variable, str(path))
    elif not variable:
        monkeypatch.delenv("DOCKER_CONFIG")
    place = f"docker://{locked.host}/c"
    assert outcomes(place, ANYBODY) == (False, False)
    login = ["login", f"--authfile={path}", ANYBODY, "--username", USER, "--password", PASSWORD, locked.host]
    skopeo(*login)
    assert outcomes(place, ANYBODY) == (True, True)


def test_the_first_file_that_knows_the_registry_counts(
    locked: Registry, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, good, bad = f"docker://{locked.host}/c", (USER, PASSWORD), (USER, "wrong")
    for number, name in enumerate(FILES):
        home.write(name, **{locked.host: good})
        for later in FILES[number + 1 :]:
            home.write(later, **{locked.host: bad})
        assert outcomes(place, ANYBODY) == (True, True)
        home.write(name, **{locked.host: bad})
        assert outcomes(place, ANYBODY) == (False, False)
        home.write(name, **{"else.example": good})
    home.write(FILES[0], **{locked.host: good})
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(home.path / "absent.json"))
    assert outcomes(place, ANYBODY) == (False, False)


def test_a_login_for_some_repositories(locked: Registry, home: Home) -> None:
    good, bad = (USER, PASSWORD), (USER, "wrong")
    registry, below, whole = locked.host, f"{locked.host}/a", f"{locked.host}/a/b"
    inside, outside = f"docker://{whole}", f"docker://{registry}/c"
    home.write(FILES[0], **{registry: bad, below: good})
    assert (outcomes(inside, ANYBODY), outcomes(outside, ANYBODY)) == ((True, True), (False, False))
    home.write(FILES[0], **{below: bad, whole: good, registry: good})
    assert (outcomes(inside, ANYBODY), outcomes(outside, ANYBODY)) == ((True, True), (True, True))
    home.write(FILES[0], **{below: good})
    assert (outcomes(inside, ANYBODY), outcomes(outside, ANYBODY)) == ((True, True), (False, False))


def test_urls_of_older_versions(locked: Registry, home: Home) -> None:
    home.write(FILES[2], **{f"https://{locked.host}/v1/": (USER, PASSWORD)})
    done("layerinfo", f"docker://{locked.host}/c", ANYBODY)


def copy_certificates(directory: Path, certificate: tuple[Path, Path], *names: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name in names:
        source = certificate[1] if name.endswith(".key") else certificate[0]
        (directory / name).write_bytes(source.read_bytes())


def test_certificates_of_a_registry(mutual: Registry, certificate: tuple[Path, Path], home: Home) -> None:
    place, directory = f"docker://{mutual.host}/c", home.path / ".config/containers/certs.d" / mutual.host
    assert "is not accepted" in image("layerinfo", place).errors
    copy_certificates(directory, certificate, "ca.crt")
    assert outcomes(place) == (False, False)  # it wants to see one, too
    copy_certificates(directory, certificate, "client.cert", "client.key")
    assert outcomes(place) == (True, True)
    (directory / "ca.crt").unlink()
    assert outcomes(place) == (False, False)
    assert outcomes(place, ANYBODY) == (True, True)
    directory.rename(directory.parent / "localhost")  # of the registry at the usual port
    assert outcomes(place, ANYBODY) == (False, False)


@pytest.mark.parametrize("place", ["/etc/docker", "/etc/containers"])
def test_certificates_that_the_administrator_keeps(
    place: str, mutual: Registry, certificate: tuple[Path, Path], home: Home
) -> None:
    """Both programs in a mount namespace where the directory below /etc is the test's own."""
    copy_certificates(home.path / "etc/certs.d" / mutual.host, certificate, "ca.crt", "client.cert", "client.key")
    name = shlex.quote(f"docker://{mutual.host}/c")
    script = f"mount --bind {shlex.quote(str(home.path / 'etc'))} {place} || exit 99\n"
    script += f"{shlex.quote(processes.PROGRAM)} image layerinfo {name} && skopeo inspect --raw {name}"
    command = ["unshare", "--mount", "sh", "-c", script]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert ended.returncode == 0, ended.stderr
    assert image("layerinfo", f"docker://{mutual.host}/c").status == 7


BROKEN = {
    "needs both 'client.cert' and 'client.key'": ["client.cert"],
    "needs both 'other.cert' and 'other.key'": ["client.cert", "client.key", "other.key"],
    "has several client certificates": ["client.cert", "client.key", "other.cert", "other.key"],
}


@pytest.mark.parametrize("reason", BROKEN)
def test_client_certificates_that_do_not_fit(
    reason: str, mutual: Registry, certificate: tuple[Path, Path], home: Home
) -> None:
    directory = home.path / ".config/containers/certs.d" / mutual.host
    copy_certificates(directory, certificate, *BROKEN[reason])
    ended = image("layerinfo", f"docker://{mutual.host}/c")
    assert (ended.status, reason in ended.errors) == (7, True), ended.errors


@pytest.mark.parametrize("content", ["", "no certificate", "\x00ä", "-----BEGIN CERTIFICATE-----\nAAAA\n"])
@pytest.mark.parametrize("name", ["ca.crt", "client.cert", "client.key"])
def test_files_that_are_no_certificates(
    content: str, name: str, mutual: Registry, certificate: tuple[Path, Path], home: Home
) -> None:
    directory = home.path / ".config/containers/certs.d" / mutual.host
    copy_certificates(directory, certificate, "ca.crt", "client.cert", "client.key")
    (directory / name).write_text(content)
    ended = image("layerinfo", f"docker://{mutual.host}/c")
    assert (ended.status, f"{name}'" in ended.errors) == (7, True), ended.errors


def test_an_encrypted_key_is_not_asked_about(mutual: Registry, certificate: tuple[Path, Path], home: Home) -> None:
    directory = home.path / ".config/containers/certs.d" / mutual.host
    copy_certificates(directory, certificate, "ca.crt", "client.cert")
    command = ["openssl", "pkey", "-in", str(certificate[1]), "-aes256", "-passout", "pass:secret", "-out"]
    subprocess.run([*command, str(directory / "client.key")], check=True, timeout=SECONDS, capture_output=True)
    ended = image("layerinfo", f"docker://{mutual.host}/c")
    assert (ended.status, "a certificate and its unencrypted key" in ended.errors) == (7, True), ended.errors
