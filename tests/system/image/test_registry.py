"""Images in registries: Debian's docker-registry, alone and behind a proxy that fails; skopeo as the peer."""

from __future__ import annotations

import json
import os
import time
from base64 import b64decode
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.x509 import load_pem_x509_certificate
from jwcrypto import jwk, jwt

from decoder import limits
from decoder.errors import DigestError, ImageError, UsageError
from decoder.image import transport
from decoder.image.errors import InterruptedWriteError
from decoder.image.progress import Quiet
from decoder.image.retries import again
from decoder.image.transport import Descriptor, Options
from decoder.registry import auth as registryauth
from decoder.registry import client as registryclient
from decoder.registry.hosts import Origin
from decoder.registry.reference import parse_reference
from tests.support import images, registries
from tests.support.faults import Asked, Fault, FaultyRegistry
from tests.support.images import Layout
from tests.support.loopback import Answer, Loopback, Proxy, json_answer
from tests.support.loopback import Asked as TokenAsked
from tests.support.registries import PASSWORD, USER, Registry, htpasswd, make_certificate, pull, push, serving, skopeo

ANYBODY = Options(tls_verify=False)
INDEX = "application/vnd.oci.image.index.v1+json"


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    return images.write_image(tmp_path_factory.mktemp("image") / "layout", images.GZIP)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, layout: Layout) -> Iterator[Registry]:
    """A registry over plain HTTP, with the image as `known:tag`."""
    with serving(tmp_path_factory.mktemp("registry")) as registry:
        push(layout, f"docker://{registry.host}/known:tag")
        yield registry


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("tls"), "DNS:localhost", "DNS:registry.example")


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory, certificate: tuple[Path, Path]) -> Iterator[Registry]:
    """A registry over TLS that wants USER's password."""
    directory = tmp_path_factory.mktemp("locked")
    with serving(directory, certificate, auth=htpasswd(directory)) as registry:
        yield registry


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty configuration, and short pauses."""
    directory = tmp_path / "docker"
    directory.mkdir()
    for variable in ("SSL_CERT_FILE", "REGISTRY_AUTH_FILE", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(variable, raising=False)
    for variable in ("DOCKER_CONFIG", "HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(directory))
    monkeypatch.setattr(limits, "REGISTRY_RETRY_SECONDS", 0.01)
    return directory


def log_in(home: Path, host: str, **members: Any) -> None:
    (home / "config.json").write_text(
        json.dumps(members or {"auths": {host: {"username": USER, "password": PASSWORD}}})
    )


def blobs_of(layout: Layout) -> dict[str, bytes]:
    (root,) = json.loads((layout.directory / "index.json").read_bytes())["manifests"]
    return {each["digest"]: layout.read(each) for each in (root, layout.manifest["config"], *layout.layers)}


def test_skopeo_reads_what_ours_writes(registry: Registry, layout: Layout, tmp_path: Path) -> None:
    place = f"docker://{registry.host}/some/where:tag"
    push(layout, place)
    skopeo("copy", "--src-tls-verify=false", place, f"oci:{tmp_path}/copy:{images.NAME}")
    assert blobs_of(Layout(tmp_path / "copy")) == blobs_of(layout)
    assert registry.uploads == []


def test_ours_reads_what_skopeo_writes(registry: Registry, layout: Layout) -> None:
    place = f"docker://{registry.host}/from-skopeo"
    skopeo("copy", "--dest-tls-verify=false", f"oci:{layout.directory}:{images.NAME}", place)
    assert pull(place) == blobs_of(layout)
    digest = next(iter(blobs_of(layout)))
    assert pull(f"{place}@{digest}") == blobs_of(layout)


def test_docker_manifests(registry: Registry, layout: Layout) -> None:
    place = f"docker://{registry.host}/docker"
    copy = ["copy", "--dest-tls-verify=false", "--format=v2s2", f"oci:{layout.directory}:{images.NAME}", place]
    skopeo(*copy)
    with transport.open_source(place, Options()) as source:
        assert source.root()["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"
    assert set(pull(place).values()) > {layout.read(each) for each in layout.layers}


def test_indexes(registry: Registry, layout: Layout) -> None:
    place = f"docker://{registry.host}/known:index"
    (child,) = json.loads((layout.directory / "index.json").read_bytes())["manifests"]
    data = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [child]}).encode()
    descriptor = {"mediaType": INDEX, "digest": images.digest_of(data), "size": len(data)}
    with transport.open_target(place, Options()) as target:
        assert target.has(child)
        assert not target.has(descriptor)
        target.put_manifest(data, descriptor)
        assert registries.read(target, descriptor) == data
        target.publish(descriptor)
    with transport.open_source(place, Options()) as source:
        assert source.root() == descriptor
        assert registries.read(source, child) == layout.read(child)


def test_blobs_that_are_there_are_not_sent(registry: Registry, layout: Layout) -> None:
    with FaultyRegistry(registry.host, lambda _: None) as proxy:
        push(layout, f"docker://{proxy.host}/known:again")
        assert proxy.count("POST", "") == proxy.count("PATCH", "") == 0
        push(layout, f"docker://{proxy.host}/other", Options(source=f"docker://{proxy.host}/known:tag"))
        assert proxy.count("POST", "mount=") == 4
        assert proxy.count("PATCH", "") == 0
    assert pull(f"docker://{registry.host}/other") == blobs_of(layout)


def test_what_cannot_be_mounted_is_sent(registry: Registry, layout: Layout) -> None:
    origin = Options(source=f"docker://{registry.host}/nothing-here")
    push(layout, f"docker://{registry.host}/not-mounted", origin)
    assert pull(f"docker://{registry.host}/not-mounted") == blobs_of(layout)
    assert registry.uploads == []


def test_nothing_is_visible_before_its_end(registry: Registry, layout: Layout) -> None:
    place, blob = f"docker://{registry.host}/unfinished", b"something" * 1000
    digest = images.digest_of(blob)
    with transport.open_target(place, Options()) as target:
        with target.create(len(blob)) as writer:
            registries.write_all(writer, blob)
        assert not target.has({"mediaType": "", "digest": digest, "size": len(blob)})
        assert registry.uploads == []
        with suppress(RuntimeError), target.create(len(blob)) as writer:
            registries.write_all(writer, blob[:100])
            raise RuntimeError
        (root,) = json.loads((layout.directory / "index.json").read_bytes())["manifests"]
        with pytest.raises(ImageError, match=f"{registry.host}/unfinished: it does not accept the manifest .*400"):
            target.put_manifest(layout.read(root), root)
    with pytest.raises(ImageError, match=r"there is no latest .*404, MANIFEST_UNKNOWN"):
        pull(place)


def test_a_wrong_digest_is_refused(registry: Registry) -> None:
    blob, other = b"what is sent", images.digest_of(b"what is said")
    with transport.open_target(f"docker://{registry.host}/wrong", Options()) as target:
        with pytest.raises(DigestError, match="DIGEST_INVALID"):
            registries.write(target, blob, other)
        for digest in (other, images.digest_of(blob)):
            assert not target.has({"mediaType": "", "digest": digest, "size": len(blob)})


def test_a_wrong_size_is_refused(registry: Registry, layout: Layout) -> None:
    with transport.open_target(f"docker://{registry.host}/known", Options()) as target:
        with pytest.raises(ImageError, match="longer than the 3 bytes"), target.create(3) as writer:
            writer.write(memoryview(b"four"))
        with target.create(5) as writer:
            writer.write(memoryview(b"four"))
            with pytest.raises(ImageError, match="shorter than the 5 bytes"):
                writer.commit(images.digest_of(b"four"), 4)
        descriptor = {**layout.layers[0], "size": 7}
        assert not target.has(descriptor)
        with pytest.raises(DigestError, match="another size"), target.open(descriptor):
            pass


def test_an_empty_blob(registry: Registry) -> None:
    descriptor: Descriptor = {"mediaType": "", "digest": images.digest_of(b""), "size": 0}
    with transport.open_target(f"docker://{registry.host}/empty", Options()) as target:
        registries.write(target, b"", descriptor["digest"])
        assert registries.read(target, descriptor) == b""


def test_publishing_under_a_digest(registry: Registry, layout: Layout) -> None:
    (root,) = json.loads((layout.directory / "index.json").read_bytes())["manifests"]
    push(layout, f"docker://{registry.host}/known@{root['digest']}")
    other = images.digest_of(b"another")
    with pytest.raises(ImageError, match=f"known@{other}: what was written has the digest {root['digest']}"):
        push(layout, f"docker://{registry.host}/known@{other}")


def test_absent(registry: Registry) -> None:
    where = f"{registry.host}/known"
    with pytest.raises(ImageError, match=f"{where}: there is no absent .*HTTP 404, MANIFEST_UNKNOWN"):
        pull(f"docker://{where}:absent")
    descriptor = {"mediaType": "", "digest": images.digest_of(b"absent"), "size": 6}
    with (
        transport.open_source(f"docker://{where}", Options()) as source,
        pytest.raises(ImageError, match=f"{where}: there is no {descriptor['digest']} .*HTTP 404"),
    ):
        registries.read(source, descriptor)
    descriptor["digest"] = "sha256:../../../../v2/_catalog"
    with (
        transport.open_source(f"docker://{where}", Options()) as source,
        pytest.raises(ImageError, match="not a sha256"),
    ):
        registries.read(source, descriptor)


def test_nobody_listens() -> None:
    with pytest.raises(ImageError, match="localhost:1 cannot be reached: Connection refused"):
        pull("docker://localhost:1/image")


def test_tls_and_a_password(
    locked: Registry, layout: Layout, certificate: tuple[Path, Path], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    command = ["login", f"--authfile={home}/config.json", "--username", USER, "--password", PASSWORD, locked.host]
    skopeo(*command, environment={**os.environ, "SSL_CERT_FILE": str(certificate[0])})
    push(layout, f"docker://{locked.host}/secret")
    assert pull(f"docker://{locked.host}/secret") == blobs_of(layout)


def test_certificates_are_verified(locked: Registry, layout: Layout, home: Path) -> None:
    log_in(home, locked.host)
    with pytest.raises(ImageError, match=f"the certificate of {locked.host} is not accepted: it is not from a trusted"):
        push(layout, f"docker://{locked.host}/unverified")
    push(layout, f"docker://{locked.host}/unverified", ANYBODY)
    assert pull(f"docker://{locked.host}/unverified", ANYBODY) == blobs_of(layout)


def test_through_a_proxy(
    locked: Registry, layout: Layout, certificate: tuple[Path, Path], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    log_in(home, "registry.example")
    with Proxy({"registry.example:443": int(locked.host.rpartition(":")[2])}) as proxy:
        monkeypatch.setenv("https_proxy", proxy.url)
        push(layout, "docker://registry.example/by-proxy")
        assert pull("docker://registry.example/by-proxy") == blobs_of(layout)
    assert set(proxy.hosts) == {"registry.example:443"}


def test_plain_http_elsewhere(registry: Registry, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry that is not on this machine, as far as we know."""
    monkeypatch.setattr(Origin, "is_loopback", property(lambda _: False))
    with pytest.raises(ImageError, match=f"there is no TLS connection with {registry.host}"):
        pull(f"docker://{registry.host}/known:tag")
    assert pull(f"docker://{registry.host}/known:tag", ANYBODY) == blobs_of(layout)


@pytest.mark.parametrize("user", ["", "nobody"])
def test_without_the_password(user: str, locked: Registry, layout: Layout, home: Path) -> None:
    if user:
        log_in(home, locked.host, auths={locked.host: {"username": user, "password": PASSWORD}})
    words = "it refuses the login from .*config.json" if user else "it needs a login, and .* have none for"
    with pytest.raises(ImageError, match=f"{locked.host}/secret: {words}.*HTTP 401"):
        pull(f"docker://{locked.host}/secret", ANYBODY)
    with pytest.raises(ImageError, match=f"{locked.host}/secret: {words}.*HTTP 401"):
        push(layout, f"docker://{locked.host}/secret", ANYBODY)


def write_helper(home: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = home / "docker-credential-test"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{home}:{os.environ['PATH']}")


@pytest.mark.parametrize("how", ["credHelpers", "credsStore"])
def test_a_credential_helper(
    how: str, locked: Registry, layout: Layout, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reply = json.dumps({"Username": USER, "Secret": PASSWORD})
    write_helper(home, f'test "$1 $(cat)" = "get {locked.host}" && echo \'{reply}\'', monkeypatch)
    log_in(home, locked.host, **{how: {locked.host: "test"} if how == "credHelpers" else "test"})
    push(layout, f"docker://{locked.host}/by-helper", ANYBODY)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo credentials not found in native keychain; exit 1", "it needs a login, and .* have none for {host}"),
        ("exit 3", "docker-credential-test failed for {host}"),
        ("echo no; sleep 60", "docker-credential-test did not end within 0.5 seconds"),
        ("sleep 60 & echo {}", "it needs a login, and .* have none for {host}"),
        ("yes", "docker-credential-test wrote too much|docker-credential-test failed"),
        ("echo []", "docker-credential-test did not reply with a JSON object|expected a JSON object"),
    ],
)
def test_a_credential_helper_that_has_none(
    script: str, message: str, locked: Registry, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CREDENTIAL_HELPER_SECONDS", 0.5)
    write_helper(home, script, monkeypatch)
    log_in(home, locked.host, credsStore="test")
    began = time.monotonic()
    with pytest.raises(ImageError, match=message.format(host=locked.host)):
        pull(f"docker://{locked.host}/secret", ANYBODY)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "config.json' is not a JSON object"),
        ('{"auths": []}', "config.json': expected a JSON object"),
        ('{"auths": {"HOST": {"auth": "no base64"}}}', "config.json': an `auth` that is not the base64"),
        ('{"credsStore": "../evil"}', "'../evil' is not the name of a credential helper"),
        ('{"credsStore": "absent-one"}', "docker-credential-absent-one cannot be started: No such file"),
    ],
)
def test_a_malformed_login(config: str, message: str, locked: Registry, home: Path) -> None:
    (home / "config.json").write_text(config.replace("HOST", locked.host))
    with pytest.raises(ImageError, match=message):
        pull(f"docker://{locked.host}/secret", ANYBODY)


class TokenService:
    """Gives tokens that docker-registry checks, to USER only if `login` is true."""

    def __init__(self, certificate: tuple[Path, Path], login: bool) -> None:
        self._key = jwk.JWK.from_pem(certificate[1].read_bytes())
        pem = load_pem_x509_certificate(certificate[0].read_bytes())
        from base64 import b64encode

        from cryptography.hazmat.primitives.serialization import Encoding

        self._chain = [b64encode(pem.public_bytes(Encoding.DER)).decode()]
        self._login = login
        self.server = Loopback(self.answer)

    def answer(self, asked: TokenAsked) -> Answer:
        if asked.method == "POST":
            fields = parse_qs(asked.body.decode())
            known = fields.get("refresh_token") == ["identity"] and fields.get("grant_type") == ["refresh_token"]
            scopes = fields["scope"][0].split()
        else:
            fields = parse_qs(urlsplit(asked.path).query)
            shown = asked.headers.get("authorization", "Basic ")
            known = b64decode(shown.removeprefix("Basic ")).decode() == f"{USER}:{PASSWORD}"
            scopes = fields["scope"]
        if self._login and not known:
            return json_answer({"errors": []}, 401)
        name = "access_token" if asked.method == "POST" else "token"
        return json_answer({name: self._token(fields["service"][0], scopes), "expires_in": 60})

    def _token(self, service: str, scopes: list[str]) -> str:
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        now = int(time.time())
        claims = {"iss": "issuer", "sub": USER, "aud": service, "exp": now + 60, "nbf": now - 5, "iat": now}
        header = {"alg": "RS256", "typ": "JWT", "x5c": self._chain}
        token = jwt.JWT(header=header, claims={**claims, "jti": "1", "access": access})
        token.make_signed_token(self._key)
        return str(token.serialize())


@pytest.mark.parametrize("how", ["anonymous", "password", "identity token"])
def test_tokens(how: str, certificate: tuple[Path, Path], layout: Layout, tmp_path: Path, home: Path) -> None:
    service = TokenService(certificate, login=how != "anonymous")
    with service.server as server:
        token = {"realm": f"{server.url}/token", "service": "the service", "issuer": "issuer"}
        auth = {"token": {**token, "rootcertbundle": str(certificate[0])}}
        with (
            serving(tmp_path / "registry", auth=auth) as registry,
            FaultyRegistry(registry.host, lambda _: None) as proxy,
        ):
            if how == "password":
                log_in(home, proxy.host)
            elif how == "identity token":
                log_in(home, proxy.host, auths={proxy.host: {"identitytoken": "identity"}})
            push(layout, f"docker://{proxy.host}/a/b")
            mounting = Options(source=f"docker://{proxy.host}/a/b")
            push(layout, f"docker://{proxy.host}/c", mounting)
            assert pull(f"docker://{proxy.host}/c") == blobs_of(layout)
    assert proxy.count("POST", "mount=") == 4
    assert proxy.count("PATCH", "/v2/c/") == 0
    shown = {asked.headers.get("authorization", "").partition(" ")[0] for asked in proxy.asked}
    assert shown == {"", "Bearer"}  # the password is for the token service alone
    scopes = [parse_qs(urlsplit(each.path).query or each.body.decode())["scope"] for each in server.asked]
    both = ["repository:c:pull,push", "repository:a/b:pull"]
    expected = [["repository:a/b:pull,push"], both, ["repository:c:pull"]]
    assert [" ".join(each).split() for each in scopes] == expected


@pytest.mark.parametrize("how", ["refused", "no token", "elsewhere", "not JSON"])
def test_no_token(how: str, home: Path, registry: Registry) -> None:
    answers = {
        "refused": json_answer({}, 403),
        "no token": json_answer({"token": "a b"}),
        "not JSON": Answer(200, b"{"),
    }
    with Loopback(lambda _: answers[how]) as server:
        realm = "http://registry.example/token" if how == "elsewhere" else server.url
        challenge = {"WWW-Authenticate": f'Bearer realm="{realm}",service="s"'}
        with FaultyRegistry(registry.host, lambda _: Fault(401, challenge)) as proxy:
            log_in(home, proxy.host)
            messages = {
                "refused": f"gives no token for {proxy.host} .HTTP 403.: it refuses the login from",
                "no token": f"gives no token for {proxy.host}",
                "elsewhere": f"{proxy.host} refers to registry.example:80 without TLS",
                "not JSON": "replies with something other than a token",
            }
            with pytest.raises(ImageError, match=messages[how]):
                pull(f"docker://{proxy.host}/known:tag")


def test_a_token_that_no_longer_holds_is_renewed(registry: Registry, layout: Layout) -> None:
    given: list[str] = []

    def give(_: object) -> Answer:
        given.append(f"token{len(given)}")
        return json_answer({"token": given[-1], "expires_in": 3600})

    def rule(asked: Asked) -> Fault | None:
        """Take each token for three requests."""
        shown = asked.headers.get("authorization", "").removeprefix("Bearer ")
        uses[shown] = uses.get(shown, 0) + 1
        if shown not in given[-1:] or uses[shown] > 3:
            return Fault(401, {"WWW-Authenticate": f'Bearer realm="{server.url}"'})
        return None

    uses: dict[str, int] = {}
    with Loopback(give) as server, FaultyRegistry(registry.host, rule) as proxy:
        assert pull(f"docker://{proxy.host}/known:tag") == blobs_of(layout)
    assert len(given) == 2


@pytest.mark.parametrize("header", ['Basic realm="a, bearer b", Bearer realm="r",service="a\\"b"', "Negotiate, basic"])
def test_challenges(header: str) -> None:
    challenges = registryauth.parse_challenges([header])
    expected = ["basic", "bearer"] if "realm" in header else ["basic"]
    assert [each.scheme for each in challenges] == expected
    if "realm" in header:
        assert challenges[-1].parameters == {"realm": "r", "service": 'a"b'}


@pytest.mark.parametrize("status", [429, 500, 503])
def test_busy_for_a_while(status: int, registry: Registry, layout: Layout) -> None:
    def rule(asked: Asked) -> Fault | None:
        is_new = [each[:2] for each in proxy.asked].count(asked[:2]) <= 2
        return Fault(status, {"Retry-After": "0"}) if is_new and asked.method != "PATCH" else None

    with FaultyRegistry(registry.host, rule) as proxy:
        push(layout, f"docker://{proxy.host}/busy{status}")
        assert pull(f"docker://{proxy.host}/busy{status}") == blobs_of(layout)


@pytest.mark.parametrize("fault", [Fault(429), Fault(500), Fault(cut=0)])
def test_busy_for_good(fault: Fault, registry: Registry) -> None:
    with FaultyRegistry(registry.host, lambda asked: fault if "manifests" in asked.path else None) as proxy:
        reason = f"/known: .*HTTP {fault.status}" if fault.status else " ended the connection"
        with pytest.raises(ImageError, match=f"{proxy.host}{reason}"):
            pull(f"docker://{proxy.host}/known:tag")
        assert proxy.count("GET", "manifests") == limits.REGISTRY_ATTEMPTS


def test_denied(registry: Registry) -> None:
    with FaultyRegistry(registry.host, lambda asked: Fault(403) if "manifests" in asked.path else None) as proxy:
        with pytest.raises(ImageError, match=f"{proxy.host}/known: access is denied .HTTP 403."):
            pull(f"docker://{proxy.host}/known:tag")
        assert proxy.count("GET", "manifests") == 1


def test_a_download_is_resumed(registry: Registry, layout: Layout) -> None:
    def rule(asked: Asked) -> Fault | None:
        return Fault(cut=70_000) if "blobs" in asked.path and "range" not in asked.headers else None

    with FaultyRegistry(registry.host, rule) as proxy:
        assert pull(f"docker://{proxy.host}/known:tag") == blobs_of(layout)
        ranges = {asked.headers["range"] for asked in proxy.asked if "range" in asked.headers}
        assert ranges == {"bytes=70000-"}


def test_a_download_is_given_up(registry: Registry) -> None:
    with FaultyRegistry(registry.host, lambda asked: Fault(cut=1000) if "blobs" in asked.path else None) as proxy:
        with pytest.raises(ImageError, match=f"{proxy.host} ended the connection"):
            pull(f"docker://{proxy.host}/known:tag")
        assert proxy.count("GET", "blobs") <= 2 * limits.REGISTRY_ATTEMPTS


def test_a_damaged_manifest(registry: Registry) -> None:
    with (
        FaultyRegistry(registry.host, lambda asked: Fault(damage="manifests" in asked.path)) as proxy,
        pytest.raises(DigestError, match="known:tag: the manifest is damaged"),
    ):
        pull(f"docker://{proxy.host}/known:tag")


@pytest.mark.parametrize("fault", [Fault(cut_upload=200_000), Fault(cut=0), Fault(503)])
def test_an_interrupted_upload_may_be_made_again(fault: Fault, registry: Registry) -> None:
    blob = os.urandom(3_000_000)
    descriptor: Descriptor = {"mediaType": "", "digest": images.digest_of(blob), "size": len(blob)}
    faults = [fault, fault]
    with (
        FaultyRegistry(
            registry.host, lambda asked: faults.pop() if asked.method == "PATCH" and faults else None
        ) as proxy,
        transport.open_target(f"docker://{proxy.host}/interrupted", Options()) as target,
    ):
        with pytest.raises(InterruptedWriteError):
            registries.write(target, blob, descriptor["digest"])
        assert not target.has(descriptor)
        again(lambda: registries.write(target, blob, descriptor["digest"]), Quiet().task("upload", len(blob)))
        assert registries.read(target, descriptor) == blob
    assert not faults


def test_an_upload_is_given_up(registry: Registry) -> None:
    blob = os.urandom(300_000)
    with FaultyRegistry(registry.host, lambda asked: Fault(cut_upload=100 if asked.method == "PATCH" else -1)) as proxy:
        with (
            transport.open_target(f"docker://{proxy.host}/interrupted", Options()) as target,
            pytest.raises(InterruptedWriteError),
        ):
            again(lambda: registries.write(target, blob, images.digest_of(blob)), Quiet().task("upload", len(blob)))
        assert proxy.count("PATCH", "") == limits.REGISTRY_ATTEMPTS


def test_a_lost_reply_to_the_end_of_an_upload(registry: Registry) -> None:
    blob = os.urandom(100_000)
    faults = [Fault(cut=0)]
    with FaultyRegistry(
        registry.host, lambda asked: faults.pop() if asked.method == "PUT" and faults else None
    ) as proxy:
        with transport.open_target(f"docker://{proxy.host}/lost", Options()) as target:
            registries.write(target, blob, images.digest_of(blob))
        assert proxy.count("PUT", "") == 2


def test_a_refusal_in_the_middle_of_an_upload(registry: Registry) -> None:
    with (
        FaultyRegistry(registry.host, lambda asked: Fault(413) if asked.method == "PATCH" else None) as proxy,
        transport.open_target(f"docker://{proxy.host}/large", Options()) as target,
        pytest.raises(ImageError, match=r"it did not accept the whole blob .HTTP 413") as caught,
    ):
        registries.write(target, bytes(300_000), images.digest_of(bytes(300_000)))
    assert not isinstance(caught.value, InterruptedWriteError)


def test_redirects(locked: Registry, layout: Layout, registry: Registry, home: Path) -> None:
    """Blobs that another host has are got from there, without what is for the registry."""
    with FaultyRegistry(registry.host, lambda _: None) as store:

        def rule(asked: Asked) -> Fault | None:
            if asked.headers.get("authorization") != "Basic c29tZW9uZTph":
                return Fault(401, {"WWW-Authenticate": "Basic"})
            return Fault(307, {"Location": f"http://{store.host}{asked.path}"}) if "blobs" in asked.path else None

        with FaultyRegistry(registry.host, rule) as proxy:
            log_in(home, proxy.host, auths={proxy.host: {"username": USER, "password": "a"}})
            assert pull(f"docker://{proxy.host}/known:tag") == blobs_of(layout)
        assert len(store.asked) == 4
        assert not any("authorization" in asked.headers for asked in store.asked)


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("http://registry.example/blob", "refers to registry.example:80 without TLS"),
        ("ftp://localhost/blob", "is not an HTTP URL"),
        ("", "gives no usable Location .HTTP 307."),
        ("?again", "from one place to another, more than 5 times"),
    ],
)
def test_redirects_that_are_not_followed(location: str, message: str, registry: Registry) -> None:
    with FaultyRegistry(
        registry.host, lambda asked: Fault(307, {"Location": location}) if "blobs" in asked.path else None
    ) as proxy:
        with pytest.raises(ImageError, match=message):
            pull(f"docker://{proxy.host}/known:tag")
        assert proxy.count("GET", "blobs") <= 1 + limits.REGISTRY_REDIRECTS


def test_a_challenge_of_another_host_is_not_answered(registry: Registry, home: Path) -> None:
    with FaultyRegistry(registry.host, lambda _: Fault(401, {"WWW-Authenticate": "Basic"})) as store:
        with FaultyRegistry(
            registry.host,
            lambda asked: Fault(307, {"Location": f"http://{store.host}/"}) if "blobs" in asked.path else None,
        ) as proxy:
            log_in(home, "", auths={host: {"username": USER, "password": "a"} for host in (proxy.host, store.host)})
            with pytest.raises(ImageError, match="HTTP 401"):
                pull(f"docker://{proxy.host}/known:tag")
        assert [asked.headers.get("authorization") for asked in store.asked] == [None]


def test_time_limits(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REGISTRY_ATTEMPTS", 1)
    began = time.monotonic()
    with (
        FaultyRegistry(registry.host, lambda asked: Fault(drip=0.05) if "manifests" in asked.path else None) as proxy,
        transport.open_source(f"docker://{proxy.host}/known:tag", Options()) as source,
    ):
        monkeypatch.setattr(registryclient.RegistryClient.send, "__defaults__", (None, None, 0.5))
        with pytest.raises(ImageError, match=f"{proxy.host} did not answer in time"):
            source.root()
    assert time.monotonic() - began < 5


def test_a_body_that_trickles_in(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REGISTRY_IDLE_SECONDS", 0.2)
    with (
        FaultyRegistry(registry.host, lambda asked: Fault(drip=0.05) if "manifests" in asked.path else None) as proxy,
        pytest.raises(ImageError, match=f"{proxy.host} sends less than {limits.REGISTRY_LEAST_RATE} bytes per second"),
    ):
        pull(f"docker://{proxy.host}/known:tag")


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("//localhost/a", "localhost/a:latest"),
        ("//localhost:5000/a/b:1.0_x", "localhost:5000/a/b:1.0_x"),
        ("//[::1]:5000/a", "[::1]:5000/a:latest"),
        ("//image:tag", "docker.io/library/image:tag"),
        ("//someone/image", "docker.io/someone/image:latest"),
        (f"//host.example/a@sha256:{'0' * 64}", f"host.example/a@sha256:{'0' * 64}"),
    ],
)
def test_references(place: str, expected: str) -> None:
    assert str(parse_reference(place)) == expected


@pytest.mark.parametrize(
    "place",
    [
        "localhost/a",
        "//localhost/",
        "//localhost/A",
        "//localhost/a:",
        "//localhost/a:-",
        "//localhost/../a",
        "//user@localhost/a",
        f"//localhost/a:tag@sha256:{'0' * 64}",
        "//localhost/a@sha256:0",
        f"//localhost/{'a' * 600}",
        "//localhost/a\n",
        "//localhost:port/a",
    ],
)
def test_malformed_references(place: str) -> None:
    with pytest.raises(UsageError, match="docker:"):
        parse_reference(place)
    with pytest.raises(UsageError), transport.open_source(f"docker:{place}", Options()):
        pass
