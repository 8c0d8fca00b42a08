"""Logins, credential helpers and tokens of registries."""

from __future__ import annotations

import json
import os
import time
from base64 import b64decode
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.x509 import load_pem_x509_certificate
from jwcrypto import jwk, jwt

from decoder import limits
from decoder.errors import ImageError
from decoder.image.transport import Options
from decoder.registry import auth as registryauth
from decoder.registry.hosts import Origin
from tests.support.network.loopback import Answer, Loopback, Proxy, json_answer
from tests.support.network.loopback import Asked as TokenAsked
from tests.support.registry.faults import Asked, Fault, FaultyRegistry
from tests.support.registry.registries import PASSWORD, USER, Registry, pull, push, serving, skopeo
from tests.support.registry.registry_parts import blobs_of, log_in

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.image.images import Layout

ANYBODY = Options(tls_verify=False)


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
    assert time.monotonic() - began < 20


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
                "refused": f"issues no token for {proxy.host} .HTTP 403.: it refuses the login from",
                "no token": f"issues no token for {proxy.host}",
                "elsewhere": f"{proxy.host} refers to registry.example:80 without TLS",
                "not JSON": "is not a token",
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
