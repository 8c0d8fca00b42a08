"""Where a key broker is, and the files of a guest."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from decoder import limits
from decoder.errors import UsageError
from decoder.provider.errors import ProviderError
from decoder.provider.services.coco.kbs import source as kbs
from tests.support.coco.kbs_parts import KEY, KID, Guest, failure, fetch
from tests.support.coco.kbs_server import KbsServer
from tests.support.network.loopback import Answer, Asked, Authority, Loopback

if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS = 2.0


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
        assert time.monotonic() - began < 7  # and not COCO_SOURCE_SECONDS


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
    assert "the file '/nonexistent' with the CA certificates" in failure(
        server.url, {**guest.options, "kbs-ca": "/nonexistent"}
    )
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
        ({"tee": "snp"}, "only accepts sample"),
        ({"tee": "sample", "kbs-token": "a", "tee-key": "b"}, "excludes"),
        ({"tee": "sample", "aa-url": "http://127.0.0.1"}, "excludes"),
        ({"aa-url": "http://aa.example"}, "aa-url"),
    ],
)
def test_options_that_contradict_each_other(options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        kbs.create("https://kbs.example", options)


def test_a_broker_that_is_busy_with_other_requests(server: KbsServer, guest: Guest) -> None:
    source = kbs.create(server.url, guest.options)
    with (
        source._lock,
        pytest.raises(ProviderError, match=r"^no answer within 0\.05 seconds: it is busy with other req"),
    ):
        source.key(KID, 0.05)
    assert source.key(KID, 60) == KEY
